"""Redis, which may be away: then a read finds nothing and a write is dropped, at a price of BUDGET seconds at most."""

from __future__ import annotations

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

BUDGET = 0.25  # seconds that one command may take
TTL = 30  # seconds; after an outage of Redis a name may be that old

# AttributeError: Python 3.12 and 3.13 up to 3.13.5 raise it for a write to a connection that was just reset (python/cpython#136234).
AWAY = (redis.RedisError, OSError, AttributeError)


class Cache:
    """Names of products, by number."""

    def __init__(self, url: str) -> None:
        # One command, one try: the library's own ten retries would cost seconds in each request.
        self._redis = redis.Redis.from_url(
            url,
            socket_timeout=BUDGET,
            socket_connect_timeout=BUDGET,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )

    async def get(self, number: int) -> str | None:
        """The name, or None when Redis does not know it or is away."""
        try:
            return await self._redis.get(f"product:{number}")
        except AWAY:
            return None

    async def put(self, number: int, name: str) -> None:
        """Remember a name."""
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
        """Close its connections."""
        await self._redis.aclose()
