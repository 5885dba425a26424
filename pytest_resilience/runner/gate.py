"""The gate through which each operation of an episode begins."""

from __future__ import annotations

import threading

from .striker import Striker

POLL_INTERVAL = 0.005  # seconds between two readings of the times at which steps strike, which heals change


class Gate:
    """The numbers of an episode's operations. Each is given out once, after everything that is due before it has been done.

    Args:
        striker: strikes and heals.
        operations: how many operations there are.
        spread: seconds over which their beginnings are spread; 0 for no pause.
    """

    def __init__(self, striker: Striker, operations: int, spread: float) -> None:
        self._striker = striker
        self._operations = operations
        self._spread = spread
        self._next = 0
        self._taking = threading.Lock()
        self._closed = threading.Event()

    @property
    def closed(self) -> bool:
        """True if no operation begins any more."""
        return self._closed.is_set()

    def close(self) -> None:
        """Let no operation begin any more."""
        self._closed.set()

    def take(self) -> int | None:
        """Return the number of the operation that the calling thread has to begin now, or None if there is none left.

        Everything that is due before the operation has struck and healed on return. The last operation also waits for the steps
        whose time is known and has not come, because they would strike nothing after it.
        """
        with self._taking:
            if self._next >= self._operations or self._closed.wait(self._pause()):
                return None
            if self._next == self._operations - 1:
                self._wait_for_steps()
            number = self._next
            self._striker.advance(number)
            self._next += 1
            return None if self.closed else number

    def _wait_for_steps(self) -> None:
        while (seconds := self._striker.seconds_to_last_strike()) > 0 and not self._closed.wait(
            min(seconds, POLL_INTERVAL)
        ):
            pass

    def _pause(self) -> float:
        """Return the seconds until the next operation may begin."""
        if not self._spread:
            return 0.0
        begins = self._spread * self._next / max(1, self._operations - 1)
        return max(0.0, begins - self._striker.seconds)
