from psycopg import AsyncConnection


async def test_a_cancelled_executemany_leaves_a_usable_connection(resilience):
    async with await AsyncConnection.connect(resilience.postgres.url, autocommit=True) as connection:
        await connection.execute("create table stock (item int)")

        async def insert():
            async with connection.cursor() as cursor:
                await cursor.executemany("insert into stock values (%s)", [(1,), (2,)])

        await resilience.postgres.cancel_everywhere(insert, then=lambda: connection.execute("select"), answer=bool)
