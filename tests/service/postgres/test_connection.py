"""Connections that receive what asyncpg cannot read."""

import asyncio
import contextlib

import asyncpg
import pytest

from service.errors import Unavailable
from service.postgres.connection import Connection, UnreadableAnswerError, asyncpg_failed, connect
from service.postgres.pool import Database
from service.postgres.status import PostgresStatus
from service.settings import ServiceSettings

TIME_OUT = 10  # seconds; asyncpg may wait for ever if it lost the beginning of a message


async def with_connection(resilience, body):
    settings = ServiceSettings(database_url=resilience.postgres.url, db_command_timeout=2.0)
    lost = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))
    async with asyncio.timeout(TIME_OUT):
        connection = await connect(settings, "reader")
        try:
            await body(connection)
        finally:
            connection.terminate()
    assert all(asyncpg_failed(context) for context in lost), lost


@pytest.mark.parametrize("method", ["execute", "fetch", "fetchrow", "fetchval"])
def test_an_unreadable_answer_closes_its_connection(resilience, method):
    async def scene(connection):
        await getattr(connection, method)("SELECT $1::int", 1)
        unreadable = (
            asyncpg.InternalClientError,
            asyncpg.PostgresConnectionError,
        )  # in the statement, or at the bytes before it
        with resilience.postgres.protocol_violation(), pytest.raises(unreadable):
            await getattr(connection, method)("SELECT $1::int", 1)
        assert connection.is_closed()

    asyncio.run(with_connection(resilience, scene))


def test_an_error_of_the_parser_is_an_unreadable_answer_and_closes_the_connection(resilience):
    class Failing(Connection):
        async def _execute(self, *args, **options):
            raise BufferError("not enough data to read one byte")

    async def scene():
        connection = await asyncpg.connect(resilience.postgres.url, connection_class=Failing)
        try:
            with pytest.raises(UnreadableAnswerError, match="BufferError: not enough data") as raised:
                await connection.fetch("SELECT 1")
            assert isinstance(raised.value.__cause__, BufferError)
            assert connection.is_closed()
        finally:
            connection.terminate()

    asyncio.run(scene())


def test_an_error_of_a_statement_keeps_its_connection(resilience):
    async def scene(connection):
        with pytest.raises(asyncpg.UndefinedTableError):
            await connection.fetch("SELECT * FROM nowhere")
        with pytest.raises(asyncpg.DataError):
            await connection.fetch("SELECT $1::int", "x")
        assert not connection.is_closed()
        assert await connection.fetchval("SELECT 1") == 1

    asyncio.run(with_connection(resilience, scene))


def test_the_pool_is_unavailable_for_an_unreadable_answer_and_whole_after_it(resilience):
    async def scene():
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        settings = ServiceSettings(database_url=resilience.postgres.url, db_pool_max=2, db_command_timeout=2.0)
        database = Database(settings, "t3st", PostgresStatus())
        await database.start()
        try:
            await database.read("SELECT 1")
            with resilience.postgres.protocol_violation() as strike:
                with pytest.raises(Unavailable):
                    await database.write("SELECT 1 AS one")
                with contextlib.suppress(Unavailable):  # the second connection got an unreadable answer, too
                    await database.read("SELECT 1")
            assert strike.receipt.touched
            rows = await asyncio.gather(*(database.read("SELECT 1") for _ in range(6)))
            assert len(rows) == 6
            assert database.usage.in_use == 0
        finally:
            await database.close()

    async def limited():
        async with asyncio.timeout(TIME_OUT):
            await scene()

    asyncio.run(limited())
