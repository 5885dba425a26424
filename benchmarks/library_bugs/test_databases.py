"""A pool gets the connection of a transaction back whose COMMIT failed."""

import asyncio

import pytest
from databases import Database


@pytest.mark.asyncio
async def test_a_commit_that_fails_returns_its_connection(resilience):
    database = Database(resilience.postgres.url, min_size=1, max_size=1)
    await database.connect()
    with resilience.postgres.on("commit").error("40001"), pytest.raises(Exception, match="could not serialize"):
        async with database.transaction():
            await database.execute("select 1")
    assert await asyncio.wait_for(asyncio.create_task(database.fetch_val("select 1")), 5) == 1
    await database.disconnect()
