"""Questions to Postgres that go around the proxy."""

import asyncio

import asyncpg


def sql(resilience, statement, *args):
    async def ask():
        connection = await asyncpg.connect(resilience.postgres.direct_url)
        try:
            return await connection.fetch(statement, *args)
        finally:
            await connection.close()

    return asyncio.run(ask())


def backends(resilience, *, waiting=False):
    """How many sessions of the service's pool there are, or how many of them wait for a lock."""
    condition = "application_name LIKE 'service:%'" + (" AND wait_event_type = 'Lock'" if waiting else "")
    return sql(resilience, f"SELECT count(*) AS n FROM pg_stat_activity WHERE {condition}")[0]["n"]
