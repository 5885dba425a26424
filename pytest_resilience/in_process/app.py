"""ASGI and WSGI apps in the test process, with an httpx client and with clients that go away."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

import httpx

from ..errors import SetupError
from ..unused import must_be_awaited

BASE_URL = "http://app.test"
REQUEST_TIMEOUT = 10.0  # seconds, as for a service
END_TIMEOUT = 5.0  # seconds
MODES = ("cancel", "disconnect")

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Asgi: TypeAlias = Callable[[Any, Any, Any], Awaitable[Any]]
Wsgi: TypeAlias = Callable[[Any, Any], Iterable[bytes]]
ClientGone: TypeAlias = Literal["cancel", "disconnect"]


class WsgiApp:
    """A WSGI app in the test process.

    Attributes:
        client: an httpx.Client whose requests call the app in the calling thread.
    """

    def __init__(self, app: Wsgi) -> None:
        self.client = httpx.Client(transport=httpx.WSGITransport(app), base_url=BASE_URL, timeout=REQUEST_TIMEOUT)
        self.get, self.post, self.put = self.client.get, self.client.post, self.client.put
        self.patch, self.delete, self.request = self.client.patch, self.client.delete, self.client.request

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()


class AsgiApp:
    """An ASGI app in the test process. Its block runs the startup and the shutdown of the app (ASGI lifespan).

    A client goes away when its request is cancelled, as `cancel` and `cancel_everywhere` do.

    Attributes:
        client: an httpx.AsyncClient whose requests run the app in the event loop of the caller.

    Args:
        app: the app.
        client_gone: the effect on the app of a client that goes away: "cancel" or "disconnect".
    """

    def __init__(self, app: Asgi, *, client_gone: ClientGone = "cancel") -> None:
        if client_gone not in MODES:
            raise SetupError(f"client_gone must be one of {', '.join(MODES)}, got {client_gone!r}")
        self._app = app
        self._abandoned: set[asyncio.Future[Any]] = set()
        self._lifespan = _Lifespan(app)
        served: Any = app if client_gone == "cancel" else self._run_detached
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(served), base_url=BASE_URL, timeout=REQUEST_TIMEOUT
        )
        self.get, self.post, self.put = self.client.get, self.client.post, self.client.put
        self.patch, self.delete, self.request = self.client.patch, self.client.delete, self.client.request

    async def _run_detached(self, scope: Message, receive: Receive, send: Send) -> None:
        """Run the app in a task that a cancelled request does not end. The app receives http.disconnect then."""
        gone = asyncio.Event()

        async def receive_or_disconnect() -> Message:
            if gone.is_set():
                return {"type": "http.disconnect"}
            leaving = asyncio.ensure_future(gone.wait())
            receiving = asyncio.ensure_future(receive())
            try:
                await asyncio.wait({leaving, receiving}, return_when=asyncio.FIRST_COMPLETED)
                return receiving.result() if receiving.done() else {"type": "http.disconnect"}
            finally:
                leaving.cancel()
                receiving.cancel()

        async def send_to_client(message: Message) -> None:
            if not gone.is_set():  # servers ignore what is sent later
                await send(message)

        task = asyncio.ensure_future(self._app(scope, receive_or_disconnect, send_to_client))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            gone.set()
            if not task.done():
                self._abandoned.add(task)
                task.add_done_callback(self._abandoned.discard)
            raise

    @must_be_awaited
    async def ended(self, within: float = END_TIMEOUT) -> None:
        """Wait until the app has ended its work for clients that have gone away.

        Args:
            within: the maximum seconds.

        Raises:
            AssertionError: it still works. The work is cancelled.
        """
        if not self._abandoned:
            return
        _, pending = await asyncio.wait(set(self._abandoned), timeout=within)
        for task in pending:
            task.cancel()
        if pending:
            raise AssertionError(
                f"the app still works for {len(pending)} clients that have gone away, {within:g} s later"
            )

    async def __aenter__(self) -> Self:
        await self._lifespan.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self.ended()
        finally:
            await self.client.aclose()
            await self._lifespan.stop()


class _Lifespan:
    """The startup and shutdown of an ASGI app, in a task of its own. An app without them raises at the scope (ASGI lifespan 2.0)."""

    def __init__(self, app: Asgi) -> None:
        self._app = app
        self._task: asyncio.Future[Any] | None = None
        self._stopping = asyncio.Event()
        self._answered: asyncio.Future[str | None] | None = None
        self._started = False

    async def start(self) -> None:
        """Run the startup.

        Raises:
            SetupError: the app reports that it failed.
        """
        self._task = asyncio.ensure_future(self._run())
        failure = await self._answer()
        if failure is not None:
            await asyncio.wait({self._task}, timeout=END_TIMEOUT)
        if failure is not None or self._error() is not None:
            raise SetupError(f"the startup of the app failed: {failure or repr(self._error())}") from self._error()

    async def stop(self) -> None:
        """Run the shutdown."""
        task = self._task
        if task is None or task.done():
            return
        self._stopping.set()
        failure = await self._answer()
        await asyncio.wait({task}, timeout=END_TIMEOUT)
        task.cancel()
        if failure is not None:
            raise SetupError(f"the shutdown of the app failed: {failure}") from self._error()

    async def _answer(self) -> str | None:
        """Wait for the app's next message, or for its end. Return the message of a failure, or None."""
        assert self._task is not None, "start() has made it"
        self._answered = asyncio.get_running_loop().create_future()
        await asyncio.wait({self._answered, self._task}, return_when=asyncio.FIRST_COMPLETED)
        return self._answered.result() if self._answered.done() else None

    def _error(self) -> BaseException | None:
        done = self._task is not None and self._task.done() and not self._task.cancelled()
        return self._task.exception() if done and self._task is not None else None

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
        try:
            await self._app(scope, self._receive, self._send)
        except Exception:
            if self._started:
                raise

    async def _receive(self) -> Message:
        if not self._started:
            self._started = True
            return {"type": "lifespan.startup"}
        await self._stopping.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        assert self._answered is not None, "set before the app runs"
        if not self._answered.done():
            failed = message["type"].endswith(".failed")
            self._answered.set_result(message.get("message") or "without a reason" if failed else None)


def is_asgi(app: object) -> bool:
    """True if an app takes the three arguments of ASGI.

    Raises:
        SetupError: it takes neither three nor two arguments.
    """
    if callable(app):
        parameters = inspect.signature(app).parameters.values()
        required = [
            each
            for each in parameters
            if each.default is each.empty and each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
        ]
        variadic = any(each.kind is each.VAR_POSITIONAL for each in parameters)
        if inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(getattr(app, "__call__", None)):  # noqa: B004
            return True
        if len(required) in (2, 3) or variadic:
            return len(required) == 3
    raise SetupError(
        f"an ASGI app takes scope, receive and send, and a WSGI app environ and start_response; got {app!r}"
    )
