from psycopg import AsyncConnection


async def test_a_cancelled_select_leaves_a_usable_connection(resilience):
    async with await AsyncConnection.connect(resilience.postgres.url, autocommit=True) as connection:

        async def select(number):
            return await (await connection.execute("select %s", [number])).fetchone()

        await resilience.postgres.cancel_everywhere(lambda: select(1), then=lambda: select(2))
