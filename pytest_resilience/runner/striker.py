"""The strikes and heals of one episode, each at its moment. Threads may share a striker."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from ..clock import Clock
from ..errors import HealFailed
from ..faults.fault import Receipt
from ..faults.network import NetworkFault
from ..history import describe_error
from ..schedule import CANCEL, Episode, Step, Trigger
from .system import System
from .triggers import Active, Moment, is_due, is_over, needs_polling

HEAL_LIMIT = 15.0  # seconds for which heals that fail are repeated at the end of an episode's work
HEAL_INTERVAL = 0.05  # seconds between two attempts


class Striker:
    """The steps of one episode.

    Args:
        system: the system that the steps strike.
        episode: the steps.
        cancel: cancels the operations in flight, or the next one, and then calls its argument with their number. Returns the reason
            why none can be cancelled, or None.
        clock: the clock of seconds.
    """

    def __init__(
        self, system: System, episode: Episode, cancel: Callable[[Callable[[int], None]], str | None], clock: Clock
    ) -> None:
        self._system = system
        self._history = system.history
        self._cancel = cancel
        self._clock = clock
        self._acting = threading.RLock()
        self._pending = list(episode.steps)
        self._active: list[Active] = []
        self._begun = clock.now()
        self._operations = 0
        self._last_heal: Moment | None = None
        counted = {step.target for step in episode.steps if step.at.kind == "connections"}
        self._connections = {target: system.connections(target) for target in counted}
        events = {_event_of(step) for step in episode.steps if step.at.kind == "statement"}
        self._watches = {event: system.watch_statements(*event) for event in sorted(events)}

    @property
    def seconds(self) -> float:
        """Seconds since the episode began."""
        return self._clock.now() - self._begun

    @property
    def active(self) -> list[Active]:
        """The strikes that have not healed, in order."""
        return list(self._active)

    @property
    def is_waiting_for_time(self) -> bool:
        """True if a strike heals after a time that is not over."""
        return any(each.step.until.kind == "seconds" and not each.reason for each in self.active)

    def seconds_to_last_strike(self) -> float:
        """Return the seconds until the last pending step whose time is known has to strike, or 0 if there is none."""
        since = self._last_heal.seconds if self._last_heal is not None else float("-inf")
        begins = {"seconds": 0.0, "after_heal": since}
        triggers = [step.at for step in list(self._pending) if "seconds" in (step.at.kind, step.at.unit)]
        return max((begins[each.kind] + (each.value or 0.0) - self.seconds for each in triggers), default=0.0)

    def advance(self, number: int) -> None:
        """Heal and strike everything that is due before operation `number` begins.

        The beginning of an operation waits for nothing else, such as a slow heal that another thread performs.
        """
        self._operations = number
        if self._has_to_heal(_is_cheap) or self._has_to_strike(_is_cheap):
            with self._acting:
                self._operations = number
                self._act(_is_cheap)
                self._operations = number + 1
        else:
            self._operations = number + 1

    def poll(self) -> None:
        """Heal and strike everything that has become due between the beginnings of two operations."""
        with self._acting:
            self._act(needs_polling)

    def _act(self, selected: Callable[[Trigger], bool]) -> None:
        for active in self._has_to_heal(selected):
            self._heal(active)
        for step in self._has_to_strike(selected):
            self._pending.remove(step)
            self._strike(step)

    def _has_to_heal(self, selected: Callable[[Trigger], bool]) -> list[Active]:
        return [
            each
            for each in list(self._active)
            if selected(each.step.until)
            and not each.reason
            and is_over(each, self._now(), partial(self._receipt, each))
        ]

    def _has_to_strike(self, selected: Callable[[Trigger], bool]) -> list[Step]:
        return [step for step in list(self._pending) if selected(step.at) and self._is_due(step)]

    def _receipt(self, active: Active) -> Receipt:
        """Return the receipt of a strike. That of a network fault is read again only if the counters of its proxy have changed."""
        strike = active.strike
        try:
            if isinstance(strike.fault, NetworkFault):
                counters = self._system.counters(active.step.target)
                if active.receipt is not None and counters == active.counters:
                    return active.receipt
                active.counters = counters
            active.receipt = strike.receipt
        except Exception:  # noqa: BLE001  # another fault, such as a kill, can prevent the reading
            return active.receipt or Receipt(0, "")
        return active.receipt

    def _now(self) -> Moment:
        return Moment(self._operations, self.seconds)

    def _is_due(self, step: Step) -> bool:
        def connections() -> int | None:
            before, now = self._connections.get(step.target), self._system.connections(step.target)
            return None if before is None or now is None else now - before

        def statements() -> int | None:
            watch = self._watches[_event_of(step)]
            return watch.count() if watch is not None else None

        return is_due(step.at, self._now(), last_heal=self._last_heal, connections=connections, statements=statements)

    def _strike(self, step: Step) -> None:
        if step.fault == CANCEL:
            self._strike_clients()
            return
        try:
            strike = self._system.strike(step)
        except Exception as error:  # noqa: BLE001  # a step that is not possible now is a fact of the history
            self._history.add_skip("strike", step.fault, describe_error(error))
        else:
            self._active.append(Active(step, strike, self._now()))

    def _strike_clients(self) -> None:
        if reason := self._cancel(self._record_cancelled):
            self._history.add_skip("strike", CANCEL, reason)

    def _record_cancelled(self, count: int) -> None:
        mark = self._history.add_strike(CANCEL, self._clock.now())
        self._history.add_heal(mark, self._clock.now(), touched=count, unit="operations")

    def _heal(self, active: Active) -> bool:
        """Heal a strike. If that fails, record the first reason, and return False."""
        try:
            active.strike.heal()
        except Exception as error:  # noqa: BLE001  # repeated, and raised by `finish` at last
            if not active.reason:
                self._history.add_skip("heal", active.step.fault, describe_error(error))
            active.reason = str(error)
            if not active.strike.healed:
                return False
        self._active.remove(active)
        self._last_heal = self._now()
        for other in [each for each in reversed(self._active) if each.reason]:
            self._heal(other)  # it may have failed because of the strike that is over now
        return True

    def finish(self) -> None:
        """Heal everything, the latest strike first. Steps that have not struck are recorded with the reason.

        Raises:
            HealFailed: a fault could not be healed for 15 s; the message has every reason.
        """
        with self._acting:
            for step in self._pending:
                self._history.add_skip("strike", step.fault, f"the work ended before {step.at!r}")
            self._pending.clear()
            for event in list(self._watches):
                watch = self._watches.pop(event)
                if watch is not None:
                    watch.close()
            deadline = self._clock.now() + HEAL_LIMIT
            while True:
                for active in reversed(self.active):
                    if active in self._active:  # not healed with another one
                        self._heal(active)
                if not self._active or self._clock.now() >= deadline:
                    break
                self._clock.sleep(HEAL_INTERVAL)
            if self._active:
                raise HealFailed("; ".join(each.reason for each in self._active))


def _event_of(step: Step) -> tuple[str, str]:
    """Return the server and the verb of a trigger by statements."""
    return step.at.server or step.target, step.at.verb


def _is_cheap(trigger: Trigger) -> bool:
    """True if a trigger depends on nothing but operations and the clock, so that each operation can check it."""
    return trigger.kind in ("operations", "seconds", "after_heal")
