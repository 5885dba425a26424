"""The worker, without HTTP: python -m orders.worker, with DATABASE_URL and REDIS_URL.

The table of orders is the truth, and Redis only shortens the wait. So an outage of Redis delays a parcel and loses none. An order and
its parcel are written in one transaction, so a worker that is killed ships an order once or not at all.
"""

from __future__ import annotations

import asyncio
import logging
import os

import asyncpg
import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

LOG = logging.getLogger(__name__)
LOOK = 1.0  # seconds between two looks at the table while nothing wakes the worker
CLAIM = "SELECT id FROM orders WHERE shipped_by IS NULL ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED"


async def ship_next(connection: asyncpg.Connection) -> bool:
    """Ship the oldest order that has no parcel yet. Return False if there is none."""
    async with connection.transaction():
        number = await connection.fetchval(CLAIM)
        if number is None:
            return False
        await connection.execute("INSERT INTO parcels VALUES ($1)", number)
        await connection.execute("UPDATE orders SET shipped_by = $2 WHERE id = $1", number, os.getpid())
    LOG.info("shipped order %d", number)
    return True


async def wait(client: redis.Redis) -> None:
    """Wait for a wake-up, or until it is time to look."""
    try:
        await client.blpop(["wake-ups"], timeout=LOOK)
    except (redis.RedisError, OSError) as error:
        LOG.info("Redis is away: %r", error)
        await asyncio.sleep(LOOK)


async def work() -> None:
    """Ship orders for ever."""
    client = redis.Redis.from_url(
        os.environ["REDIS_URL"], socket_timeout=LOOK + 1, socket_connect_timeout=0.25, retry=Retry(NoBackoff(), 0)
    )
    LOG.info("ready")
    while True:
        try:
            connection = await asyncpg.connect(os.environ["DATABASE_URL"], timeout=2, command_timeout=2)
            try:
                while True:
                    while await ship_next(connection):
                        pass
                    await wait(client)
            finally:
                connection.terminate()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            LOG.info("Postgres is away: %r", error)
            await asyncio.sleep(LOOK / 4)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    asyncio.run(work())
