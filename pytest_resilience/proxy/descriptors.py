"""The share of the process's file descriptors that relayed connections may take.

A process without a free descriptor can neither accept a client of the API nor dial an upstream. So relayed connections leave a
reserve, and a client that finds no room waits in the listener's backlog.
"""

from __future__ import annotations

import os
import resource
from errno import EMFILE, ENFILE, ENOBUFS, ENOMEM

NO_RESOURCES = (EMFILE, ENFILE, ENOBUFS, ENOMEM)
"""Errors of accept() that pass when descriptors or memory come free."""

RETRY_DELAY = 0.05
"""Seconds until a listener that had to stop accepting for want of descriptors or memory tries again."""

RESERVE = 256
"""Descriptors that relayed connections leave for the API, listeners and files; a quarter of the limit where that is less."""

PER_CONNECTION = 2
"""A relayed connection has a socket to its client and one to its upstream."""


class DescriptorBudget:
    """A count of the descriptors of relayed connections, and its limit.

    Args:
        limit: the process's limit; None for its present RLIMIT_NOFILE.

    Attributes:
        in_use: descriptors of relayed connections now.
        limit: the number that `in_use` has to stay below for another client to be accepted.
    """

    __slots__ = ("in_use", "limit")

    def __init__(self, limit: int | None = None) -> None:
        self.in_use = 0
        self.limit = 0
        self.measure(limit)

    def measure(self, limit: int | None = None) -> None:
        """Compute the limit again. Called when the kernel refused a descriptor, as another process may have lowered the limit."""
        if limit is None:
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            if limit == resource.RLIM_INFINITY:
                limit = 1 << 30
        self.limit = limit - min(RESERVE, limit // 4)


class SpareDescriptors:
    """A few descriptors that are held in reserve for clients of the API."""

    COUNT = 4

    def __init__(self) -> None:
        self._held: list[int] = []
        self.refill()

    def refill(self) -> None:
        """Open the descriptors that are missing, as far as the limit allows."""
        try:
            while len(self._held) < self.COUNT:
                self._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            return  # the next client that disconnects frees one

    def release_one(self) -> bool:
        """Close one descriptor. Return False if none is held."""
        if not self._held:
            return False
        os.close(self._held.pop())
        return True

    def close(self) -> None:
        """Close all."""
        while self.release_one():
            pass
