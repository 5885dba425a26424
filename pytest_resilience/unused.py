"""Calls whose results the test has to use, such as `await eventually(...)`: without that, they check nothing and no one notices.

Each registers its result here. The plugin looks at the end of a test whether one was not used.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, NamedTuple, ParamSpec, TypeVar

from .errors import SetupError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
SomeCoroutine = TypeVar("SomeCoroutine", bound=Coroutine[Any, Any, Any])

PACKAGE = os.path.dirname(__file__) + os.sep  # noqa: PTH120  # compared with the names of files in frames


class _Call(NamedTuple):
    """A call whose result is to be used.

    Args:
        name: the call, such as "eventually(...)".
        place: file and line of the call.
        problem: the end of the message.
        is_used: returns True as soon as the result is used.
        drop: called if it was not used.
        may_be_kept: True if a fixture may make it for tests that do not use it.
    """

    name: str
    place: str
    problem: str
    is_used: Callable[[], bool]
    drop: Callable[[], object]
    may_be_kept: bool


_calls: list[_Call] = []


def expect_use(
    name: str,
    problem: str,
    is_used: Callable[[], bool],
    *,
    drop: Callable[[], object] = lambda: None,
    may_be_kept: bool = False,
) -> None:
    """Expect that the result of a call of the test is used before the test ends.

    Only calls of the main thread count. Another thread may be about to use a result when the test ends.

    Args:
        name: the call, such as "eventually(...)".
        problem: the end of the message, such as "was never awaited".
        is_used: returns True as soon as the result is used.
        drop: called if it was not used.
        may_be_kept: True if a fixture may make it for tests that do not use it.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    _calls[:] = [each for each in _calls if not each.is_used()]
    _calls.append(_Call(name, _place_of_caller(), problem, is_used, drop, may_be_kept))


def expect_await(
    coroutine: SomeCoroutine, name: str, *, remedy: str = "", drop: Callable[[], object] = lambda: None
) -> SomeCoroutine:
    """Expect that a coroutine which a call of the test has returned is awaited. Return it.

    Args:
        coroutine: the coroutine.
        name: the call, such as "eventually(...)".
        remedy: the correction; "" for that in an async test.
        drop: called if it was not awaited.
    """

    def is_used() -> bool:
        return inspect.getcoroutinestate(coroutine) != inspect.CORO_CREATED

    def close() -> None:
        coroutine.close()
        drop()

    problem = f"was never awaited, so it has checked nothing: {remedy or f'write `await {name}`'}"
    expect_use(name, problem, is_used, drop=close)
    return coroutine


def must_be_awaited(
    function: Callable[Arguments, Coroutine[Any, Any, Result]],
) -> Callable[Arguments, Coroutine[Any, Any, Result]]:
    """Return a coroutine function whose calls in a test have to be awaited. For methods of public objects."""

    @functools.wraps(function)
    def call(*arguments: Arguments.args, **settings: Arguments.kwargs) -> Coroutine[Any, Any, Result]:
        return expect_await(function(*arguments, **settings), f"{function.__name__}(...)")

    mark: Callable[[Any], Any] = getattr(inspect, "markcoroutinefunction", lambda each: each)  # from Python 3.12 on
    marked: Callable[Arguments, Coroutine[Any, Any, Result]] = mark(call)
    return marked


def must_be_iterated(function: Callable[Arguments, Iterator[str]]) -> Callable[Arguments, Iterator[str]]:
    """Return a generator function of phases whose results have to be iterated in a test."""

    @functools.wraps(function)
    def call(*arguments: Arguments.args, **settings: Arguments.kwargs) -> Iterator[str]:
        has_begun = False

        def phases() -> Iterator[str]:
            nonlocal has_begun
            has_begun = True
            yield from function(*arguments, **settings)

        name = f"{function.__name__}(...)"
        problem = f"was not iterated, so nothing has struck: write `for phase in {name}:`"
        expect_use(name, problem, lambda: has_begun)  # without a reference to the generator, whose end heals
        return phases()

    return call


def begin_test() -> None:
    """Forget all calls so far."""
    _end(_calls)


def begin_body() -> None:
    """Forget what fixtures have made that a test need not use."""
    _end([each for each in _calls if each.may_be_kept])


def problems() -> list[str]:
    """Return a sentence for each call whose result was not used, and forget them."""
    unused = [each for each in _calls if not each.is_used()]
    _end(_calls)
    return [f"{each.name} at {each.place} {each.problem}" for each in unused]


def check() -> None:
    """Check that the results of all calls are used.

    Raises:
        SetupError: some are not; the message has the calls.
    """
    if found := problems():
        raise SetupError("\n".join(found))


def _end(calls: Iterable[_Call]) -> None:
    ended = list(calls)
    _calls[:] = [each for each in _calls if each not in ended]
    for each in ended:
        if not each.is_used():
            each.drop()


def _place_of_caller() -> str:
    """Return file and line of the innermost frame outside of the package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    file = frame.f_code.co_filename
    return f"{file.removeprefix(os.getcwd() + os.sep)}:{frame.f_lineno}"  # noqa: PTH109  # a text
