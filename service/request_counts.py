"""Counts and times of the HTTP requests, as plain numbers. Counting takes no lock and imports nothing."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # upper bounds in seconds, inclusive
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")  # any other is counted as OTHER
OTHER = "other"
UNMATCHED = "unmatched"  # the route of every path that the service does not have


@dataclass(frozen=True, slots=True)
class RequestKind:
    """The labels of a request. Their values are a fixed set, whatever clients send.

    Args:
        method: of HTTP, or "other".
        route: template of the path, or "unmatched".
        status: class of the response, such as "5xx".
    """

    method: str
    route: str
    status: str


@dataclass(slots=True)
class RequestTimes:
    """The times of the requests of one kind.

    Attributes:
        seconds: of all requests together.
        buckets: requests by the first bucket that holds them. The last one holds all that took longer.
    """

    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))

    @property
    def count(self) -> int:
        """The number of requests."""
        return sum(self.buckets)


class RequestCounts:
    """The requests so far, by kind."""

    def __init__(self) -> None:
        self.by_kind: dict[RequestKind, RequestTimes] = {}

    def add(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """Count one request.

        Args:
            method: as the client sent it.
            route: template of the path, or None if the service has no such path.
            status: of the response.
            seconds: until the response was sent.
        """
        kind = RequestKind(method if method in METHODS else OTHER, route or UNMATCHED, f"{status // 100}xx")
        times = self.by_kind.setdefault(kind, RequestTimes())
        times.seconds += seconds
        times.buckets[bisect_left(BUCKETS, seconds)] += 1
