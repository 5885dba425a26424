"""Results of calls that a test has to use: what counts as used, and what becomes of the others."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_resilience import unused
from pytest_resilience.errors import SetupError


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Without the calls of other tests, of which none may stay behind."""
    unused.begin_test()
    yield
    unused.begin_test()


class Target:
    """A public object with a coroutine function."""

    @unused.must_be_awaited
    async def answer(self, number: int) -> int:
        return number


def test_a_coroutine_that_is_not_awaited_is_a_problem_once_and_is_closed() -> None:
    coroutine = Target().answer(1)
    (problem,) = unused.problems()
    line = inspect.currentframe().f_lineno - 2  # type: ignore[union-attr]  # CPython has frames
    place = f"{Path(__file__).relative_to(Path.cwd())}:{line}"
    assert problem == f"answer(...) at {place} was never awaited, so it has checked nothing: write `await answer(...)`"
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
    unused.check()


def test_check_has_all_problems() -> None:
    Target().answer(1)
    unused.expect_use("on(...)", "has no act", lambda: False)
    with pytest.raises(SetupError, match=r"(?s)^answer\(\.\.\.\) at .*\non\(\.\.\.\) at .* has no act$"):
        unused.check()


def test_an_awaited_coroutine_is_no_problem() -> None:
    assert asyncio.run(Target().answer(7)) == 7
    Target().answer(7).close()
    assert unused.problems() == []


def test_a_call_of_another_thread_is_no_problem() -> None:
    """The thread may use its result in the next moment."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(unused.expect_use, "on(...)", "has no act", lambda: False).result()
    assert unused.problems() == []


def test_a_coroutine_function_stays_one_with_its_signature() -> None:
    assert list(inspect.signature(Target.answer).parameters) == ["self", "number"]
    if hasattr(inspect, "markcoroutinefunction"):  # from Python 3.12 on
        assert inspect.iscoroutinefunction(Target().answer)


def test_what_may_be_kept_is_forgotten_before_the_body() -> None:
    dropped = []
    unused.expect_use("on(...)", "", lambda: False, drop=lambda: dropped.append("on"), may_be_kept=True)
    unused.expect_use("eventually(...)", "", lambda: False)
    unused.begin_body()
    assert dropped == ["on"]
    unused.expect_use("when(...)", "", lambda: False, may_be_kept=True)
    assert [each.split(" ")[0] for each in unused.problems()] == ["eventually(...)", "when(...)"]


def test_a_new_test_forgets_the_calls_of_the_last_one() -> None:
    coroutine = Target().answer(1)
    unused.begin_test()
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
    assert unused.problems() == []
