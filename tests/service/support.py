"""Queries to Postgres that bypass the proxy."""

import asyncio

import asyncpg


def sql(resilience, statement, *args):
    async def query():
        connection = await asyncpg.connect(resilience.postgres.direct_url)
        try:
            return await connection.fetch(statement, *args)
        finally:
            await connection.close()

    return asyncio.run(query())


def backends(resilience, *, waiting=False):
    """Return the number of sessions of the service's pool, or of those that wait for a lock."""
    condition = "application_name LIKE 'service:%'" + (" AND wait_event_type = 'Lock'" if waiting else "")
    return sql(resilience, f"SELECT count(*) AS n FROM pg_stat_activity WHERE {condition}")[0]["n"]
