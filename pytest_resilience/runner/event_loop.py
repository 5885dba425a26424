"""An event loop in a thread of its own, for asynchronous workloads of synchronous tests."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loop_in_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """Run an event loop in a new thread. At the end, remaining tasks are cancelled, and the loop is closed."""
    started: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
    is_started = threading.Event()

    async def wait_for_end() -> None:
        over = asyncio.Event()
        started.append((asyncio.get_running_loop(), over))
        is_started.set()
        await over.wait()

    context = contextvars.copy_context()
    thread = threading.Thread(
        target=context.run, args=(asyncio.run, wait_for_end()), name="resilience-loop", daemon=True
    )
    thread.start()
    is_started.wait()
    loop, over = started[0]
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
