"""A lock ends although Redis has lost the script that ends it, as after a restart or a failover."""

import pytest
from cashews import Cache


@pytest.mark.asyncio
async def test_a_lock_is_released_when_redis_has_lost_its_scripts(resilience):
    cache = Cache()
    cache.setup(resilience.redis.url)
    async with cache.lock("orders", expire=60):
        resilience.redis.on("evalsha").first(1).error("NOSCRIPT")
    assert not await cache.is_locked("orders")
    await cache.close()
