from redis.asyncio import Redis


async def test_a_subscriber_hears_again_after_a_lost_connection(resilience):
    async with Redis.from_url(resilience.redis.url) as client, client.pubsub() as subscriber:
        await subscriber.subscribe("news")

        async def hears():
            await client.publish("news", "hello")
            return await subscriber.get_message(ignore_subscribe_messages=True, timeout=1)

        assert await subscriber.get_message(timeout=5)
        async with resilience.steady(hears):
            resilience.redis.reset().heal()
