"""The program `python -m service`, from the settings to the exit status."""

from __future__ import annotations

import gc

if __name__ == "__main__":
    gc.disable()  # Imported modules live on, so collections would only slow the start. GarbageCollector.start enables them.

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import uvicorn

from . import logging_setup
from .errors import SettingsError
from .http.connections import (
    ACCEPT_BATCH,
    MAX_HEAD_BYTES,
    MAX_MESSAGE_BYTES,
    HttpConnections,
    connection_limit,
)
from .memory import malloc
from .settings import ServiceSettings

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from .health import Lifecycle

log = logging.getLogger("service")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
BACKLOG = 2048  # connections that the kernel may queue
# Seconds until connections are accepted again after an accept without a free descriptor. The default of asyncio is 1.
ACCEPT_RETRY_DELAY = 0.1
MAX_CLOSE_SECONDS = 2.0  # seconds of SHUTDOWN_GRACE, at most, to close connections after the drain
DRAIN_NOTICE = 2.0  # seconds, at most, for which /readyz reports the drain of an idle service
STOP_MARGIN = 5.0  # seconds after SHUTDOWN_GRACE at which a process ends that has not stopped by itself
EXIT_START_FAILED = 3
EXIT_NOT_STOPPED = 4


def main() -> int:
    """Serve until SIGTERM or SIGINT. Return the exit status, 0 after a complete drain."""
    try:
        settings = ServiceSettings.from_environment()
        max_connections = connection_limit(settings)
        listener = _bind_socket(settings)
    except SettingsError as error:
        sys.stderr.write(logging_setup.format_start_error(os.environ.get("LOG_FORMAT", "").strip(), str(error)) + "\n")
        return EXIT_START_FAILED
    logging_setup.configure(settings.log_format, settings.secrets())
    malloc.tune_malloc()
    return asyncio.run(_serve(settings, listener, max_connections))


def _bind_socket(settings: ServiceSettings) -> socket.socket:
    """Return the socket to listen on. It is bound before the slow part of the start, to report a port in use at once."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, ValueError) as error:  # ValueError for an impossible name such as ".."
        where = f"an address that is free to listen on; {settings.host}:{settings.port} is not"
        raise SettingsError("HOST and PORT", f"{where} ({getattr(error, 'strerror', None) or 'not a name'})") from None
    return listener


async def _serve(settings: ServiceSettings, listener: socket.socket, max_connections: int) -> int:
    # Imported late, so that a wrong setting is reported at once.
    from .app import create_app
    from .postgres.connection import asyncpg_failed

    app = create_app(settings)
    connections = HttpConnections(
        header_timeout=settings.header_timeout,
        max_connections=max_connections,
        load_websockets=_load_websockets,
        requests=app.state.requests,
        shortages=app.state.shortages,
    )
    server = _Server(_uvicorn_config(app, settings, connections), settings.host, listener, connections)
    asyncio.get_running_loop().set_exception_handler(partial(_on_loop_exception, connections, asyncpg_failed))
    asyncio.constants.ACCEPT_RETRY_DELAY = ACCEPT_RETRY_DELAY  # type: ignore[attr-defined]
    shutdown = _Shutdown(server, app.state.lifecycle, settings.shutdown_grace)
    shutdown.handle_signals()

    async with asyncio.TaskGroup() as tasks:
        draining = tasks.create_task(shutdown.drain())
        try:
            await server.serve(sockets=[listener])
        except OSError as error:  # another process began to listen on the address first
            port_taken = SettingsError("HOST and PORT", f"an address that is free to listen on ({error.strerror})")
            sys.stderr.write(logging_setup.format_start_error(settings.log_format, str(port_taken)) + "\n")
            return EXIT_START_FAILED
        finally:
            draining.cancel()
    log.info("stopped")
    return 0


def _load_websockets() -> Callable[..., asyncio.Protocol]:
    """Return the class of websockets. wsproto is imported at the first one, because a start does not need it."""
    from .http.websockets import WebSocketConnection

    return WebSocketConnection


def _uvicorn_config(app: Starlette, settings: ServiceSettings, connections: HttpConnections) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=connections.protocol(),
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        backlog=ACCEPT_BATCH,  # asyncio accepts this many in one step; _Server sets the backlog of the listener
        ws="none",  # HttpConnection upgrades to its own websockets
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_ping_interval=None,  # Engine.IO has pings
        ws_per_message_deflate=False,  # the memory of a compressor for each client is more than it saves
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # the address of the socket decides about the cleanup
        server_header=False,
        timeout_graceful_shutdown=max(1, int(settings.shutdown_grace)),
    )


class _Server(uvicorn.Server):
    """A uvicorn server on a bound socket, which leaves signals to `_Shutdown`."""

    def __init__(
        self, config: uvicorn.Config, host: str, listener: socket.socket, connections: HttpConnections
    ) -> None:
        super().__init__(config)
        self._host = host
        self._listener = listener
        self._connections = connections

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, listen, and log the address."""
        await super().startup(sockets)
        self._listener.listen(BACKLOG)
        port = self._listener.getsockname()[1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        log.info("Server LISTENING on http://%s:%d", host, port)

    async def on_tick(self, counter: int) -> bool:
        """Close connections that are past their deadline. uvicorn calls this ten times a second."""
        self._connections.sweep()
        return await super().on_tick(counter)


class _Shutdown:
    """The drain that SIGTERM or SIGINT begins. A second signal ends the process at once.

    Args:
        server: stopped at the end of the drain.
        lifecycle: counts the requests under way, and reports the drain in /readyz.
        grace: seconds from the signal to the end of the process.
    """

    def __init__(self, server: uvicorn.Server, lifecycle: Lifecycle, grace: float) -> None:
        self._server = server
        self._lifecycle = lifecycle
        self._grace = grace
        self._requested = asyncio.Event()

    def handle_signals(self) -> None:
        """Begin the drain at the next SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        for each in STOP_SIGNALS:
            loop.add_signal_handler(each, self._on_signal)

    def _on_signal(self) -> None:
        loop = asyncio.get_running_loop()
        for each in STOP_SIGNALS:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)  # a second one ends the process at once
        self._lifecycle.draining = True
        self._requested.set()
        watchdog = threading.Timer(self._grace + STOP_MARGIN, _end_process, [loop])
        watchdog.daemon = True
        with contextlib.suppress(RuntimeError):  # there is no memory for a thread
            watchdog.start()

    async def drain(self) -> None:
        """Wait for a signal, then for the requests under way, and stop the server."""
        await self._requested.wait()
        close_seconds = min(MAX_CLOSE_SECONDS, self._grace / 4)
        deadline = time.monotonic() + self._grace - close_seconds
        log.info("draining")
        # Connections are accepted, and /readyz reports "draining", until the requests under way have ended, and at least until
        # a load balancer has polled /readyz. Until then the balancer still sends clients.
        await asyncio.gather(
            self._lifecycle.wait_until_idle(within=0.9 * (self._grace - close_seconds)),
            asyncio.sleep(min(DRAIN_NOTICE, self._grace / 4)),
        )
        remaining = max(0.05, deadline - time.monotonic())
        self._server.config.timeout_graceful_shutdown = remaining  # type: ignore[assignment]  # uvicorn only passes it to a wait
        self._lifecycle.stopping.set()
        self._server.should_exit = True


def _end_process(loop: asyncio.AbstractEventLoop) -> None:
    """End a process that has not stopped within SHUTDOWN_GRACE. Log the tasks that it waits for."""
    waiting = sorted({getattr(task.get_coro(), "__qualname__", task.get_name()) for task in asyncio.all_tasks(loop)})
    log.critical("the service has not stopped within SHUTDOWN_GRACE and ends now; it waits for: %s", ", ".join(waiting))
    os._exit(EXIT_NOT_STOPPED)


def _on_loop_exception(
    connections: HttpConnections,
    asyncpg_failed: Callable[[dict[str, Any]], bool],
    loop: asyncio.AbstractEventLoop,
    context: dict[str, Any],
) -> None:
    if context.get("message") == "socket.accept() out of system resource":
        connections.on_descriptors_exhausted()
    elif asyncpg_failed(context):
        log.warning(
            "A connection of Postgres is lost: asyncpg cannot read what the server has sent (%s)",
            context.get("exception"),
        )
    else:
        loop.default_exception_handler(context)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code) if code == 0 else sys.exit(code)
