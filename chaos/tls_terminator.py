"""A TLS terminator in front of a plain-text server, like that of a hosted Redis."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager

CHUNK = 1 << 16


@contextmanager
def tls_terminator(target: tuple[str, int], context: ssl.SSLContext) -> Iterator[int]:
    """Accept TLS connections, relay their plain text to `target`, and yield the port to connect to.

    Args:
        target: host and port of the plain-text server.
        context: the server's TLS context, with its certificate.
    """
    ready: list[int] = []
    started = threading.Event()
    stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        end = asyncio.Event()
        stop.append((asyncio.get_running_loop(), end))
        server = await asyncio.start_server(
            lambda reader, writer: _relay(reader, writer, target), "127.0.0.1", 0, ssl=context
        )
        ready.append(server.sockets[0].getsockname()[1])
        started.set()
        await end.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="tls-terminator")
    thread.start()
    started.wait()
    try:
        yield ready[0]
    finally:
        loop, end = stop[0]
        loop.call_soon_threadsafe(end.set)
        thread.join()


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: tuple[str, int]) -> None:
    """Copy both directions of one connection until either ends."""
    with contextlib.suppress(OSError, asyncio.CancelledError):
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(*target)
        except OSError:
            writer.transport.abort()
            return
        copies = [
            asyncio.ensure_future(_copy(reader, upstream_writer)),
            asyncio.ensure_future(_copy(upstream_reader, writer)),
        ]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in copies:
                each.cancel()
            writer.transport.abort()
            upstream_writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one direction until it ends."""
    with contextlib.suppress(OSError):
        while chunk := await reader.read(CHUNK):
            writer.write(chunk)
            await writer.drain()
