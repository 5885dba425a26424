"""Time: the only file that reads or spends it (the proxy's loop aside, which is a process of its own)."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A monotonic clock in seconds; tests hand in one that never waits."""

    def now(self) -> float:
        """Seconds since an arbitrary start, never going back; on one machine the same for every process."""

    def sleep(self, seconds: float) -> None:
        """Let `seconds` pass."""


class SystemClock:
    """The machine's monotonic clock, which all processes on it share."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


SYSTEM: Clock = SystemClock()
