import contextlib

from tortoise import Tortoise
from tortoise.transactions import in_transaction


async def test_a_lost_commit_leaves_a_usable_connection(resilience):
    await Tortoise.init(db_url=resilience.postgres.url.replace("postgresql", "asyncpg"), modules={"models": []})

    async def one():
        return await Tortoise.get_connection("default").execute_query_dict("select 1")

    async with resilience.steady(one):
        with resilience.postgres.on("commit").first(1).lose_answer(), contextlib.suppress(Exception):
            async with in_transaction() as connection:
                await connection.execute_query("select 2")
    await Tortoise.close_connections()
