"""The history of a test is append-only, and each test has its own."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest

from pytest_resilience.history import FaultPeriod, History, current, recording, struck


def test_a_strike_and_its_heal_are_two_marks() -> None:
    history = History()
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
    history = History()
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
    history = History()
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
    history = History()
    with recording(history):
        history.add_strike("redis.refuse", 5.0)
        assert struck(1.0, 9.0) == "redis.refuse"
        assert struck(1.0, 2.0) == "nothing"
