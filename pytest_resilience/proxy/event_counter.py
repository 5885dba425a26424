"""A counter of events with the times of the first and the last one."""

from __future__ import annotations

from typing import Any


class EventCounter:
    """The number of events, and when the first and the last one happened.

    Attributes:
        first, last: seconds of the monotonic clock; None before the first event.
    """

    __slots__ = ("count", "first", "last")

    def __init__(self) -> None:
        self.count = 0
        self.first: float | None = None
        self.last: float | None = None

    def add(self, now: float, count: int = 1) -> None:
        """Count events that happened at `now`."""
        self.count += count
        self.last = now
        if self.first is None:
            self.first = now

    def to_json(self) -> dict[str, Any]:
        """Return the counter as the API shows it."""
        return {"count": self.count, "first": self.first, "last": self.last}
