"""Time and waiting. Only separate processes (the proxy, the supervisor) read or spend time elsewhere."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

Value = TypeVar("Value")


class Clock(Protocol):
    """A monotonic clock in seconds. Tests use one that never waits."""

    def now(self) -> float:
        """Return the seconds since an arbitrary start, which never go back and are equal in all processes of a machine."""

    def sleep(self, seconds: float) -> None:
        """Let `seconds` pass."""


class SystemClock:
    """The machine's monotonic clock, which all its processes share.

    A test may replace the functions of the module `time`, as freezegun and mocks do. The clock goes on.
    """

    now = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)


SYSTEM: Clock = SystemClock()


def thread_seconds() -> float:
    """Return the seconds of CPU time that the calling thread has used."""
    return time.thread_time()


def wait_until(condition: Callable[[], Value], *, within: float, every: float, clock: Clock = SYSTEM) -> Value:
    """Call `condition` until it returns a true value or the time is over.

    Args:
        condition: called at least once, and for the last time when the time is over.
        within: seconds to wait at most.
        every: seconds between two calls.
        clock: the clock to wait with.

    Returns:
        The last value of `condition`, which is false if the time is over.
    """
    deadline = clock.now() + within
    while not (value := condition()) and clock.now() < deadline:
        clock.sleep(every)
    return value


async def wait_until_async(
    condition: Callable[[], Awaitable[Value]], *, within: float, every: float, clock: Clock = SYSTEM
) -> Value:
    """Await `condition` until it returns a true value or the time is over, as `wait_until` does.

    Args:
        condition: a coroutine function without arguments.
        within: seconds to wait at most. A call of `condition` is not interrupted.
        every: seconds between two calls.
        clock: the clock that the deadline is read from.

    Returns:
        The last value of `condition`, which is false if the time is over.
    """
    import asyncio  # most importers of this module don't wait in an event loop

    deadline = clock.now() + within
    while not (value := await condition()) and clock.now() < deadline:  # noqa: ASYNC110  # nothing signals the condition
        await asyncio.sleep(every)
    return value
