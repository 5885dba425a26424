from redis.asyncio import BlockingConnectionPool, Redis


async def test_a_cancelled_pipeline_leaves_no_answer_for_the_next_one(resilience):
    client = Redis(connection_pool=BlockingConnectionPool.from_url(resilience.redis.url, max_connections=2))
    await client.mset({"one": "first", "two": "second"})
    await resilience.redis.cancel_everywhere(
        lambda: client.pipeline().get("one").execute(), then=lambda: client.get("two")
    )
    await client.connection_pool.disconnect()
