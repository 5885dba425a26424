"""The moments at which steps strike and heal, as pure functions of the progress of an episode."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ..faults.fault import Receipt, Strike
from ..schedule import CANCEL, Episode, Step, Trigger

PROCESS_FAULT_LASTS = (
    0.05  # seconds at least; a signal touches its processes at once, before any operation has met the fault
)
UNCOUNTED_FAULT_LASTS = 0.25  # seconds at most until a fault counts as met whose effects the backend can't count


class Moment(NamedTuple):
    """The progress of an episode.

    Args:
        operations: the number of operations that have begun.
        seconds: since the episode began.
    """

    operations: int
    seconds: float


@dataclass
class Active:
    """A step that has struck and not healed.

    Attributes:
        step: the step.
        strike: its strike.
        struck_at: the moment of the strike.
        reason: why the last attempt to heal failed; "" if there was none.
        receipt: the last receipt that was read; None before the first.
        counters: the counters of the target's proxy at that reading.
    """

    step: Step
    strike: Strike
    struck_at: Moment
    reason: str = ""
    receipt: Receipt | None = None
    counters: object = None


def is_due(
    trigger: Trigger,
    now: Moment,
    *,
    last_heal: Moment | None,
    connections: Callable[[], int | None],
    statements: Callable[[], int | None] = lambda: None,
) -> bool:
    """True if a step with this trigger has to strike.

    Args:
        trigger: the `at` of the step.
        now: the present moment.
        last_heal: the moment of the last heal in the episode; None before the first.
        connections: returns the connections of the step's target since the episode began; None if they are not counted.
        statements: returns the matching statements since the episode began; None if they are not counted.
    """
    value = trigger.value or 0
    match trigger.kind:
        case "operations":
            return now.operations >= value
        case "seconds":
            return now.seconds >= value
        case "connections":
            return (connections() or 0) >= value
        case "statement":
            return (statements() or 0) >= value
        case _:
            if last_heal is None:
                return False
            since = (
                now.seconds - last_heal.seconds if trigger.unit == "seconds" else now.operations - last_heal.operations
            )
            return since >= value


def is_over(active: Active, now: Moment, receipt: Callable[[], Receipt]) -> bool:
    """True if a strike has to heal.

    A fault of processes touches them at once. So it lasts until an operation has begun since, and for at least 0.05 s. Where the
    backend does not count what a fault touches, operations that begin count instead, and 0.25 s are enough.

    Args:
        active: the strike.
        now: the present moment.
        receipt: reads the receipt of the strike.
    """
    trigger = active.step.until
    value = trigger.value or 0
    operations = now.operations - active.struck_at.operations
    seconds = now.seconds - active.struck_at.seconds
    match trigger.kind:
        case "operations":
            return operations >= value
        case "seconds":
            return seconds >= value
        case "touched":
            return _has_touched(receipt(), value, operations, seconds)
        case _:
            return False


def _has_touched(receipt: Receipt, value: float, operations: int, seconds: float) -> bool:
    if receipt.touched is None:
        return operations > value or seconds >= UNCOUNTED_FAULT_LASTS
    if receipt.unit == "processes" and (operations == 0 or seconds < PROCESS_FAULT_LASTS):
        return False
    return receipt.touched >= value


def needs_polling(trigger: Trigger) -> bool:
    """True if a trigger can be due between the beginnings of two operations."""
    is_immediate = trigger.kind == "after_heal" and not trigger.value
    return (
        is_immediate or trigger.kind in ("seconds", "connections", "statement", "touched") or trigger.unit == "seconds"
    )


def horizon(episode: Episode, most: float) -> float:
    """Return the seconds over which the operations of an episode are spread.

    That is the time until the last strike or heal with a time of its own. It is 0 for an episode in which no step has one.

    Args:
        episode: the episode.
        most: the largest result, in seconds.
    """

    def longest(triggers: Iterable[Trigger]) -> float:
        return max((each.value or 0.0 for each in triggers if "seconds" in (each.kind, each.unit)), default=0.0)

    steps = [step for step in episode.steps if step.fault != CANCEL]
    relative = [step.at for step in episode.steps if step.at.kind == "after_heal"]
    absolute = [step.at for step in episode.steps if step.at.kind == "seconds"]
    return min(most, longest(absolute) + longest(relative) + longest(step.until for step in steps))
