"""Work that goes on beside ours, in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class InBackground(Generic[Result]):
    """Work that goes on beside ours."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self._work = work
        self._outcome: Result | BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="resilience-start", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome = self._work()
        except BaseException as problem:  # noqa: BLE001  # handed on by result()
            self._outcome = problem

    def wait(self) -> None:
        """Wait until it is done, well or not."""
        self._thread.join()

    def result(self) -> Result:
        """What came of it, or its error."""
        self.wait()
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome  # type: ignore[return-value]  # not None once it ran
