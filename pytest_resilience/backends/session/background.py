"""Work that goes on beside ours, in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

Result = TypeVar("Result")


class InBackground(Generic[Result]):
    """Work that goes on beside ours."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self._work = work
        self._outcome: Result | BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="resilience-start", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome = self._work()
        except BaseException as problem:  # noqa: BLE001  # handed on by result()
            self._outcome = problem

    def wait(self) -> None:
        """Wait until it is done, well or not."""
        self._thread.join()

    def result(self) -> Result:
        """What came of it, or its error."""
        self.wait()
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome  # type: ignore[return-value]  # not None once it ran


class BackgroundLoop:
    """An event loop in a thread of its own, for coroutines of a synchronous caller.

    The loop is asyncio's own, whatever loop the tests install.

    Args:
        name: of the thread.

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
        """Run a coroutine function and return its result; an interrupt cancels it."""
        future = self.spawn(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def spawn(self, work: Callable[[], Awaitable[Result]]) -> Future[Result]:
        """Start a coroutine function; the future cancels it."""

        async def awaited() -> Result:
            return await work()

        return asyncio.run_coroutine_threadsafe(awaited(), self.loop)

    def close(self) -> None:
        """Cancel what still runs, and end the loop and its thread."""
        self.run(_cancel_others)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
