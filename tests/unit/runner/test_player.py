"""A play strikes among the operations of its clients, ends blocked clients, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pytest_resilience.errors import PromiseBroken, SetupError
from pytest_resilience.history import Client
from pytest_resilience.operation import FaultMark, PhaseMark, ProbeMark, SkipMark
from pytest_resilience.runner import clients as runner_clients
from pytest_resilience.runner import player as runner_player
from pytest_resilience.runner.liveness import BASELINE_ROUNDS
from pytest_resilience.runner.player import play, play_in_loop
from pytest_resilience.schedule import (
    Episode,
    Schedule,
    Step,
    Trigger,
    after_heal,
    connections,
    end,
    operations,
    seconds,
    touched,
)
from tests.support.played import AsyncFakeWorkload, FakeSystem, FakeWorkload
from tests.support.waiting import until


def play_sync(system: FakeSystem, workload: Any, *episodes: Episode, clients: int = 3, baseline: Any = None) -> Any:
    return play(system, Schedule(episodes), workload, clients=clients, recovery=0.5, baseline=baseline)


@pytest.fixture(autouse=True)
def no_thread_stays() -> Any:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def test_every_operation_runs_once_and_a_strike_comes_before_its_operation() -> None:
    system = FakeSystem()
    workload = FakeWorkload(system.calls)
    play_sync(system, workload, Episode([Step("redis.oom", at=operations(5), until=operations(4))], operations=20))
    numbers = [int(call.split()[1]) for call in system.calls if call.startswith("operation")]
    assert sorted(numbers) == list(range(20))
    struck, healed = system.calls.index("strike redis.oom"), system.calls.index("heal redis.oom")
    before = {call for call in system.calls[:struck] if call.startswith("operation")}
    during = {call for call in system.calls[struck:healed] if call.startswith("operation")}
    assert before <= {f"operation {n}" for n in range(5)}
    assert not during & {f"operation {n}" for n in range(9, 20)}


@pytest.mark.parametrize("at", [seconds(0.1), after_heal(seconds=0.1)])
def test_the_last_operation_waits_for_a_step_with_a_time(at: Trigger) -> None:
    system = FakeSystem()
    steps = [Step("redis.oom", at=operations(1), until=operations(2)), Step("redis.readonly", at=at, until=end())]
    play_sync(system, FakeWorkload(system.calls), Episode(steps, operations=6))
    assert system.calls.index("strike redis.readonly") < system.calls.index("operation 5")
    assert not [mark for mark in system.history.marks if isinstance(mark, SkipMark)]


def test_one_client_makes_a_play_repeat_exactly() -> None:
    def calls() -> list[str]:
        system = FakeSystem()
        steps = [
            Step("redis.oom", at=operations(2), until=operations(3)),
            Step("redis.readonly", at=operations(4), until=end()),
        ]
        play_sync(system, FakeWorkload(system.calls), Episode(steps, operations=6), clients=1)
        return system.calls

    assert (
        calls()
        == calls()
        == [
            "begin",
            "operation 0",
            "operation 1",
            "strike redis.oom",
            "operation 2",
            "operation 3",
            "strike redis.readonly",
            "operation 4",
            "heal redis.oom",
            "operation 5",
            "heal redis.readonly",
            "read all",
            "end",
        ]
    )


def test_phases_and_marks_of_a_play_with_two_episodes() -> None:
    system = FakeSystem(has_service=True)
    play_sync(system, FakeWorkload([]), Episode(operations=3), Episode(operations=3))
    phases = [(mark.phase, mark.episode) for mark in system.history.marks if isinstance(mark, PhaseMark)]
    assert phases == [("baseline", 1), *[(phase, number) for number in (1, 2) for phase in ("run", "heal", "recovery")]]
    probes = [mark for mark in system.history.marks if isinstance(mark, ProbeMark)]
    assert [p.answer for p in probes if p.name == "upstream"] == [
        {
            "redis": {"connections": 0, "commands": 7, "open": None},
            "postgres": {"connections": 0, "commands": 7, "open": None},
        }
    ] * len(phases)
    (baseline,) = (p.answer for p in probes if p.name == "baseline")
    assert {kind: (b["error_rate"], b["sources"]) for kind, b in baseline.items()} == {
        "update": (0.0, []),
        "read": (0.0, []),
    }
    recoveries = [p for p in probes if p.name == "recovery"]
    assert [(p.answer["recovered"], p.answer["why"], p.episode) for p in recoveries] == [(True, "", 1), (True, "", 2)]
    measured = [o for o in system.history.operations if o.phase == "baseline"]
    assert len(measured) == BASELINE_ROUNDS * 2


def test_a_known_baseline_is_recorded_and_not_measured_again() -> None:
    system = FakeSystem()
    known = {
        "update": {"p95": 1.0, "error_rate": 0.0, "sources": []},
        "read": {"p95": 1.0, "error_rate": 0.0, "sources": []},
    }
    assert play_sync(system, FakeWorkload([]), Episode(operations=1), baseline=known) == known
    assert len([o for o in system.history.operations if o.phase == "baseline"]) == 2
    assert [m.answer for m in system.history.marks if isinstance(m, ProbeMark) and m.name == "baseline"] == [known]


def test_the_values_of_a_client_have_another_process_in_each_episode() -> None:
    system = FakeSystem()
    play_sync(system, FakeWorkload([]), Episode(operations=4), Episode(operations=4), clients=1)
    processes = {o.episode: o.process for o in system.history.operations if o.phase == "run"}
    assert processes[1] != processes[2]


def test_clients_that_are_blocked_end_when_the_work_has_lasted_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_player, "WORK_LIMIT", 0.1)
    system = FakeSystem()

    def block(n: int) -> None:
        until(lambda: "heal redis.oom" in system.calls, within=10)

    play_sync(system, FakeWorkload(system.calls, block), Episode([Step("redis.oom", until=end())], operations=12))
    numbers = [call for call in system.calls if call.startswith("operation")]
    assert numbers == ["operation 0", "operation 1", "operation 2"]
    assert {o.phase for o in system.history.operations if o.f in ("update", "read")} == {"baseline", "run", "recovery"}


def test_an_operation_that_never_ends_breaks_a_promise_and_is_the_witness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_player, "WORK_LIMIT", 0.0)
    monkeypatch.setattr(runner_clients, "END_WITHIN", 0.1)
    forever = threading.Event()
    system = FakeSystem()
    workload = FakeWorkload(system.calls, lambda n: forever.wait())
    threads = threading.active_count()
    with pytest.raises(PromiseBroken, match=r"has not ended within .* a timeout is missing") as broken:
        play_sync(system, workload, Episode([Step("redis.oom", until=end())]), clients=1)
    (verdict,) = broken.value.verdicts
    assert [(each.type, each.error, each.phase) for each in verdict.witness] == [("info", "never ended", "run")]
    assert "heal redis.oom" in system.calls
    forever.set()
    until(lambda: threading.active_count() == threads, within=5)


@pytest.mark.parametrize("first", [True, False], ids=["baseline", "recovery"])
def test_an_operation_of_the_liveness_phase_that_never_ends_is_reported(
    first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_clients, "END_WITHIN", 0.1)
    forever = threading.Event()
    system = FakeSystem()

    class Hanging(FakeWorkload):
        def perform(self, client: Client, kind: str, n: int) -> None:
            if first or "heal redis.oom" in system.calls:
                with client.invoke("read"):
                    forever.wait()
            super().perform(client, kind, n)

    threads = threading.active_count()
    error, text = (SetupError, "before anything struck") if first else (PromiseBroken, "after everything has healed")
    with pytest.raises(error, match=f"read of client .*{text}"):
        play_sync(system, Hanging(system.calls), Episode([Step("redis.oom", until=end())], operations=2))
    forever.set()
    until(lambda: threading.active_count() == threads, within=5)


def test_a_task_of_the_liveness_phase_that_never_ends_is_cancelled_and_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner_clients, "END_WITHIN", 0.1)
    system = FakeSystem()

    cancelled: list[str] = []

    class Hanging(AsyncFakeWorkload):
        async def perform(self, client: Client, kind: str, n: int) -> None:  # type: ignore[override]
            await super().perform(client, kind, n)
            if "heal redis.oom" in system.calls:
                try:
                    with client.invoke("read", key="1"):
                        await asyncio.Event().wait()
                finally:
                    cancelled.append(kind)

    async def do_nothing(n: int) -> None:
        """Take no time."""

    workload = Hanging(system.calls, do_nothing)
    with pytest.raises(PromiseBroken, match=r"read of client .* after everything has healed"):
        play_sync(system, workload, Episode([Step("redis.oom", until=end())], operations=2))
    assert cancelled


def test_an_end_of_an_asynchronous_workload_that_hangs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_clients, "END_WITHIN", 0.5)
    system = FakeSystem()

    class Hanging(AsyncFakeWorkload):
        async def end(self) -> None:  # type: ignore[override]
            await asyncio.Event().wait()

    async def do_nothing(n: int) -> None:
        """Take no time."""

    with pytest.raises(SetupError, match=r"end\(\) of the workload has not returned within 0.5 s"):
        play_sync(system, Hanging(system.calls, do_nothing), Episode([], operations=2))


@pytest.mark.parametrize(
    "error", [ValueError("a defect of the workload"), KeyboardInterrupt(), AssertionError("wrong")]
)
def test_an_error_of_an_operation_ends_the_play_after_everything_has_healed(error: BaseException) -> None:
    def fail(n: int) -> None:
        if n == 1:
            raise error

    system = FakeSystem()
    with pytest.raises(type(error)):
        play_sync(
            system, FakeWorkload(system.calls, fail), Episode([Step("redis.oom", until=end())], operations=20_000)
        )
    assert "heal redis.oom" in system.calls
    assert system.calls[-1] == "end"
    assert len(system.calls) < 10_000, "the other clients end, too"


def test_an_error_at_the_begin_of_a_workload_hides_behind_none_of_its_end() -> None:
    class Broken(FakeWorkload):
        def begin(self, resilience: Any) -> None:
            raise OSError("no pool")

        def end(self) -> None:
            raise AttributeError("no attribute 'pool'")

    with pytest.raises(OSError, match="no pool") as failure:
        play_sync(FakeSystem(has_service=True), Broken([]), Episode())
    assert "no attribute 'pool'" in failure.value.__notes__[0]


def test_an_interrupt_of_the_waiting_thread_heals_and_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(clients: Any, seconds: float) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner_clients.Clients, "wait", interrupt)
    system = FakeSystem(has_service=True)
    with pytest.raises(KeyboardInterrupt):
        play_sync(system, FakeWorkload(system.calls), Episode([Step("redis.oom", until=end())], operations=1))
    assert [call for call in system.calls if not call.startswith("operation")] in (
        ["begin", "strike redis.oom", "heal redis.oom", "end"],
        ["begin", "end"],  # before any client has begun
    )


def test_a_system_that_does_not_recover_is_recorded_with_the_reason() -> None:
    system = FakeSystem(has_service=True)
    workload = FakeWorkload([], lambda n: setattr(system, "status", 503))
    play_sync(system, workload, Episode(operations=1))
    (recovery,) = (m.answer for m in system.history.marks if isinstance(m, ProbeMark) and m.name == "recovery")
    assert not recovery["recovered"]
    assert recovery["why"] == "the readiness path answers 503"
    assert "read all" not in workload.calls


def asynchronously(system: FakeSystem, workload: Any, *episodes: Episode, clients: int = 2) -> None:
    asyncio.run(play_in_loop(system, Schedule(episodes), workload, clients=clients, recovery=0.5, baseline=None))


@pytest.fixture(params=["a loop of its own", "the loop of the caller"])
def play_async(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return play_sync if request.param == "a loop of its own" else asynchronously


def test_an_asynchronous_workload_runs_in_one_event_loop(play_async: Callable[..., Any]) -> None:
    system = FakeSystem()
    loops = set()

    async def note_loop(n: int) -> None:
        loops.add(asyncio.get_running_loop())

    workload = AsyncFakeWorkload(system.calls, note_loop)
    play_async(system, workload, Episode([Step("redis.oom", at=operations(3))], operations=6))
    assert len(loops) == 1
    assert system.calls.index("strike redis.oom") < system.calls.index("operation 3")
    assert sorted(call for call in system.calls if call.startswith("operation")) == [f"operation {n}" for n in range(6)]


def test_a_cancellation_strikes_all_operations_in_flight_and_their_clients_go_on(
    play_async: Callable[..., Any],
) -> None:
    system = FakeSystem()
    system.accepted["client"] = 0
    waiting: list[int] = []

    async def wait(n: int) -> None:
        if n < 2:
            waiting.append(n)
            system.accepted["client"] = len(waiting)
            await asyncio.sleep(60)

    workload = AsyncFakeWorkload(system.calls, wait)
    step = Step("client.cancel", at=connections(2))
    play_async(system, workload, Episode([step], operations=8), clients=2)
    assert len([call for call in system.calls if call.startswith("operation")]) == 8
    assert [o.type for o in system.history.operations if o.phase == "run"].count("info") == 2
    (heal,) = (m for m in system.history.marks if isinstance(m, FaultMark) and m.mark == "heal")
    assert (heal.label, heal.touched) == ("client.cancel", 2)


def test_a_cancellation_with_nothing_in_flight_strikes_the_next_operation(play_async: Callable[..., Any]) -> None:
    system = FakeSystem()

    async def wait(n: int) -> None:
        if n == 1:
            await asyncio.sleep(60)

    workload = AsyncFakeWorkload(system.calls, wait)
    play_async(system, workload, Episode([Step("client.cancel", at=operations(1))], operations=3), clients=1)
    assert [o.type for o in system.history.operations if o.phase == "run"] == ["ok", "info", "ok"]


def test_threads_cannot_be_cancelled_and_the_history_says_so() -> None:
    system = FakeSystem()
    play_sync(system, FakeWorkload([]), Episode([Step("client.cancel")], operations=2))
    (skip,) = (mark for mark in system.history.marks if isinstance(mark, SkipMark))
    assert (skip.action, skip.label) == ("strike", "client.cancel")
    assert "synchronous" in skip.reason


def test_an_error_of_an_asynchronous_operation_is_raised(play_async: Callable[..., Any]) -> None:
    async def fail(n: int) -> None:
        raise ValueError("a defect of the workload")

    system = FakeSystem()
    with pytest.raises(ValueError, match="a defect"):
        play_async(system, AsyncFakeWorkload(system.calls, fail), Episode([Step("redis.oom", until=end())]))
    assert "heal redis.oom" in system.calls


def test_the_cancellation_of_an_asynchronous_play_heals_before_the_test_goes_on() -> None:
    system = FakeSystem()
    begun = asyncio.Event()

    async def wait(n: int) -> None:
        begun.set()
        await asyncio.sleep(0.01)

    async def cancel_in_the_middle() -> None:
        workload = AsyncFakeWorkload(system.calls, wait)
        episodes = Schedule([Episode([Step("redis.oom", until=end())], operations=10_000)])
        playing = asyncio.ensure_future(
            play_in_loop(system, episodes, workload, clients=2, recovery=0.5, baseline=None)
        )
        await begun.wait()
        assert system.calls[:2] == ["begin", "strike redis.oom"]
        playing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await playing
        assert "heal redis.oom" in system.calls
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(cancel_in_the_middle())


def test_a_step_that_touches_nothing_heals_at_the_end() -> None:
    system = FakeSystem()
    play_sync(system, FakeWorkload(system.calls), Episode([Step("redis.oom", until=touched(1))], operations=4))
    assert system.calls.index("heal redis.oom") > system.calls.index("operation 3")
