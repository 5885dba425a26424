"""The slots of the pool. Requests get them first come first served, and workers get what requests leave.

Rules: a slot is handed over, so a waiter cannot lose it to a newcomer. A worker gets no slot while a request waits, and
never the last free one. A pool of a single slot has no other, so there workers and requests take turns.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

Waiters = deque[asyncio.Future[None]]


class ConnectionSlots:
    """The slots of one pool.

    Args:
        size: number of slots.
        worker_limit: slots that workers may hold at the same time.
    """

    def __init__(self, size: int, worker_limit: int) -> None:
        self._free = size
        self._free_for_workers = worker_limit
        self._reserved = min(1, size - 1)
        self._requests: Waiters = deque()
        self._workers: Waiters = deque()

    def locked(self) -> bool:
        """Return True if a request would have to wait."""
        return self._free == 0 or bool(self._requests)

    async def acquire(self, *, worker: bool = False) -> None:
        """Wait for a slot. The caller bounds the wait and releases the slot."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._workers if worker else self._requests
        waiters.append(waiter)
        self._hand_over()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                with contextlib.suppress(ValueError):  # removed already
                    waiters.remove(waiter)
                self._hand_over()
            else:
                self.release(worker=worker)  # the slot came together with the cancellation
            raise

    def release(self, *, worker: bool = False) -> None:
        """Give a slot back."""
        self._free += 1
        self._free_for_workers += worker
        self._hand_over()

    def _hand_over(self) -> None:
        """Give free slots to waiters."""
        while self._requests and self._free > 0:
            self._give(self._requests)
        while self._workers and not self._requests and self._free > self._reserved and self._free_for_workers > 0:
            self._free_for_workers -= self._give(self._workers)

    def _give(self, waiters: Waiters) -> bool:
        """Give a slot to the first waiter. Return False if its task was cancelled, so that it needs none."""
        waiter = waiters.popleft()
        if waiter.done():
            return False
        self._free -= 1
        waiter.set_result(None)
        return True
