"""A library for the stock of a shop, kept in Postgres (asyncpg) and counted through Redis.

Its promises: every call ends in time, with an answer or with `Unavailable`. A cancelled caller loses nothing: no connection,
no answer for another caller, no piece of the stock.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg
import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

TABLES = """
    create table if not exists stock (sku text primary key, pieces int not null check (pieces >= 0));
    create table if not exists reservations (sku text not null references stock, customer text not null, pieces int not null);
"""
TTL = 30  # seconds that Redis keeps a count

# AttributeError: Python 3.12 and 3.13 up to 3.13.5 raise it for a write to a connection that was just reset (python/cpython#136234).
REDIS_AWAY = (redis.RedisError, OSError, AttributeError)
POSTGRES_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # shut down, starting up, a query that was cancelled
    asyncpg.InsufficientResourcesError,  # no connection left
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)


class Unavailable(Exception):
    """Postgres is down or does not answer in time."""


class Inventory:
    """The stock, which counts and reserves pieces. `opened` creates it.

    Args:
        pool: connections to Postgres.
        cache: Redis.
        within: seconds for each step: acquire a connection, run a statement, release the connection, send a command to Redis.
    """

    def __init__(self, pool: asyncpg.Pool, cache: redis.Redis, within: float) -> None:
        self._pool = pool
        self._cache = cache
        self._within = within

    async def put(self, sku: str, pieces: int) -> None:
        """Set the number of pieces."""
        async with self._connection() as connection:
            await connection.execute(
                "insert into stock values ($1, $2) on conflict (sku) do update set pieces = excluded.pieces",
                sku,
                pieces,
            )
        await self._forget(sku)

    async def count(self, sku: str) -> int:
        """Return the number of free pieces from Redis, or from Postgres if Redis has none. 0 for an unknown SKU."""
        try:
            cached = await self._cache.get(f"stock:{sku}")
        except REDIS_AWAY:
            return await self._count_in_postgres(sku)  # without a second wait for Redis
        if cached is not None:
            return int(cached)
        pieces = await self._count_in_postgres(sku)
        with suppress(*REDIS_AWAY):
            await self._cache.set(f"stock:{sku}", pieces, ex=TTL)
        return pieces

    async def total(self) -> int:
        """Return the number of all free pieces from Postgres."""
        async with self._connection() as connection:
            return await connection.fetchval("select coalesce(sum(pieces), 0) from stock")

    async def reserve(self, sku: str, pieces: int, customer: str) -> bool:
        """Reserve pieces for a customer, all or none. Return False if there are not enough."""
        async with self._connection() as connection, connection.transaction():
            taken = "update stock set pieces = pieces - $2 where sku = $1 and pieces >= $2"
            if await connection.execute(taken, sku, pieces) == "UPDATE 0":
                return False
            await connection.execute("insert into reservations values ($1, $2, $3)", sku, customer, pieces)
        await self._forget(sku)
        return True

    async def _count_in_postgres(self, sku: str) -> int:
        async with self._connection() as connection:
            return await connection.fetchval("select pieces from stock where sku = $1", sku) or 0

    async def _forget(self, sku: str) -> None:
        with suppress(*REDIS_AWAY):
            await self._cache.delete(f"stock:{sku}")

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.Connection]:
        try:
            async with self._pool.acquire(timeout=self._within) as connection:
                yield connection
        except POSTGRES_AWAY as error:
            raise Unavailable(f"{type(error).__name__}: {error}") from error


@asynccontextmanager
async def opened(
    database_url: str, redis_url: str, *, connections: int = 10, within: float = 1.0
) -> AsyncIterator[Inventory]:
    """Open an inventory. It connects at its first call.

    Args:
        database_url: postgresql://...
        redis_url: redis://...
        connections: largest number of connections to Postgres.
        within: seconds for each step, see `Inventory`.
    """
    cache = redis.Redis.from_url(
        redis_url, socket_timeout=within, socket_connect_timeout=within, retry=Retry(NoBackoff(), 0)
    )
    pool = await asyncpg.create_pool(
        database_url, min_size=0, max_size=connections, timeout=within, command_timeout=within
    )
    try:
        yield Inventory(pool, cache, within)
    finally:
        try:
            await asyncio.wait_for(pool.close(), within)
        except TimeoutError:
            pool.terminate()
        await cache.aclose()
