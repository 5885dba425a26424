"""Redis as an optional cache of the free seats."""

from __future__ import annotations

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

BUDGET = 0.25  # seconds for a command
TTL = 5  # seconds, the largest age of a number

# AttributeError: Python 3.12 and 3.13 up to 3.13.5 raise it for a write to a connection that was just reset (python/cpython#136234).
AWAY = (redis.RedisError, OSError, AttributeError)


class Cache:
    """The free seats by event. While Redis is away, a read returns None and a write does nothing."""

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(
            url, socket_timeout=BUDGET, socket_connect_timeout=BUDGET, retry=Retry(NoBackoff(), 0)
        )

    async def get(self, event: int) -> int | None:
        """Return the free seats, or None if Redis does not have them."""
        try:
            found = await self._redis.get(f"free:{event}")
        except AWAY:
            return None
        return int(found) if found is not None else None

    async def put(self, event: int, free: int) -> None:
        """Store the free seats for some time."""
        try:
            await self._redis.set(f"free:{event}", free, ex=TTL)
        except AWAY:
            return

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
