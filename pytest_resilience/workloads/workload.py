"""The workloads of clients, which run while faults strike a system."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol

from ..history import Client


class Workload(Protocol):
    """The operations of clients.

    A test measures the baseline once for all workloads of one class with equal kinds and an equal `name`. That attribute is
    optional. It says what a workload works on, if that differs among objects of the class.
    """

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of operation, such as ("create", "read", "update").

        The liveness phase performs them in this order, and demands that each of them succeeds. A class attribute will do.
        """

    def begin(self, resilience: Any) -> Awaitable[None] | None:
        """Prepare for a play, on a clean system and a freshly started service. Forget what earlier plays have made."""

    def kind(self, n: int) -> str:
        """Return the kind of operation `n` of an episode. Equal for equal `n`, so that a schedule replays."""

    def perform(self, client: Client, kind: str, n: int) -> Awaitable[None] | None:
        """Perform and record one operation: `client.invoke(...)`, then `ok`, `fail` or `info` of what it returned.

        A coroutine function makes the workload asynchronous: the clients are tasks instead of threads. The operation has to end
        within a few seconds whatever happens, so it needs a timeout: an operation that runs for 30 s without a fault is a broken
        promise. Several clients call this concurrently.

        Args:
            client: the client that records the operation.
            kind: the kind of the operation.
            n: its number in the episode, from 0 on, from which its key and its value follow.
        """

    def read_all(self, client: Client) -> Awaitable[None] | None:
        """Read everything that operations have written, and record the reads, so that checkers see what was lost.

        The runner calls this at the end of an episode whose system has recovered, while no other client works.
        """

    def end(self) -> Awaitable[None] | None:
        """Release what `begin` has taken. A coroutine has to end within 30 s."""
