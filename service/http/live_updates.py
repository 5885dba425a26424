"""Live updates by Socket.IO, at /socket.io/. Clients receive `campaign:progress`, and may request `campaign:state`.

Rules: no client costs another one anything. What waits for a client is bounded, and a client that exceeds the bound is
disconnected. Clients take at most a part of MAX_CONNECTIONS. python-socketio is imported in a thread at the first request, because
its import takes a quarter of a second and 20 MiB. Its own Redis manager is not used: see `ProgressFeed`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from starlette.routing import Mount
from starlette.types import Message, Receive, Scope, Send

from ..errors import Unavailable
from ..health import Lifecycle
from ..jobs.job import CampaignProgress
from ..jobs.progress_feed import ProgressFeed
from ..postgres.campaigns import MAX_ID
from ..shortages import lacking
from .connections import MAX_MESSAGE_BYTES, connection_limit
from .load_shedding import LIVE_UPDATES_PATH
from .problems import Problem

if TYPE_CHECKING:
    from ..settings import ServiceSettings

log = logging.getLogger("service.live_updates")

MAX_SHARE = 0.5  # of MAX_CONNECTIONS, for live updates; requests have the rest
MAX_QUEUED = 200  # packets that wait for one client
PACKET_TYPES = "0123456"  # the first character of a packet of Engine.IO


class ClientQueue(asyncio.Queue[Any]):
    """The packets that wait for one client, its own answers included. None ends the task that sends them.

    Args:
        on_full: called once, with the first packet that finds MAX_QUEUED others before it.
    """

    def __init__(self, on_full: Callable[[ClientQueue], None]) -> None:
        super().__init__()
        self._on_full = on_full
        self._overflowed = False

    def put_nowait(self, packet: Any) -> None:
        """Add a packet, or drop it if the client is too slow."""
        if packet is None or self.qsize() < MAX_QUEUED:
            super().put_nowait(packet)
        elif not self._overflowed:
            self._overflowed = True
            self._on_full(self)


class LiveUpdates:
    """The Socket.IO server of one instance, as an ASGI application.

    Args:
        settings: of the service.
        feed: the changes of all instances.
        lifecycle: announces the end of the service.
        tasks: owns the tasks of python-socketio.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        feed: ProgressFeed,
        lifecycle: Lifecycle,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._body_timeout = settings.body_timeout
        self._max_clients = max(1, int(MAX_SHARE * connection_limit(settings)))
        self._feed = feed
        self._lifecycle = lifecycle
        self._tasks = tasks
        self._attached: Counter[str | None] = Counter()  # requests under way, by session
        self._importing = asyncio.Lock()
        self._server: Any = None

    @property
    def clients(self) -> int:
        """The number of clients, those included that connect just now."""
        return 0 if self._server is None else len(self._server.eio.sockets)

    def routes(self) -> list[Mount]:
        return [Mount(LIVE_UPDATES_PATH.rstrip("/"), app=self)]

    async def run(self) -> None:
        """Disconnect the clients that poll when the service stops, because their requests would delay the end."""
        log.info("Socket.IO initialized")
        await self._lifecycle.stopping.wait()
        for socket in [] if self._server is None else list(self._server.eio.sockets.values()):
            if not socket.upgraded:  # uvicorn closes websockets, with their own code
                await _disconnect(socket)
        await asyncio.Event().wait()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or websocket."""
        if scope["path"] != LIVE_UPDATES_PATH:
            await Problem(404, "There is no such path.")(scope, receive, send)
        elif self._lifecycle.stopping.is_set():
            await Problem(503, "The service ends.", retry_after=1)(scope, receive, send)
        elif (sid := _session_id(scope)) is None and not await self._make_room():
            await Problem(503, "There are too many clients of live updates.", retry_after=5)(scope, receive, send)
        else:
            self._attached[sid] += 1
            try:
                await self._serve(scope, receive, send)
            finally:
                self._attached[sid] -= 1
                if not self._attached[sid]:
                    del self._attached[sid]

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        server = await self._get_server()
        is_websocket, started = scope["type"] == "websocket", False
        body = LimitedBody(receive, self._body_timeout)
        problem: Problem | None = None

        async def tracking_send(message: Message) -> None:
            nonlocal started
            if not body.is_late:  # python-engineio answers 200 nevertheless
                started = True
                await send(message)

        try:
            await server.handle_request(scope, _checked(receive) if is_websocket else body, tracking_send)
        except Exception as error:  # what a client sends makes python-engineio raise many errors
            if lacking(error) is not None:
                raise
            log.debug("a client of live updates failed: %s", type(error).__name__)
            problem = Problem(400, "This is not a request of Socket.IO.")
            if started and is_websocket:
                await send({"type": "websocket.close", "code": 1002})
        if body.is_late:
            problem = Problem(408, "The body took too long.", headers={"Connection": "close"})
        if problem is not None and not started:
            await problem(scope, receive, send)

    async def _make_room(self) -> bool:
        """Return True if there is room for one more client. For it, disconnect the oldest client that has no request under way."""
        if self.clients >= self._max_clients:
            sessions = self._server.eio.sockets.items()
            detached = (sid for sid, socket in sessions if not socket.upgraded and sid not in self._attached)
            await self._end_session(next(detached, ""))
        return self.clients < self._max_clients

    async def _get_server(self) -> Any:
        """Return the server of python-socketio, created at the first call."""
        async with self._importing:
            if self._server is None:
                socketio: Any = await asyncio.to_thread(importlib.import_module, "socketio")
                self._server = self._create_server(socketio)
        return self._server

    def _create_server(self, socketio: Any) -> Any:
        quiet = logging.getLogger("service.live_updates.protocol")
        quiet.setLevel(logging.CRITICAL)  # clients cause all of its errors
        server = socketio.AsyncServer(
            async_mode="asgi",
            async_handlers=False,  # so a client has one request under way
            max_http_buffer_size=MAX_MESSAGE_BYTES,
            http_compression=False,
            logger=quiet,
            engineio_logger=quiet,
        )  # without a list of origins, only pages of the same origin may connect
        server.eio.create_queue = lambda: ClientQueue(self._on_full)
        server.eio.start_background_task = self._start_task
        server.eio.disconnect = self._end_session
        server.on("connect", self._on_connect)
        server.eio.on("disconnect", self._on_session_end)
        server.on("campaign:state", self._on_state)
        return server

    def _start_task(self, target: Callable[..., Awaitable[object]], *args: object) -> asyncio.Task[None]:
        """Start a task of python-engineio. An error of it must not end the task group of the service."""

        async def run() -> None:
            try:
                await target(*args)
            except Exception as error:  # noqa: BLE001
                log.debug("a task of a client failed: %s", type(error).__name__)

        return self._tasks.create_task(run())

    async def _end_session(self, eio_sid: str) -> None:
        """End a session. python-engineio's own method waits for the client, and a request would hang."""
        socket = self._server.eio.sockets.pop(eio_sid, None)
        if socket is not None:
            await _disconnect(socket)

    async def _on_connect(self, sid: str, *_: object) -> None:
        self._feed.follow(self._deliver)

    async def _on_session_end(self, eio_sid: str, reason: str) -> None:
        """End the poll of a client that leaves. python-engineio would leave it waiting. Without clients, follow nothing."""
        await self._server._handle_eio_disconnect(eio_sid, reason)
        sockets = self._server.eio.sockets
        if eio_sid in sockets and reason != self._server.eio.reason.SERVER_DISCONNECT:
            sockets[eio_sid].queue.put_nowait(None)
        if all(socket.closing for socket in sockets.values()):
            self._feed.unfollow()

    async def _on_state(self, sid: str, request: object = None, *_: object) -> dict[str, object]:
        """Answer `campaign:state` {"id"} with the present progress, or with {"error"}."""
        campaign_id = request.get("id") if isinstance(request, dict) else None
        if not isinstance(campaign_id, int) or isinstance(campaign_id, bool) or not 1 <= campaign_id <= MAX_ID:
            return {"error": f"id must be a whole number from 1 to {MAX_ID}"}
        try:
            progress = await self._feed.state(campaign_id)
        except Unavailable as error:
            return {"error": error.detail}
        return {"error": "There is no such campaign."} if progress is None else asdict(progress)

    def _deliver(self, progress: CampaignProgress) -> None:
        """Put an event in the queue of every client."""
        from engineio.packet import MESSAGE, Packet  # type: ignore[import-untyped]

        text = json.dumps(["campaign:progress", asdict(progress)], separators=(",", ":"))
        packet = Packet(MESSAGE, f"2{text}")  # 2 is an event of Socket.IO; encoded once for all clients
        sockets = self._server.eio.sockets
        for _, eio_sid in list(self._server.manager.get_participants("/", None)):
            socket = sockets.get(eio_sid)
            if socket is not None and not socket.closed:
                socket.queue.put_nowait(packet)

    def _on_full(self, queue: ClientQueue) -> None:
        """Disconnect the client of a queue."""
        for socket in self._server.eio.sockets.values():
            if socket.queue is queue:
                self._start_task(_disconnect, socket)


async def _disconnect(socket: Any) -> None:
    """Disconnect a client without waiting for it. What waits in its queue is dropped."""
    with contextlib.suppress(asyncio.QueueEmpty):
        while True:
            socket.queue.get_nowait()
            socket.queue.task_done()
    await socket.close(wait=False)
    socket.queue.put_nowait(None)  # ends the task that writes


def _session_id(scope: Scope) -> str | None:
    """Return the session that a request belongs to. None if it begins one."""
    return next(iter(parse_qs(scope["query_string"].decode("latin-1")).get("sid", ())), None)


class LimitedBody:
    """A `receive` with a time limit for the whole body.

    Attributes:
        is_late: True once the body has taken too long.
    """

    def __init__(self, receive: Receive, seconds: float) -> None:
        self._receive = receive
        self._deadline = asyncio.get_running_loop().time() + seconds
        self.is_late = False

    async def __call__(self) -> Message:
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._receive()
        except TimeoutError:
            self.is_late = True
            raise


def _checked(receive: Receive) -> Receive:
    """Return a `receive` that ends a websocket whose client does not speak Engine.IO."""

    async def checked() -> Message:
        message = await receive()
        if message["type"] == "websocket.receive":
            text = message.get("text")
            if not text or text[0] not in PACKET_TYPES:
                return {"type": "websocket.disconnect", "code": 1002}
        return message

    return checked
