import asyncio

from psycopg_pool import AsyncConnectionPool


async def test_a_cancelled_wait_for_a_connection_costs_none(resilience):
    async with AsyncConnectionPool(resilience.postgres.url, min_size=1, max_size=1, open=False, timeout=2) as pool:

        async def one():
            async with pool.connection() as connection:
                return await (await connection.execute("select 1")).fetchone()

        async with resilience.steady(one):
            with resilience.postgres.latency(0.2):
                first, second = asyncio.create_task(one()), asyncio.create_task(one())
                await asyncio.sleep(0.05)
                second.cancel()
                await asyncio.wait({first, second})
