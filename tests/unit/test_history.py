"""The history of a test is append-only, and each test has its own."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_resilience.checkers import no_lost_writes, recovered, unique_ids
from pytest_resilience.errors import PromiseBroken, SetupError
from pytest_resilience.history import FaultPeriod, History, current, recording, struck
from pytest_resilience.history_file import HistoryFile
from pytest_resilience.operation import FaultMark, Operation, Verdict
from pytest_resilience.redaction import new_password


def test_a_strike_and_its_heal_are_two_marks() -> None:
    history = History(start=0.0)
    first = history.add_strike("redis.refuse", 10.0)
    second = history.add_strike("redis.refuse", 11.0)
    before = history.marks
    history.add_heal(second, 12.0, touched=3, unit="connections")
    assert history.marks[:2] == before
    assert history.faults == [FaultPeriod("redis.refuse", 10.0), FaultPeriod("redis.refuse", 11.0, 12.0)]
    history.add_heal(first, 13.0)
    assert [fault.healed_at for fault in history.faults] == [13.0, 12.0]


def test_a_mark_becomes_a_line_of_a_file() -> None:
    history = History(start=100.0)
    strike = history.add_strike("redis.reset", 100.004)
    history.add_heal(strike, 100.029, touched=4, unit="connections")
    assert [mark.to_json() for mark in history.marks] == [
        {"mark": "strike", "label": "redis.reset", "time": 0.004, "strike": 0, "episode": 1},
        {
            "mark": "heal",
            "label": "redis.reset",
            "time": 0.029,
            "strike": 0,
            "episode": 1,
            "touched": 4,
            "unit": "connections",
        },
    ]


@pytest.mark.parametrize(("start", "end", "found"), [(0, 9, []), (0, 10, ["a"]), (11, 12, ["a"]), (13, 20, [])])
def test_faults_are_found_by_the_time_in_which_they_lasted(start: float, end: float, found: list[str]) -> None:
    history = History(start=0.0)
    history.add_heal(history.add_strike("a", 10.0), 12.0)
    assert [fault.label for fault in history.during(start, end)] == found


def test_a_task_writes_to_the_history_that_was_current_when_it_began() -> None:
    first, second = History(), History()

    async def strike(label: str) -> None:
        await asyncio.sleep(0)
        current().add_strike(label, 1.0)

    async def main() -> None:
        with recording(first):
            one = asyncio.create_task(strike("one"))
            with recording(second):
                await asyncio.gather(one, strike("two"))

    asyncio.run(main())
    assert [mark.label for mark in first.marks] == ["one"]
    assert [mark.label for mark in second.marks] == ["two"]


def test_a_thread_without_a_context_writes_to_the_history_that_was_begun_last() -> None:
    history = History(start=0.0)
    with recording(history):
        thread = threading.Thread(target=lambda: current().add_strike("redis.refuse", 1.0))
        thread.start()
        thread.join()
    assert len(history.marks) == 1


def test_a_context_of_an_earlier_test_writes_to_the_test_that_runs() -> None:
    """A session's event loop may have been made in the context of its first test."""
    first, second = History(), History()
    with recording(first):
        context = contextvars.copy_context()
    with recording(second):
        context.run(lambda: current().add_strike("redis.refuse", 1.0))
    assert not first.marks
    assert len(second.marks) == 1


def test_a_block_may_end_in_another_context() -> None:
    before = current()
    block = recording(History())
    contextvars.copy_context().run(block.__enter__)
    block.__exit__(None, None, None)
    assert current() is before


def test_faults_of_the_session_and_of_the_test_are_shown() -> None:
    history = History(start=0.0)
    with recording(history):
        history.add_strike("redis.refuse", 5.0)
        assert struck(1.0, 9.0) == "redis.refuse"
        assert struck(1.0, 2.0) == "nothing"


# Operations


class Steps:
    """A clock that advances by a second at each reading."""

    def __init__(self) -> None:
        self.moment = 99.0

    def now(self) -> float:
        self.moment += 1.0
        return self.moment

    def sleep(self, seconds: float) -> None:
        self.moment += seconds


def test_an_operation_has_what_was_given_and_what_was_seen() -> None:
    history = History(start=100.0, clock=Steps())
    client = history.client()
    written = client.invoke("update", key="1", value="w0.1", expected=2).ok(version=3, source="postgres", node="a")
    seen = client.invoke("read", key="1").ok(value="w0.1", version=3, source="redis", state="hit")
    created = client.invoke("create", value="x").ok(key="9")
    assert history.operations == [written, seen, created]
    assert written == Operation(
        0, 0, "update", "1", "w0.1", "ok", 0.0, 1.0, 3, 2, "postgres", None, "a", None, 1, "run", 0
    )
    assert (seen.value, seen.source, seen.state, seen.time, seen.end) == ("w0.1", "redis", "hit", 2.0, 3.0)
    assert created.key == "9"


def test_operations_are_in_the_order_of_their_begin_and_records_in_that_of_their_end() -> None:
    history = History(start=0.0)
    first = history.client().invoke("update", key="1")
    second = history.client().invoke("read", key="1")
    second.ok()
    assert [each.index for each in history.operations] == [1]
    first.ok()
    assert [each.index for each in history.operations] == [0, 1]
    assert [each.index for each in history.records if isinstance(each, Operation)] == [1, 0]


def test_the_list_of_operations_belongs_to_its_reader() -> None:
    history = History(start=0.0)
    history.client().invoke("create").ok()
    history.client().invoke("read").ok()
    history.operations.reverse()
    assert [each.f for each in history.operations] == ["create", "read"]


def test_a_key_may_be_a_number() -> None:
    client = History().client()
    assert client.invoke("read", key=7).ok().key == 7  # type: ignore[arg-type, comparison-overlap]  # of untyped tests


@pytest.mark.parametrize("key", [object(), ["a"], b"a"], ids=["object", "list", "bytes"])
def test_a_key_that_names_no_object_is_an_error(key):
    client = History().client()
    with pytest.raises(
        SetupError, match=r"operation 'read': a key is the text that names an object, such as \"7\", or None; got"
    ):
        client.invoke("read", key=key)
    with pytest.raises(SetupError, match=r"operation 'create': a key is the text"), client.invoke("create") as created:
        created.ok(key=key)
    assert [each.type for each in client.history.operations] == ["info"]


def test_after_an_unknown_outcome_the_client_goes_on_as_a_new_process() -> None:
    history = History(start=0.0)
    one, two = history.client(), history.client()
    one.invoke("update").fail(412)
    one.invoke("update").info(TimeoutError("no answer"))
    one.invoke("update").ok()
    two.invoke("update").ok()
    assert [(each.client, each.process) for each in history.operations] == [(0, 0), (0, 0), (0, 2), (1, 1)]
    assert [each.error for each in history.operations] == ["412", "TimeoutError: no answer", None, None]


def test_an_operation_has_the_episode_and_the_phase_in_which_it_began() -> None:
    history = History(start=0.0)
    history.begin_phase("recovery", 2)
    invocation = history.client().invoke("read")
    history.begin_phase("heal", 3)
    operation = invocation.ok()
    assert (operation.episode, operation.phase) == (2, "recovery")


def test_an_operation_ends_once() -> None:
    history = History(start=0.0)
    invocation = history.client().invoke("read", key="7")
    invocation.fail(503)
    with pytest.raises(SetupError, match="read of '7' has ended before, with fail"):
        invocation.ok()
    assert len(history.operations) == 1


def test_a_client_performs_one_operation_at_a_time() -> None:
    history = History(start=0.0)
    client = history.client()
    client.invoke("update")
    with pytest.raises(SetupError, match="client 0 begins 'read' before its last operation has ended"):
        client.invoke("read")
    client.give_up("cancelled")
    client.invoke("read").ok()
    client.give_up("nothing is left to give up")
    assert [(each.f, each.type, each.error) for each in history.operations] == [
        ("update", "info", "cancelled"),
        ("read", "ok", None),
    ]


def test_an_exception_that_leaves_the_block_is_an_unknown_outcome() -> None:
    history = History(start=0.0)
    with pytest.raises(KeyboardInterrupt), history.client().invoke("update"):
        raise KeyboardInterrupt
    with history.client().invoke("read") as invocation:
        invocation.ok(value=1)
    with pytest.raises(ValueError, match="after the end"), history.client().invoke("read") as invocation:
        invocation.fail("404")
        raise ValueError("after the end")
    with pytest.raises(SetupError, match="neither ok, fail nor info"), history.client().invoke("read"):
        pass
    assert [(each.type, each.error) for each in history.operations] == [
        ("info", "KeyboardInterrupt"),
        ("ok", None),
        ("fail", "404"),
    ]


def test_the_end_of_a_history_ends_its_operations_as_unknown(tmp_path: Path) -> None:
    history = History(file=HistoryFile(tmp_path / "it.jsonl"))
    invocation = history.client().invoke("update", key="1", value="w1")
    history.close()
    history.close()
    late = invocation.ok()  # the answer comes after the test
    assert late.type == "info"
    assert History.load(tmp_path / "it.jsonl").operations == [late]


class YieldingClock(Steps):
    """A clock that lets another thread run before each reading."""

    def now(self) -> float:
        time.sleep(0)  # releases the interpreter lock
        return super().now()


@pytest.fixture
def _frequent_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_frequent_switches")
def test_threads_lose_no_operation_and_indexes_rise_with_time(tmp_path: Path) -> None:
    file = tmp_path / "it.jsonl"
    history = History(clock=YieldingClock(), file=HistoryFile(file))

    def work() -> None:
        client = history.client()
        for n in range(200):
            invocation = client.invoke("update", value=n)
            invocation.ok() if n % 3 else invocation.info("unknown")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history.close()
    operations = history.operations
    assert [each.index for each in operations] == list(range(800))
    assert [each.time for each in operations] == sorted(each.time for each in operations)
    assert {each.client for each in operations} == {0, 1, 2, 3}
    for process in {each.process for each in operations}:
        outcomes = [each.type for each in operations if each.process == process]
        assert "info" not in outcomes[:-1]  # an unknown outcome is a process's last
    assert History.load(file).operations == operations


# Files


def test_a_saved_history_is_loaded_without_a_loss(tmp_path: Path) -> None:
    history = History(start=100.0, clock=Steps())
    client = history.client()
    history.begin_phase("baseline", 1)
    strike = history.add_strike("redis.reset", 100.25)
    client.invoke("list").ok(value={"1": "a", "2": None})
    client.invoke("update", key="é", value=["x", 1.5, True]).info(TimeoutError())
    history.add_heal(strike, 100.5, touched=4, unit="connections")
    history.add_skip("strike", "postgres.kill", "it is paused")
    history.add_probe("ready", {"status": None, "error": "refused"})
    history.save(tmp_path / "it.jsonl")
    loaded = History.load(tmp_path / "it.jsonl")
    assert loaded.records == history.records
    assert loaded.operations == history.operations
    assert loaded.marks == history.marks
    assert loaded.faults == history.faults == [FaultPeriod("redis.reset", 0.25, 0.5)]


def test_a_loaded_history_goes_on_with_unused_numbers() -> None:
    strike = FaultMark("strike", "redis.refuse", 0.5, 6)
    history = History.of([Operation(4, 7, "read", client=2), strike])
    operation = history.client().invoke("read").ok()
    assert (operation.index, operation.process, operation.client) == (5, 8, 3)
    assert history.add_strike("redis.refuse", 1.0).strike == 7


def test_a_saved_history_has_no_secrets(tmp_path: Path) -> None:
    password = new_password()
    history = History(start=0.0)
    history.client().invoke("read", value=f"redis://:{password}@host").fail(f"no {password}")
    for kind in ("save", "edn", "elle", "porcupine"):
        history.save(tmp_path / kind) if kind == "save" else history.export(tmp_path / kind, kind)
        assert password not in (tmp_path / kind).read_text()


def history_of_one() -> History:
    history = History()
    history.client().invoke("read", key="1").ok(value="x")
    return history


@pytest.mark.parametrize(
    ("checkers", "message"),
    [
        ((), r"check\(\) without a checker proves nothing; it takes checkers, such as check\(no_lost_writes\(\)\)"),
        (
            (no_lost_writes,),
            r"no_lost_writes is a function that returns a checker: call it, as in check\(no_lost_writes\(",
        ),
        ((unique_ids(), recovered), "recovered is a function that returns a checker"),
        (([unique_ids()],), r"a checker is a function of a history, such as no_lost_writes\(\); got \["),
        ((lambda history: True,), "a checker returns a Verdict, and .* has returned True"),
    ],
    ids=["none", "not called", "the second one", "a list", "no verdict"],
)
def test_what_is_no_checker_is_an_error(checkers, message):
    with pytest.raises(SetupError, match=message):
        history_of_one().check(*checkers)


def test_a_check_of_a_history_without_operations_is_an_error():
    history = History()
    with pytest.raises(
        SetupError, match="the history has no operation that has ended, so the checkers have nothing to judge"
    ):
        history.check(unique_ids())
    history.add_probe("ready", {"status": 200, "error": None})
    history.check(unique_ids())
    history_of_one().check(unique_ids(), lambda history: Verdict("mine", "ok"))
    with pytest.raises(PromiseBroken):
        History().check(lambda history: Verdict("mine", "violated", "there is no operation"))
