"""Strategies draw the faults that they were asked for, and shrink to the exact minimum."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import HealthCheck, Phase, find, given, seed, settings
from hypothesis import strategies as st

from pytest_resilience import strategies
from pytest_resilience.drawn_kinds import balanced, choose_kinds
from pytest_resilience.errors import CannotInject, SetupError
from pytest_resilience.fault_settings import DRAWN, NOT_DRAWN
from pytest_resilience.faults import FAULTS
from pytest_resilience.schedule import Episode, Schedule, Step, connections, end, operations, seconds, touched
from pytest_resilience.strategies import schedules, steps

FEW = ["latency", "bandwidth", "refuse", "pause"]


@pytest.fixture(autouse=True)
def _everything_is_injectable():
    strategies.set_unsupported({})
    yield
    strategies.set_unsupported({})


def minimal(strategy, condition):
    return find(
        strategy,
        condition,
        settings=settings(
            max_examples=5000, database=None, deadline=None, suppress_health_check=list(HealthCheck), phases=SEARCH
        ),
    )


SEARCH = (Phase.generate, Phase.shrink)


def drawn(strategy, number, a_seed=1):
    found = []

    @seed(a_seed)
    @settings(max_examples=number, database=None, deadline=None, derandomize=False, phases=[Phase.generate])
    @given(strategy)
    def collect(value):
        found.append(value)

    collect()
    return found


def kinds(schedule):
    return [step.fault for step in schedule.steps]


# Shrinking


def one(fault, settings=None, *, at=0, until=None, operations_=1):
    step = Step(fault, settings or {}, at=operations(at), until=until or touched(1))
    return Episode([step], operations=operations_)


def has_overlap(schedule):
    return any({"redis.refuse", "postgres.latency"} <= {s.fault for s in e.steps} for e in schedule.episodes)


def is_slow(schedule):
    return any(s.settings.get("seconds", 0) >= 0.3 and e.operations >= 5 for e in schedule.episodes for s in e.steps)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (lambda s: True, [Episode([], 1)]),
        (lambda s: s.steps, [one("redis.latency", {"seconds": 0.01})]),
        (lambda s: len(s.episodes) == 3, [Episode([], 1)] * 3),
        (lambda s: s.episodes[0].operations >= 7, [Episode([], 7)]),
        (lambda s: "redis.refuse" in kinds(s), [one("redis.refuse")]),
        (lambda s: sum("postgres.pause" in kinds(Schedule([e])) for e in s.episodes) >= 2, [one("postgres.pause")] * 2),
        (is_slow, [one("redis.latency", {"seconds": 0.3}, operations_=5)]),
        (
            lambda s: any(x.settings.get("bytes_per_s", 10**6) < 20_000 for x in s.steps),
            [one("redis.bandwidth", {"bytes_per_s": 10_000})],
        ),
        (
            lambda s: any(x.at.kind == "operations" and x.at.value >= 3 for x in s.steps),
            [one("redis.latency", {"seconds": 0.01}, at=3, operations_=4)],
        ),
        (
            lambda s: any(x.until.kind == "seconds" and x.until.value >= 1 for x in s.steps),
            [one("redis.latency", {"seconds": 0.01}, until=seconds(1.0))],
        ),
        (lambda s: any(x.until.kind == "end" for x in s.steps), [one("redis.latency", {"seconds": 0.01}, until=end())]),
        (
            has_overlap,
            [Episode([*one("postgres.latency", {"seconds": 0.01}).steps, *one("redis.refuse").steps], operations=1)],
        ),
    ],
)
def test_a_schedule_shrinks_to_the_exact_minimum(condition, expected):
    found = minimal(schedules("redis", "postgres", faults=FEW), condition)
    assert sorted(map(repr, found.steps)) == sorted(map(repr, Schedule(expected).steps))
    assert [(len(e.steps), e.operations) for e in found.episodes] == [(len(e.steps), e.operations) for e in expected]


def test_a_step_shrinks_to_the_mildest_one():
    assert minimal(steps("redis"), lambda step: True) == Step("redis.latency", {"seconds": 0.01})


# What is drawn


def test_every_fault_that_heals_is_drawn_or_has_a_reason():
    healing = {name for name, fault in FAULTS.items() if fault.heals}
    assert DRAWN.keys() - {"cancel"} == healing - NOT_DRAWN.keys()


@pytest.mark.parametrize("kind", choose_kinds(["redis", "postgres", "service", "client"], None), ids=lambda k: k.label)
def test_every_severity_of_every_fault_fits(kind):
    for severity in range(100):
        Step(kind.label, kind.settings(severity))


def test_a_wide_strategy_draws_every_kind():
    targets = ("redis", "postgres", "service", "client")
    found = {fault for target in targets for schedule in drawn(schedules(target), 300) for fault in kinds(schedule)}
    assert found == {kind.label for kind in choose_kinds(targets, None)}


def test_a_schedule_has_part_of_the_kinds():
    """Swarm: with all kinds in each schedule, two steps would seldom be of one kind."""
    some = drawn(schedules("redis", "postgres", "service"), 300)
    several = [kinds(schedule) for schedule in some if len(schedule.steps) >= 4]
    assert several
    assert max(len(set(each)) for each in several) <= 4
    assert sum(len(set(each)) < len(each) for each in several) > len(several) / 2


def test_overlap_long_outages_silence_and_wire_events_are_drawn():
    some = drawn(schedules("redis", "postgres"), 400)
    every = [step for schedule in some for step in schedule.steps]
    assert {step.at.kind for step in every} == {"operations", "seconds", "connections", "after_heal"}
    assert {step.until.kind for step in every} == {"operations", "seconds", "touched", "end"}
    assert any(step.until.kind == "seconds" and step.until.value >= 2 for step in every)
    assert any(
        min((step.at.value for step in schedule.steps if step.at.kind == "operations"), default=0) >= 6
        for schedule in some
    )
    assert any(len({step.at for step in e.steps}) < len(e.steps) for schedule in some for e in schedule.episodes)


def test_half_of_the_episodes_are_full():
    episodes = [e for schedule in drawn(schedules("redis", operations=12), 300) for e in schedule.episodes]
    assert 0.3 < sum(e.operations == 12 for e in episodes) / len(episodes) < 0.8


@given(schedules("redis", "postgres:replica", "service:worker", episodes=2, steps=3, operations=5))
@settings(deadline=None, database=None)
def test_a_drawn_schedule_keeps_to_its_limits(schedule):
    assert len(schedule.episodes) <= 2
    for episode in schedule.episodes:
        assert len(episode.steps) <= 3
        assert episode.operations <= 5
        assert all(step.at.kind != "operations" or step.at.value < episode.operations for step in episode.steps)
        assert {step.target for step in episode.steps} <= {"redis", "replica", "worker"}
    assert Schedule.loads(schedule.dumps()) == schedule


def test_names_limit_the_faults_and_strategies_are_added():
    mine = st.just(Step("postgres.starve", {"lock": "campaigns"}, at=connections(2)))
    found = {
        fault
        for s in drawn(schedules("redis", "postgres", faults=["refuse", "redis.pause", mine]), 200)
        for fault in kinds(s)
    }
    assert found == {"redis.refuse", "postgres.refuse", "redis.pause", "postgres.starve"}
    assert {fault for s in drawn(schedules(faults=["redis.refuse"]), 20) for fault in kinds(s)} == {"redis.refuse"}
    assert {step.at for s in drawn(schedules(faults=[mine]), 20) for step in s.steps} == {connections(2)}


# The backend


def test_what_the_backend_cannot_inject_is_never_drawn():
    strategies.set_unsupported({"postgres.kill": "no", "redis.half_open": "no"})
    strategy = schedules("redis", "postgres:replica", faults=["kill", "half_open", "refuse"])
    found = {fault for s in drawn(strategy, 200) for fault in kinds(s)}
    assert found == {"redis.kill", "replica.half_open", "redis.refuse", "replica.refuse"}
    strategies.set_unsupported({})
    assert "replica.kill" in {fault for s in drawn(strategy, 200) for fault in kinds(s)}


def test_a_strategy_of_which_nothing_can_be_injected_names_the_reasons():
    strategies.set_unsupported({"redis.kill": "the server is not ours"})
    with pytest.raises(CannotInject, match="none of the faults can be injected here: the server is not ours"):
        drawn(schedules(faults=["redis.kill"]), 5)


# Wrong arguments


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (schedules, "schedules need a target"),
        (lambda: schedules("redi"), "no target 'redi'; did you mean 'redis'?"),
        (lambda: schedules("client:other"), "no target 'client:other'"),
        (lambda: schedules("redis", faults=["refus"]), "no fault 'refus' of redis; did you mean 'refuse'?"),
        (lambda: schedules("redis", faults=["hold_locks"]), "no fault 'hold_locks' of redis"),
        (lambda: schedules("redis", faults=["postgres.refus"]), "no fault 'postgres.refus'; did you mean 'refuse'?"),
        (lambda: schedules("redis", faults=["redi.refuse"]), "no target 'redi'; did you mean 'redis'?"),
        (lambda: schedules("redis", faults="refuse"), r"faults must be a list, such as \['refuse'\]"),
        (lambda: schedules("redis", faults=[3]), "names of faults or strategies of steps, got 3"),
        (lambda: schedules("postgres", faults=["crash"]), "postgres.crash never heals"),
        (lambda: schedules("service", faults=["memory_limit"]), "memory_limit is not drawn, because its heal"),
        (lambda: schedules("redis", episodes=5), "episodes must be an integer from 1 to 4, got 5"),
        (lambda: schedules("redis", episodes=0), "episodes must be an integer from 1 to 4, got 0"),
        (lambda: schedules("redis", steps=-1), "steps must be an integer from 0"),
        (lambda: schedules("redis", operations=0), "operations must be an integer from 1"),
        (lambda: steps("redis", operations=True), "operations must be an integer"),
    ],
)
def test_a_wrong_argument_is_an_error_at_once(make, message):
    with pytest.raises(SetupError, match=message):
        make()


def test_a_strategy_of_something_else_is_an_error():
    with pytest.raises(SetupError, match="a strategy must draw steps, got 3"):
        drawn(schedules(faults=[st.just(3)]), 20)


# Reproduction

PROGRAM = """
from hypothesis import given, seed, settings
from pytest_resilience.strategies import schedules

@seed(7)
@settings(max_examples=40, database=None, deadline=None)
@given(schedules("redis", "postgres", "service", "client"))
def show(schedule):
    print(schedule)

show()
"""


def test_one_seed_draws_the_same_schedules_in_every_process():
    first, second = (
        subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": number}
        ).stdout
        for number in ("1", "2")
    )
    assert first.count("Schedule(") == 40
    assert first == second


def test_each_target_has_an_equal_share_of_the_faults_however_many_it_has() -> None:
    kinds = balanced(choose_kinds(("redis", "client"), None))
    of_client = sum(kind.label == "client.cancel" for kind in kinds)
    assert of_client == len(kinds) - of_client
    assert [kind.label for kind in kinds[:3]] == [kind.label for kind in choose_kinds(("redis", "client"), None)[:3]]
