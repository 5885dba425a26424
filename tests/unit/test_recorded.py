"""`History.recorded` records each call of a sync or async function, and changes nothing else of it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from pytest_resilience.errors import SetupError
from pytest_resilience.history import History

STORE: dict[str, str] = {}


class Missing(LookupError):
    """The store has no such key."""


def get(key: str) -> str:
    """Return a value of the store."""
    if key not in STORE:
        raise Missing(key)
    return STORE[key]


def put(key: str, value: str, *, slow: bool = False) -> None:
    STORE[key] = value
    if slow:
        raise TimeoutError("no answer")


@pytest.fixture(autouse=True)
def _empty_store() -> None:
    STORE.clear()


def test_a_result_is_the_value_of_a_read_and_the_arguments_give_that_of_a_write() -> None:
    history = History()
    read = history.recorded(get, f="read", key=lambda key: key)
    write = history.recorded(put, f="update", key=lambda key, value, **_: key, value=lambda key, value, **_: value)
    write("a", "w1")
    assert read("a") == "w1"
    assert [(each.f, each.key, each.value, each.type, each.error) for each in history.operations] == [
        ("update", "a", "w1", "ok", None),
        ("read", "a", "w1", "ok", None),
    ]


def test_a_key_is_a_text_or_none_or_becomes_text() -> None:
    history = History()
    history.recorded(str, f="run")()
    history.recorded(str, f="run", key="job")()
    history.recorded(str, f="run", key=lambda number: number)(7)
    history.recorded(str, f="run", key=lambda number: None)(7)
    assert [each.key for each in history.operations] == [None, "job", "7", None]


@pytest.mark.parametrize("key", [object(), [object()], lambda: None], ids=["object", "list", "function"])
def test_a_key_without_a_text_of_its_own_is_an_error(key: object) -> None:
    history = History()
    with pytest.raises(
        SetupError, match=r"recorded\(f='run'\): the key of a call is the text.* let `key` return its id"
    ):
        history.recorded(str, f="run", key=lambda number: key)(7)
    assert history.operations == []


def test_an_exception_is_an_unknown_outcome_unless_it_proves_that_nothing_happened() -> None:
    history = History()
    read = history.recorded(get, f="read", fails=(Missing,))
    write = history.recorded(put, f="update", value=lambda key, value, **_: value)
    with pytest.raises(Missing):
        read("b")
    with pytest.raises(TimeoutError):
        write("b", "w2", slow=True)
    assert [(each.type, each.value, each.error) for each in history.operations] == [
        ("fail", None, "Missing: b"),
        ("info", "w2", "TimeoutError: no answer"),
    ]


def test_an_interrupt_is_an_unknown_outcome() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    history = History()
    with pytest.raises(KeyboardInterrupt):
        history.recorded(interrupted, f="update", fails=(Exception,))()
    assert [each.type for each in history.operations] == ["info"]


def test_a_coroutine_function_stays_one_and_is_recorded_when_it_ends() -> None:
    async def fetch(key: str) -> str:
        """Return a value later."""
        await asyncio.sleep(0)
        return get(key)

    history = History()
    read = history.recorded(fetch, f="read", key=lambda key: key)
    STORE["a"] = "w1"

    async def main() -> str:
        call = read("a")
        assert not history.operations
        return await call

    assert inspect.iscoroutinefunction(read)
    assert (read.__name__, read.__doc__) == ("fetch", "Return a value later.")
    assert asyncio.run(main()) == "w1"
    assert [(each.key, each.value, each.type) for each in history.operations] == [("a", "w1", "ok")]


class Client:
    """A client with the three other forms of an async call."""

    async def __call__(self, key: str) -> str:
        await asyncio.sleep(0)
        return get(key)

    def get(self, key: str) -> Any:
        return self(key)


@pytest.mark.parametrize(
    "function", [Client(), functools.partial(Client().get), Client().get, functools.partial(Client().__call__)]
)
def test_other_async_calls_are_recorded_when_they_end(function: Any) -> None:
    history = History()
    read = history.recorded(function, f="read")

    async def main() -> None:
        with pytest.raises(Missing):
            await read("a")
        STORE["a"] = "w1"
        assert await read("a") == "w1"

    asyncio.run(main())
    assert [(each.type, each.value, each.error) for each in history.operations] == [
        ("info", None, "Missing: a"),
        ("ok", "w1", None),
    ]


def test_a_cancelled_call_is_an_unknown_outcome() -> None:
    history = History()

    async def main() -> None:
        begun = asyncio.Event()

        async def hang() -> None:
            begun.set()
            await asyncio.Event().wait()

        update = history.recorded(hang, f="update", fails=(BaseException,))  # type: ignore[arg-type]
        task = asyncio.create_task(update())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert [(each.type, each.error) for each in history.operations] == [("info", "CancelledError")]


def test_each_thread_and_each_task_is_a_client_for_all_its_calls() -> None:
    history = History()
    write = history.recorded(put, f="update")
    read = history.recorded(get, f="read")

    def both() -> None:
        write("a", "w")
        read("a")

    async def both_async() -> None:
        write("a", "w")
        await asyncio.sleep(0)
        read("a")

    async def main() -> None:
        await asyncio.gather(both_async(), both_async())

    both()
    thread = threading.Thread(target=both)
    thread.start()
    thread.join()
    asyncio.run(main())
    both()
    clients = {client: [each.f for each in history.operations if each.client == client] for client in range(4)}
    assert clients == {0: ["update", "read"] * 2, 1: ["update", "read"], 2: ["update", "read"], 3: ["update", "read"]}


def test_a_call_within_a_call_is_of_another_client() -> None:
    history = History()
    read = history.recorded(get, f="read")
    history.recorded(lambda: read("a"), f="run")
    STORE["a"] = "w1"
    outer = history.recorded(lambda: read("a"), f="run")
    outer()
    assert [(each.f, each.client) for each in history.operations] == [("run", 0), ("read", 1)]


def test_a_generator_function_is_an_error() -> None:
    def one() -> Iterator[int]:
        yield 1

    async def two() -> AsyncIterator[int]:
        yield 1

    for function in (one, two):
        with pytest.raises(SetupError, match="a generator has no outcome"):
            History().recorded(function, f="read")
