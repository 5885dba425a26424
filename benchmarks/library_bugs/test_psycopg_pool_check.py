from psycopg_pool import AsyncConnectionPool


async def test_a_cancelled_check_gives_its_connection_back(resilience):
    check = AsyncConnectionPool.check_connection
    async with AsyncConnectionPool(
        resilience.postgres.url, min_size=2, max_size=2, open=False, timeout=3, check=check
    ) as pool:

        async def one():
            async with pool.connection() as connection:
                return await (await connection.execute("select 1")).fetchone()

        await resilience.postgres.cancel_everywhere(one, size=2)
