"""The state of Postgres, shared by the monitor that sets it and the parts that depend on it."""

from __future__ import annotations

import asyncio

STATES = ("up", "down", "no table", "wrong columns", "no rights", "read-only", "no ids left")


class PostgresStatus:
    """The latest state of Postgres.

    Attributes:
        up: True if Postgres answers.
        state: one of STATES, that is "up", "down", or the reason why Postgres answers and still cannot serve.
        wake: set to request a check before the next interval ends.
    """

    def __init__(self) -> None:
        self.up = False
        self.state = "down"
        self.wake = asyncio.Event()
        self._statement_error: BaseException | None = None

    def check_now(self, error: BaseException) -> None:
        """Request a check, because a statement failed with `error`."""
        self._statement_error = error
        self.wake.set()

    def take_statement_error(self) -> BaseException | None:
        """Return the error of the last `check_now` and forget it. None if no statement failed since the last call."""
        error, self._statement_error = self._statement_error, None
        return error
