"""Acknowledged commits survive kill -9 of Postgres. Power loss is not simulated, because fsync is off."""

import asyncio
import contextlib
import itertools
import threading

import asyncpg
import pytest

from tests.support.backends import started, unavailable_reason
from tests.support.waiting import until

WRITERS = 4
ENOUGH = 200  # acknowledged commits before the strike


@pytest.fixture(scope="module", params=["embedded", "docker"])
def postgres(request):
    if reason := unavailable_reason(request.param):
        pytest.skip(reason)
    with started(request.param) as backend:
        yield backend.servers["postgres"]


async def commit_until_struck(url, writer, run, acknowledged):
    """Insert one row after the other until the strike, which may come before the connection."""
    # asyncpg may raise InternalClientError for a connection that ends between two messages. Nothing was acknowledged then.
    with contextlib.suppress(asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresError, OSError):
        connection = await asyncpg.connect(url)
        try:
            for number in itertools.count():
                await connection.execute("INSERT INTO ledger VALUES ($1, $2, $3)", run, writer, number)
                acknowledged.append((run, writer, number))
        finally:
            connection.terminate()


async def all_rows(url):
    connection = await asyncpg.connect(url)
    try:
        return {tuple(row) for row in await connection.fetch("SELECT run, writer, number FROM ledger")}
    finally:
        await connection.close()


async def make_table(url):
    connection = await asyncpg.connect(url)
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS ledger (run int, writer int, number int, PRIMARY KEY (run, writer, number))"
    )
    await connection.close()


@pytest.mark.parametrize("run", range(3))
def test_no_acknowledged_commit_is_lost(postgres, run):
    url = postgres.url(postgres.direct_address)
    asyncio.run(make_table(url))
    acknowledged = []

    async def write():
        await asyncio.gather(*(commit_until_struck(url, writer, run, acknowledged) for writer in range(WRITERS)))

    writers = threading.Thread(target=lambda: asyncio.run(write()))
    writers.start()
    until(lambda: len(acknowledged) > ENOUGH)
    postgres.kill()
    writers.join(10)
    assert not writers.is_alive()
    postgres.start()
    assert set(acknowledged) <= asyncio.run(all_rows(url))
    assert len(acknowledged) > ENOUGH
