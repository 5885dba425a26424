"""A clock for tests that wait without spending time."""

from __future__ import annotations


class FakeClock:
    """A clock on which only `sleep` lets time pass.

    Args:
        time: what `now` returns at first, in seconds.

    Attributes:
        time: what `now` returns.
        sleeps: the arguments of all calls of `sleep`.
    """

    def __init__(self, time: float = 100.0) -> None:
        self.time = time
        self.sleeps: list[float] = []

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.time += seconds
