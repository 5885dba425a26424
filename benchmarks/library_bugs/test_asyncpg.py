"""A pool gets the connection of a statement back that has timed out."""

import asyncio

import asyncpg
import pytest


@pytest.mark.asyncio
async def test_a_statement_that_timed_out_returns_its_connection(resilience):
    pool = await asyncpg.create_pool(resilience.postgres.url, min_size=1, max_size=1, command_timeout=0.3)
    with resilience.postgres.on("select", matching="orders").hang():
        async with asyncio.timeout(5):
            with pytest.raises(TimeoutError):
                await pool.fetch("select 'orders'")
            assert await pool.fetchval("select 1") == 1
    pool.terminate()
