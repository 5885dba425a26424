"""python -m service: read the settings, listen, serve, drain, stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from . import logging_setup, memory
from .errors import SettingsError
from .http_connections import ACCEPT_BATCH, MAX_HEAD_BYTES, HttpConnections, connection_limit
from .settings import ServiceSettings

BACKLOG = 2048  # connections that the kernel may hold for us
# Seconds until connections are accepted again after there was no descriptor for one; asyncio waits for 1.
ACCEPT_RETRY_DELAY = 0.1
MAX_CLOSE_SECONDS = 2.0  # seconds of SHUTDOWN_GRACE, at most, for closing what is left when requests have had the rest
DRAIN_NOTICE = 2.0  # seconds, at most, in which a service that is told to stop while idle is seen to be unready
EXIT_START_FAILED = 3


def main() -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit status: 0 after a drain in order."""
    try:
        settings = ServiceSettings.from_environment()
        max_connections = connection_limit(settings)
        listener = _bind_socket(settings)
    except SettingsError as error:
        sys.stderr.write(logging_setup.format_start_error(os.environ.get("LOG_FORMAT", "").strip(), str(error)) + "\n")
        return EXIT_START_FAILED
    logging_setup.configure(settings.log_format, settings.secrets())
    memory.tune_malloc()
    return asyncio.run(_serve(settings, listener, max_connections))


def _bind_socket(settings: ServiceSettings) -> socket.socket:
    """The socket to listen on, bound before the slow part of the start, so that a taken port is told at once."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, ValueError) as error:  # ValueError: a name that cannot be one, such as ".."
        where = f"an address that is free to listen on; {settings.host}:{settings.port} is not"
        raise SettingsError("HOST and PORT", f"{where} ({getattr(error, 'strerror', None) or 'not a name'})") from None
    return listener


async def _serve(settings: ServiceSettings, listener: socket.socket, max_connections: int) -> int:
    import uvicorn

    from .app import create_app

    app = create_app(settings)
    connections = HttpConnections(header_timeout=settings.header_timeout, max_connections=max_connections)

    class Server(uvicorn.Server):
        """Leaves signals to us, and says when it is listening."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            listener.listen(BACKLOG)
            port = listener.getsockname()[1]
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            logging.getLogger("service").info("Server LISTENING on http://%s:%d", host, port)

        async def on_tick(self, counter: int) -> bool:
            """Ten times a second."""
            connections.sweep()
            return await super().on_tick(counter)

    server = Server(
        uvicorn.Config(
            app,
            http=connections.protocol(),
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            backlog=ACCEPT_BATCH,  # asyncio accepts as many in one go; the listener's own backlog is set below
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # the peer's address decides who may clean up
            server_header=False,
            timeout_graceful_shutdown=max(1, int(settings.shutdown_grace)),
        )
    )
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(partial(_on_loop_exception, connections))
    asyncio.constants.ACCEPT_RETRY_DELAY = ACCEPT_RETRY_DELAY  # type: ignore[attr-defined]
    stop = asyncio.Event()

    def on_signal() -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)  # a second one ends the process at once
        app.state.lifecycle.draining = True
        stop.set()

    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, on_signal)

    async def drain() -> None:
        await stop.wait()
        close_seconds = min(MAX_CLOSE_SECONDS, settings.shutdown_grace / 4)
        deadline = time.monotonic() + settings.shutdown_grace - close_seconds
        logging.getLogger("service").info("draining")
        # Connections are accepted, and /readyz says "draining", for as long as requests are under way, and at least for so long
        # that a balancer has asked: a client that is refused before would be one that the balancer has just sent.
        await asyncio.gather(
            app.state.lifecycle.wait_until_idle(within=0.9 * (settings.shutdown_grace - close_seconds)),
            asyncio.sleep(min(DRAIN_NOTICE, settings.shutdown_grace / 4)),
        )
        remaining = max(0.05, deadline - time.monotonic())
        server.config.timeout_graceful_shutdown = remaining  # type: ignore[assignment]  # uvicorn only waits for it
        server.should_exit = True

    async with asyncio.TaskGroup() as tasks:
        draining = tasks.create_task(drain())
        try:
            await server.serve(sockets=[listener])
        except OSError as error:  # bound, but somebody else began to listen there first
            port_taken = SettingsError("HOST and PORT", f"an address that is free to listen on ({error.strerror})")
            sys.stderr.write(logging_setup.format_start_error(settings.log_format, str(port_taken)) + "\n")
            return EXIT_START_FAILED
        finally:
            draining.cancel()
    logging.getLogger("service").info("stopped")
    return 0


def _on_loop_exception(connections: HttpConnections, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if context.get("message") == "socket.accept() out of system resource":
        connections.on_descriptors_exhausted()
    else:
        loop.default_exception_handler(context)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code) if code == 0 else sys.exit(code)
