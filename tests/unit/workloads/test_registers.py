"""An error of a driver is fail if the operation has not happened for certain, and else info for a write."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
import redis

from pytest_resilience.errors import SetupError
from pytest_resilience.history import History
from pytest_resilience.workloads import PostgresRegisters, RedisRegisters
from pytest_resilience.workloads.pattern import slot


class Connection:
    """A connection whose statements raise an error."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.terminated = False

    async def execute(self, *arguments: Any) -> None: ...

    async def executemany(self, *arguments: Any) -> None: ...

    async def fetchrow(self, *arguments: Any) -> Mapping[str, Any] | None:
        if self.error is not None:
            raise self.error
        return None

    fetch = fetchrow

    def is_closed(self) -> bool:
        return self.terminated

    def terminate(self) -> None:
        self.terminated = True

    async def close(self) -> None: ...


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


POSTGRES = [
    (asyncpg.ReadOnlySQLTransactionError("read-only"), "fail"),
    (asyncpg.SerializationError("again"), "fail"),
    (asyncpg.TooManyConnectionsError("full"), "fail"),
    (asyncpg.InterfaceError("the connection is closed"), "fail"),
    (asyncpg.AdminShutdownError("terminated"), "info"),
    (asyncpg.CrashShutdownError("crashed"), "info"),
    (asyncpg.ConnectionDoesNotExistError("closed in the middle"), "info"),
    (ConnectionResetError(104, "reset"), "info"),
    (TimeoutError(), "info"),
]


@pytest.mark.parametrize(("error", "outcome"), POSTGRES, ids=lambda each: type(each).__name__)
def test_outcomes_of_postgres(error: Exception, outcome: str) -> None:
    connection = Connection()

    async def connect(url: str) -> Connection:
        return connection

    async def work() -> History:
        history = History()
        workload = PostgresRegisters(connect)
        await workload.begin(SimpleNamespace(postgres=SimpleNamespace(url="postgresql://")))
        connection.error = error
        for kind in ("delete", "read"):
            connection.terminated = False
            await workload.perform(history.client(), kind, 0)
        await workload.end()
        return history

    delete, read = asyncio.run(work()).operations
    assert (delete.type, read.type) == (outcome, "fail")
    assert type(error).__name__ in str(delete.error)


def test_a_connection_that_cannot_be_opened_has_sent_nothing() -> None:
    opened = [Connection()]

    async def connect(url: str) -> Connection:
        if opened:
            return opened.pop()
        raise ConnectionRefusedError(111, "refused")

    async def work() -> History:
        history = History()
        workload = PostgresRegisters(connect)
        await workload.begin(SimpleNamespace(postgres=SimpleNamespace(url="postgresql://")))
        await workload.perform(history.client(), "delete", 0)
        return history

    (operation,) = asyncio.run(work()).operations
    assert operation.type == "fail"
    assert "ConnectionRefusedError" in str(operation.error)


REDIS = [
    (redis.exceptions.ReadOnlyError("READONLY"), "fail"),
    (redis.exceptions.OutOfMemoryError("OOM"), "fail"),
    (redis.exceptions.BusyLoadingError("LOADING"), "fail"),
    (redis.exceptions.ResponseError("ERR"), "fail"),
    (redis.exceptions.ConnectionError("max number of clients reached"), "fail"),
    (caused(redis.exceptions.ConnectionError("Error 111 connecting"), ConnectionRefusedError(111, "refused")), "fail"),
    (redis.exceptions.ConnectionError("Connection closed by server."), "info"),
    (redis.exceptions.TimeoutError("Timeout reading"), "info"),
    (ConnectionResetError(104, "reset"), "info"),
]


@pytest.mark.parametrize(("error", "outcome"), REDIS, ids=lambda each: type(each).__name__)
def test_outcomes_of_redis(error: Exception, outcome: str) -> None:
    class Client:
        async def get(self, *arguments: Any) -> None:
            raise error

        async def set(self, *arguments: Any) -> None:
            raise error

        async def aclose(self) -> None: ...

    async def work() -> History:
        history = History()
        workload = RedisRegisters(lambda url: Client())
        await workload.begin(SimpleNamespace(redis=SimpleNamespace(url="redis://")))
        for kind in ("update", "read"):
            await workload.perform(history.client(), kind, 0)
        await workload.end()
        return history

    update, read = asyncio.run(work()).operations
    assert (update.type, read.type) == (outcome, "fail")


def test_a_cancelled_write_is_unknown_and_the_cancellation_goes_on() -> None:
    class Client:
        async def set(self, *arguments: Any) -> None:
            await asyncio.sleep(60)

        async def aclose(self) -> None: ...

    async def work() -> History:
        history = History()
        workload = RedisRegisters(lambda url: Client())
        await workload.begin(SimpleNamespace(redis=SimpleNamespace(url="redis://")))
        task = asyncio.create_task(workload.perform(history.client(), "update", 0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return history

    (operation,) = asyncio.run(work()).operations
    assert (operation.type, operation.error) == ("info", "CancelledError")


def test_an_operation_that_takes_too_long_is_unknown() -> None:
    class Client:
        async def set(self, *arguments: Any) -> None:
            await asyncio.sleep(60)

    async def work() -> History:
        history = History()
        workload = RedisRegisters(lambda url: Client(), timeout=0.01)
        await workload.begin(SimpleNamespace(redis=SimpleNamespace(url="redis://")))
        await workload.perform(history.client(), "update", 0)
        return history

    (operation,) = asyncio.run(work()).operations
    assert (operation.type, operation.error) == ("info", "TimeoutError")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: PostgresRegisters(print, kinds=("add",)), "some of delete, update, read, list"),
        (lambda: PostgresRegisters(print, keys=0), "1 or more"),
        (lambda: PostgresRegisters(print, timeout=0), "seconds above 0"),
        (lambda: PostgresRegisters(print, table="t; drop table t"), "is a name such as"),
        (lambda: RedisRegisters(print, kinds=("add", "update")), "some of add, read"),
    ],
)
def test_wrong_settings_are_errors(make: Any, text: str) -> None:
    with pytest.raises(SetupError, match=text):
        make()


async def _returned(value: Any) -> Any:
    return value


@pytest.mark.parametrize(
    ("workload", "text"),
    [
        (lambda: PostgresRegisters(lambda url: redis.Redis()), "returned an object of redis.client.Redis"),
        (
            lambda: PostgresRegisters(lambda url: _returned(SimpleNamespace())),
            "returned an object of types.SimpleNamespace",
        ),
        (lambda: RedisRegisters(redis.Redis.from_url), "returned an object of redis.client.Redis"),
    ],
)
def test_a_client_of_another_kind_is_an_error_at_the_begin(workload: Any, text: str) -> None:
    url = SimpleNamespace(url="redis://127.0.0.1:1")
    with pytest.raises(SetupError, match=re.escape(text)):
        asyncio.run(workload().begin(SimpleNamespace(postgres=url, redis=url)))


def test_neighbours_race_for_one_object_and_objects_change_places() -> None:
    assert [slot(n, 3) for n in range(16)] == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 1, 1, 1, 1]
    for each in range(3):
        assert {n % 12 // 4 for n in range(48) if slot(n, 3) == each} == {0, 1, 2}
