"""Queries to Postgres that bypass the proxy."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import asyncpg


def sql(resilience, statement, *args):
    async def query():
        connection = await asyncpg.connect(resilience.postgres.direct_url)
        try:
            return await connection.fetch(statement, *args)
        finally:
            await connection.close()

    with ThreadPoolExecutor(1) as thread:  # the test may itself run in an event loop
        return thread.submit(lambda: asyncio.run(query())).result()


def backends(resilience, *, waiting=False):
    """Return the number of sessions of the service's pool, or of those that wait for a lock."""
    condition = "application_name LIKE 'service:%'" + (" AND wait_event_type = 'Lock'" if waiting else "")
    return sql(resilience, f"SELECT count(*) AS n FROM pg_stat_activity WHERE {condition}")[0]["n"]
