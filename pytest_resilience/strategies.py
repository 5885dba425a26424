"""Hypothesis strategies of schedules.

    @given(schedule=schedules("redis", "postgres", "service"))
    def test_what_was_acknowledged_is_there(resilience, shop, schedule): ...

A schedule shrinks towards fewer episodes, fewer steps, fewer operations, milder faults and settings, strikes before the first operation,
and heals as soon as the strike has affected something.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeAlias

from hypothesis import strategies as st

from .drawn_kinds import Kind, balanced, checked_step, choose_kinds, injectable, set_unsupported
from .errors import SetupError
from .fault_settings import SEVERITIES
from .schedule import (
    MAX_EPISODES,
    MAX_OPERATIONS,
    Episode,
    Schedule,
    Step,
    Trigger,
    after_heal,
    connections,
    end,
    seconds,
    touched,
)
from .schedule import operations as after_operations

__all__ = ["schedules", "set_unsupported", "steps"]

MAX_STEPS = 100  # of one episode
SWARM = 4  # kinds of one schedule, some of which may be equal

Moment: TypeAlias = Callable[[int], Trigger]

# Each is a function of a number from 0 on. The first is the simplest, to which a step shrinks, and the most frequent.
AT: tuple[Moment, ...] = (
    *(after_operations,) * 9,
    lambda n: after_heal(operations=n),
    lambda n: after_heal(seconds=n / 20),
    lambda n: seconds(n / 20),
    lambda n: connections(n + 1),
)
UNTIL: tuple[Moment, ...] = (
    *(lambda _: touched(1),) * 9,
    lambda n: touched(n + 1),
    lambda n: after_operations(n + 1),
    lambda n: after_operations(n + 1),
    lambda n: seconds(
        (n + 1) / 4
    ),  # up to 3 s with 12 operations, longer than most pauses between two attempts to connect
    *(lambda _: end(),) * 2,
)


def steps(
    *targets: str, faults: Iterable[str | st.SearchStrategy[Step]] | None = None, operations: int = 12
) -> st.SearchStrategy[Step]:
    """Return the strategy of steps.

    Args:
        targets: the targets that are struck: "redis", "postgres", "service", "client" for clients in the test process, or kind and name
            of a further server or service, such as "postgres:replica", "tcp:payments" and "service:worker".
        faults: names such as "refuse" and labels such as "redis.refuse" limit the faults; strategies of steps are added to them. None
            for every fault of the targets that heals.
        operations: the operations of an episode, before one of which the step strikes; 1 or more.

    Raises:
        SetupError: an argument stands for no target, fault or number.
    """
    kinds = choose_kinds(targets, faults)
    _check("operations", operations, 1, MAX_OPERATIONS)
    return _steps(kinds, operations)


def schedules(
    *targets: str,
    faults: Iterable[str | st.SearchStrategy[Step]] | None = None,
    episodes: int = MAX_EPISODES,
    steps: int = 4,
    operations: int = 12,
) -> st.SearchStrategy[Schedule]:
    """Return the strategy of schedules.

    Each schedule has a random part of the kinds of faults (swarm testing, Groce et al., ISSTA 2012), because the absence of a fault
    can be needed for a failure too. Faults that the backend can't inject are never drawn.

    Args:
        targets: as for `steps`.
        faults: as for `steps`.
        episodes: the largest number of episodes, 1 to 4.
        steps: the largest number of steps of an episode; 0 or more.
        operations: the largest number of operations of an episode; 1 or more. Half of the episodes have so many.

    Raises:
        SetupError: an argument stands for no target, fault or number.
    """
    kinds = choose_kinds(targets, faults)
    _check("episodes", episodes, 1, MAX_EPISODES)
    _check("steps", steps, 0, MAX_STEPS)
    _check("operations", operations, 1, MAX_OPERATIONS)
    return _schedules(kinds, episodes, steps, operations)


@st.composite
def _steps(draw: st.DrawFn, kinds: tuple[Kind, ...], operations: int) -> Step:
    return draw(_step_of(balanced(injectable(kinds)), operations))


@st.composite
def _schedules(draw: st.DrawFn, kinds: tuple[Kind, ...], episodes: int, steps: int, operations: int) -> Schedule:
    kind = st.sampled_from(balanced(injectable(kinds)))
    swarm = [draw(kind) for _ in range(SWARM)]
    episode = _episodes(_step_of(swarm, operations), steps, operations)
    return Schedule(draw(st.lists(episode, min_size=1, max_size=episodes)))


@st.composite
def _episodes(draw: st.DrawFn, step: st.SearchStrategy[Step], steps: int, operations: int) -> Episode:
    number = draw(st.integers(1, 2 * operations).map(lambda n: min(n, operations)))
    drawn = [_within(each, number) for each in draw(st.lists(step, max_size=steps))]
    return Episode(sorted(drawn, key=_strikes_before), number)


@st.composite
def _step_of(draw: st.DrawFn, kinds: Sequence[Kind], operations: int) -> Step:
    """Draw a step of one of these kinds. A step of the user's is taken as it is."""
    kind = draw(st.sampled_from(kinds))
    if kind.own is not None:
        return checked_step(draw(kind.own))
    assert kind.settings is not None
    at, until = draw(_moments(AT, operations)), draw(_moments(UNTIL, operations))
    return Step(kind.label, kind.settings(draw(st.integers(0, SEVERITIES - 1))), at, until)


def _moments(kinds: Sequence[Moment], numbers: int) -> st.SearchStrategy[Trigger]:
    """Return the strategy of triggers of these kinds, each with a number below `numbers`.

    Kind and number are one draw. Hypothesis deletes up to five draws at once, and a step of a list has five: that it is there, its kind,
    its two triggers and its severity.
    """
    return st.integers(0, len(kinds) * numbers - 1).map(lambda n: kinds[n // numbers](n % numbers))


def _within(step: Step, number: int) -> Step:
    """Return the step, striking before the last of a number of operations at the latest."""
    late = step.at.kind == "operations" and (step.at.value or 0) >= number
    return replace(step, at=after_operations(number - 1)) if late else step


def _strikes_before(step: Step) -> float:
    """Return the number of the operation before which a step strikes, for the order of steps."""
    return float("inf") if step.at.kind != "operations" or step.at.value is None else step.at.value


def _check(name: str, value: object, least: int, most: int) -> None:
    """Check a number.

    Raises:
        SetupError: it is no integer from `least` to `most`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise SetupError(f"{name} must be an integer from {least} to {most}, got {value!r}")
