"""A fault that a thread strikes when an event has come, while the test goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .fault import Fault, Receipt, Strike


@dataclass(frozen=True)
class Event:
    """An event at which a fault strikes.

    Args:
        has_come: returns True once the event has come. It is called in the thread.
        end: called when nothing waits for the event any more, after the strike if there was one.
        missing: returns the note of a receipt as long as the event has not come.
        every: seconds between two calls of `has_come`.
        explain: returns the error of the heal for an error in the thread.
    """

    has_come: Callable[[], bool]
    end: Callable[[], None]
    missing: Callable[[], str]
    every: float
    explain: Callable[[Exception], Exception] = lambda error: error


class Armed:
    """A fault that waits for its event.

    Args:
        fault: the fault of the strike.
        inner: the fault that strikes when the event has come.
        target: the target of both.
        event: the event.
        label: the label of the strike.

    Attributes:
        strike: the strike, which is registered. It affected nothing as long as the event has not come.
    """

    def __init__(self, fault: Fault, inner: Fault, target: Any, event: Event, label: str) -> None:
        self._inner = inner
        self._target = target
        self._event = event
        self._over = threading.Event()
        self._struck: Strike | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="resilience-armed", daemon=True)
        self.strike: Strike = target.register(
            Strike(
                label,
                fault,
                heal=self._heal,
                read_receipt=self._read_receipt,
                settles_late=True,  # the thread may be about to strike
                in_force=lambda: self._struck is not None and self._struck.in_force,
            )
        )
        self._thread.start()

    def _run(self) -> None:
        try:
            try:
                while not self._event.has_come():
                    if self._over.wait(self._event.every):
                        return
                self._struck = self._inner.strike(_Unregistered(self._target, self.strike))
            finally:
                self._event.end()
        except Exception as error:  # noqa: BLE001  # raised by the heal
            self._error = error

    def _heal(self) -> None:
        """Stop waiting and heal the fault. A second call continues where the first one failed."""
        self._over.set()
        self._thread.join()
        if self._struck is not None:
            self._struck.heal()
        error, self._error = self._error, None
        if error is not None:
            explained = self._event.explain(error)
            raise explained from (None if explained is error else error)

    def _read_receipt(self) -> Receipt:
        if self._struck is not None:
            return self._struck.receipt
        return Receipt(0, getattr(self._inner, "unit", "connections"), note=self._event.missing())


class _Unregistered:
    """A target whose strikes belong to another strike, which heals them.

    Args:
        target: the target.
        outer: the other strike, which is no obstacle for them.
    """

    def __init__(self, target: Any, outer: Strike) -> None:
        self._target = target
        self._outer = outer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def active_strikes(self) -> list[Strike]:
        return [strike for strike in self._target.active_strikes() if strike is not self._outer]

    def register(self, strike: Strike) -> Strike:
        strike.overlap_with(self.active_strikes, self.active_strikes)
        return strike
