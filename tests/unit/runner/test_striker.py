"""Steps strike and heal at their moments. One that can't is recorded, and the run goes on."""

from __future__ import annotations

import pytest

from pytest_resilience.errors import HealFailed, SetupError
from pytest_resilience.operation import FaultMark, SkipMark
from pytest_resilience.runner.striker import HEAL_LIMIT, Striker
from pytest_resilience.schedule import (
    Episode,
    Step,
    after_heal,
    connections,
    end,
    operations,
    seconds,
    statement,
    touched,
)
from tests.support.clocks import FakeClock
from tests.support.played import FakeStrike, FakeSystem


class Run:
    """A striker with its system and clock."""

    def __init__(self, *steps: Step) -> None:
        self.clock = FakeClock()
        self.system = FakeSystem(self.clock)
        self.cancelled: list[str | None] = []
        self.striker = Striker(self.system, Episode(steps), lambda record: "no tasks", self.clock)

    @property
    def calls(self) -> list[str]:
        return self.system.calls

    def advance_to(self, number: int) -> None:
        for n in range(number + 1):
            self.striker.advance(n)
            self.calls.append(f"operation {n}")

    def skips(self) -> list[tuple[str, str, str]]:
        return [(m.action, m.label, m.reason) for m in self.system.history.marks if isinstance(m, SkipMark)]


def test_a_step_strikes_before_its_operation_and_heals_after_its_number_of_operations() -> None:
    run = Run(Step("redis.oom", at=operations(1), until=operations(2)))
    run.advance_to(3)
    assert run.calls == [
        "operation 0",
        "strike redis.oom",
        "operation 1",
        "operation 2",
        "heal redis.oom",
        "operation 3",
    ]


def test_a_step_strikes_and_heals_by_the_clock_between_operations() -> None:
    run = Run(Step("redis.oom", at=seconds(1.0), until=seconds(0.5)))
    for _ in range(4):
        run.striker.poll()
        run.calls.append(f"{run.striker.seconds:g}")
        run.clock.sleep(0.5)
    assert run.calls == ["0", "0.5", "strike redis.oom", "1", "heal redis.oom", "1.5"]


def test_a_time_that_is_over_strikes_before_the_next_operation() -> None:
    run = Run(Step("redis.oom", at=seconds(1.0), until=end()))
    run.clock.sleep(1.0)
    run.advance_to(0)
    assert run.calls == ["strike redis.oom", "operation 0"]


def test_a_step_heals_once_it_has_touched_enough() -> None:
    run = Run(Step("redis.oom", until=touched(2)))
    run.advance_to(0)
    for count in (0, 1, 2):
        run.system.struck["redis.oom"].touched = count
        run.striker.poll()
        run.calls.append(f"touched {count}")
    assert run.calls[2:] == ["touched 0", "touched 1", "heal redis.oom", "touched 2"]


def test_a_fault_of_processes_lasts_until_operations_can_meet_it() -> None:
    def touch(strike: FakeStrike) -> None:
        strike.touched, strike.unit = 1, "processes"

    run = Run(Step("service.pause", at=seconds(0.0), until=touched(1)))
    run.system.on_strike = touch
    run.striker.poll()
    run.clock.sleep(1.0)
    run.striker.poll()
    assert run.calls == ["strike service.pause"]  # no operation yet
    run.advance_to(0)
    run.striker.poll()
    assert run.calls == ["strike service.pause", "operation 0", "heal service.pause"]


def test_an_uncounted_fault_heals_after_operations_or_a_quarter_of_a_second() -> None:
    run = Run(Step("redis.oom", until=touched(1)), Step("redis.readonly", until=touched(1)))
    run.system.on_strike = lambda strike: setattr(strike, "touched", None)
    run.advance_to(0)
    run.striker.poll()
    assert not any(call.startswith("heal") for call in run.calls)
    run.advance_to(1)
    run.striker.poll()
    assert run.calls[-2:] == ["heal redis.oom", "heal redis.readonly"]


def test_a_step_strikes_after_connections_of_its_episode() -> None:
    run = Run()
    run.system.accepted["redis"] = 5
    run.striker = Striker(
        run.system, Episode([Step("redis.oom", at=connections(2), until=end())]), lambda record: "", run.clock
    )
    run.striker.poll()
    run.system.accepted["redis"] = 6
    run.striker.poll()
    assert run.calls == []
    run.system.accepted["redis"] = 7
    run.striker.poll()
    assert run.calls == ["strike redis.oom"]


def test_a_step_strikes_after_statements_of_its_episode() -> None:
    run = Run()
    run.system.statements["postgres", "commit"] = 0
    steps = [Step("redis.oom", at=statement("commit", 2, on="postgres"), until=end())]
    run.striker = Striker(run.system, Episode(steps), lambda record: "", run.clock)
    run.striker.poll()
    run.system.statements["postgres", "commit"] = 1
    run.striker.poll()
    assert run.calls == ["watch postgres commit"]
    run.system.statements["postgres", "commit"] = 2
    run.striker.poll()
    run.striker.finish()
    assert run.calls == ["watch postgres commit", "strike redis.oom", "unwatch postgres commit", "heal redis.oom"]


def test_a_step_whose_statements_are_not_counted_is_recorded() -> None:
    run = Run(Step("redis.oom", at=statement("exec", 2)))
    run.striker.poll()
    run.striker.finish()
    [skip] = [record for record in run.system.history.records if isinstance(record, SkipMark)]
    assert "the work ended before statement('exec', 2)" in skip.reason


def test_a_step_strikes_relative_to_the_last_heal() -> None:
    run = Run(
        Step("redis.oom", at=operations(0), until=operations(1)),
        Step("redis.readonly", at=after_heal(operations=2), until=end()),
        Step("redis.loading", at=after_heal(), until=end()),
    )
    run.advance_to(3)
    assert run.calls == [
        "strike redis.oom",
        "operation 0",
        "heal redis.oom",
        "strike redis.loading",
        "operation 1",
        "operation 2",
        "strike redis.readonly",
        "operation 3",
    ]


def test_the_time_of_the_last_strike_follows_from_the_last_heal() -> None:
    run = Run(
        Step("redis.oom", at=operations(0), until=seconds(0.25)),
        Step("redis.readonly", at=after_heal(seconds=0.5)),
        Step("redis.loading", at=seconds(0.5)),
        Step("redis.flap", at=operations(9)),
    )
    run.advance_to(0)
    assert run.striker.seconds_to_last_strike() == 0.5
    run.clock.sleep(0.25)
    run.striker.poll()
    assert run.striker.seconds_to_last_strike() == 0.5
    run.clock.sleep(0.5)
    run.striker.poll()
    assert run.striker.seconds_to_last_strike() == 0.0


def test_overlapping_strikes_heal_the_latest_first_at_the_end() -> None:
    run = Run(Step("redis.oom", until=end()), Step("postgres.read_only", until=end()))
    run.advance_to(0)
    run.striker.finish()
    assert run.calls[-2:] == ["heal postgres.read_only", "heal redis.oom"]


@pytest.mark.parametrize("error", [SetupError("no client"), ConnectionRefusedError(111, "refused")])
def test_a_step_that_cannot_strike_is_recorded_with_the_reason(error: Exception) -> None:
    run = Run(Step("redis.oom"), Step("redis.readonly"))
    run.system.errors["redis.oom"] = error
    run.advance_to(0)
    assert run.calls == ["strike redis.oom", "strike redis.readonly", "operation 0"]
    ((action, label, reason),) = run.skips()
    assert (action, label) == ("strike", "redis.oom")
    assert type(error).__name__ in reason


def test_a_step_whose_moment_does_not_come_is_recorded() -> None:
    run = Run(Step("redis.oom", at=operations(5)))
    run.advance_to(3)
    run.striker.finish()
    assert run.skips() == [("strike", "redis.oom", "the work ended before operations(5)")]
    run.striker.advance(5)
    assert "strike redis.oom" not in run.calls


def test_a_failed_heal_is_repeated_once_another_fault_is_over() -> None:
    run = Run(Step("redis.readonly", until=operations(1)), Step("redis.pause", until=operations(2)))
    run.system.on_strike = lambda strike: (
        strike.heal_errors.append(OSError("no answer")) if strike.step.fault == "redis.readonly" else None
    )
    run.advance_to(2)
    assert run.calls == [
        "strike redis.readonly",
        "strike redis.pause",
        "operation 0",
        "heal redis.readonly",
        "operation 1",
        "heal redis.pause",
        "heal redis.readonly",
        "operation 2",
    ]
    assert [skip[:2] for skip in run.skips()] == [("heal", "redis.readonly")]
    assert not run.striker.active


def test_a_heal_that_fails_at_the_end_is_repeated_with_pauses() -> None:
    run = Run(Step("redis.oom", until=end()))
    run.system.on_strike = lambda strike: strike.heal_errors.extend([OSError("no"), OSError("no")])
    run.advance_to(0)
    run.striker.finish()
    assert run.calls.count("heal redis.oom") == 3
    assert len(run.clock.sleeps) == 2
    assert len(run.skips()) == 1


def test_heals_that_never_succeed_are_an_error_of_the_tool_with_every_reason() -> None:
    run = Run(Step("redis.oom", until=end()), Step("postgres.read_only", until=end()))
    run.system.on_strike = lambda strike: strike.heal_errors.extend([OSError(f"no {strike.step.fault}")] * 1000)
    run.advance_to(0)
    with pytest.raises(HealFailed, match=r"no redis\.oom.*no postgres\.read_only"):
        run.striker.finish()
    assert run.clock.time == pytest.approx(100.0 + HEAL_LIMIT, abs=0.1)


def test_a_receipt_that_cannot_be_read_does_not_end_the_run() -> None:
    run = Run(Step("redis.oom", until=touched(1)))

    def break_receipt(strike: FakeStrike) -> None:
        def fail() -> None:
            raise OSError("the server is killed")

        strike.receipt = fail  # type: ignore[method-assign, assignment]

    run.system.on_strike = break_receipt
    run.advance_to(0)
    run.striker.poll()
    assert run.calls == ["strike redis.oom", "operation 0"]
    assert [active.step.fault for active in run.striker.active] == ["redis.oom"]


def test_a_cancellation_is_a_strike_of_operations() -> None:
    system = FakeSystem()
    episode = Episode([Step("client.cancel", at=operations(0))])
    Striker(system, episode, lambda record: record(2), system.clock).advance(0)  # type: ignore[func-returns-value]
    strike, heal = (mark for mark in system.history.marks if isinstance(mark, FaultMark))
    assert (strike.label, heal.touched, heal.unit) == ("client.cancel", 2, "operations")


def test_a_cancellation_that_is_not_possible_is_recorded() -> None:
    run = Run(Step("client.cancel", at=operations(0)))
    run.advance_to(0)
    assert run.skips() == [("strike", "client.cancel", "no tasks")]
