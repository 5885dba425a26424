"""Redis as an optional cache. While it is down, a read returns None and a write is dropped, within BUDGET seconds."""

from __future__ import annotations

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

BUDGET = 0.25  # seconds that one command may take
TTL = 30  # seconds, the largest age of a name after an outage of Redis

# AttributeError: Python 3.12 and 3.13 up to 3.13.5 raise it for a write to a connection that was just reset (python/cpython#136234).
AWAY = (redis.RedisError, OSError, AttributeError)


class Cache:
    """The names of products by number."""

    def __init__(self, url: str) -> None:
        # Each command is tried once. The ten retries of redis-py would cost seconds in each request.
        self._redis = redis.Redis.from_url(
            url,
            socket_timeout=BUDGET,
            socket_connect_timeout=BUDGET,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )

    async def get(self, number: int) -> str | None:
        """Return the name, or None if Redis does not have it or is down."""
        try:
            return await self._redis.get(f"product:{number}")
        except AWAY:
            return None

    async def put(self, number: int, name: str) -> None:
        """Store a name."""
        try:
            await self._redis.set(f"product:{number}", name, ex=TTL)
        except AWAY:
            return

    async def forget(self, number: int) -> None:
        """Drop a name."""
        try:
            await self._redis.delete(f"product:{number}")
        except AWAY:
            return

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
