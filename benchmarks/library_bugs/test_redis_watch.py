from redis.asyncio import BlockingConnectionPool, Redis


async def test_a_cancelled_watch_gives_its_connection_back(resilience):
    client = Redis(connection_pool=BlockingConnectionPool.from_url(resilience.redis.url, max_connections=2, timeout=2))

    async def watch():
        async with client.pipeline() as pipeline:
            await pipeline.watch("stock")
            return await pipeline.get("stock")

    await resilience.redis.cancel_everywhere(watch, size=2)
    await client.connection_pool.disconnect()
