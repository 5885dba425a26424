"""Function calls in a daemon thread, and coroutines on an event loop in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def in_background(work: Callable[[], Result]) -> Future[Result]:
    """Call `work` in a daemon thread and return the future of its result.

    The threads of an executor would keep an interrupted session from exiting until `work` is done.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  # result() raises it
            future.set_exception(error)

    threading.Thread(target=run, name="resilience-backend-start", daemon=True).start()
    return future


class BackgroundLoop:
    """An event loop in its own thread, for coroutines of a synchronous caller.

    It is a loop of asyncio, even if the tests install another policy.

    Args:
        name: the name of the thread.

    Attributes:
        loop: the event loop.
    """

    def __init__(self, name: str) -> None:
        self.loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    def run(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Run a coroutine function and return its result. An interrupt cancels it."""
        future = self.spawn(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def spawn(self, work: Callable[[], Awaitable[Result]]) -> Future[Result]:
        """Start a coroutine function, and return a future that can cancel it."""

        async def awaited() -> Result:
            return await work()

        return asyncio.run_coroutine_threadsafe(awaited(), self.loop)

    def close(self) -> None:
        """Cancel all tasks, and end the loop and its thread."""
        self.run(_cancel_others)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
