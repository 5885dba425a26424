"""Waiting for a condition, with a clock that never waits."""

from __future__ import annotations

import asyncio
import time
import types

import pytest

from pytest_resilience import clock as clock_module
from pytest_resilience.clock import SYSTEM, wait_until, wait_until_async
from tests.support.clocks import FakeClock


def test_a_condition_that_is_true_at_once_costs_no_time() -> None:
    clock = FakeClock()
    assert wait_until(lambda: "yes", within=1, every=0.25, clock=clock) == "yes"
    assert clock.sleeps == []


def test_the_first_true_value_is_returned() -> None:
    clock = FakeClock()
    values = iter([None, 0, "", 7, 8])
    assert wait_until(lambda: next(values), within=10, every=0.25, clock=clock) == 7
    assert clock.sleeps == [0.25, 0.25, 0.25]


def test_the_last_value_is_returned_when_the_time_is_over() -> None:
    clock = FakeClock()
    values = iter([None, 0, False, "", []])
    assert wait_until(lambda: next(values), within=1, every=0.25, clock=clock) == []
    assert clock.time == 101.0


def test_a_condition_is_called_once_even_without_time() -> None:
    clock = FakeClock()
    calls: list[None] = []
    assert wait_until(lambda: calls.append(None), within=0, every=1, clock=clock) is None
    assert (len(calls), clock.sleeps) == (1, [])


def test_time_that_the_condition_takes_counts() -> None:
    clock = FakeClock()

    def slow() -> bool:
        clock.time += 5
        return False

    assert not wait_until(slow, within=6, every=0.5, clock=clock)
    assert clock.sleeps == [0.5]


def test_an_error_of_the_condition_ends_the_wait() -> None:
    with pytest.raises(ZeroDivisionError):
        wait_until(lambda: 1 // 0, within=1, every=0.25, clock=FakeClock())


def test_an_asynchronous_condition_is_awaited_until_it_is_true() -> None:
    values = iter([None, 0, 7])

    async def condition() -> int | None:
        return next(values)

    assert asyncio.run(wait_until_async(condition, within=60, every=0.001)) == 7


def test_an_asynchronous_wait_ends_at_its_deadline() -> None:
    clock = FakeClock()

    async def condition() -> bool:
        clock.time += 1
        return False

    assert asyncio.run(wait_until_async(condition, within=3, every=0, clock=clock)) is False
    assert clock.time == 103


def test_the_system_clock_never_goes_back() -> None:
    begin = SYSTEM.now()
    SYSTEM.sleep(0.001)
    assert SYSTEM.now() >= begin + 0.001


def test_a_wait_ends_although_a_test_has_stopped_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """freezegun replaces the functions of the module `time` in each module that has them."""
    replaced = {time.monotonic: lambda: 1.0, time.sleep: lambda _: None}
    for module in (time, clock_module):
        for name, value in list(vars(module).items()):
            if isinstance(value, types.BuiltinFunctionType) and value in replaced:
                monkeypatch.setattr(module, name, replaced[value])
    calls: list[None] = []
    assert not wait_until(lambda: len(calls) >= 100_000 or calls.append(None), within=0.05, every=0.02)
    assert len(calls) < 10, "the sleep is real, too"
