from redis.asyncio import BlockingConnectionPool, Redis


async def test_a_cancelled_get_gives_its_connection_back(resilience):
    pool = BlockingConnectionPool.from_url(resilience.redis.url, max_connections=2, timeout=2)
    client = Redis(connection_pool=pool)
    await resilience.redis.cancel_everywhere(lambda: client.get("one"), size=2)
    await pool.disconnect()
