"""A command that was cancelled leaves no reply for the next one on its connection."""

import asyncio

import pytest
import redis.asyncio


@pytest.mark.asyncio
async def test_a_cancelled_command_leaves_no_reply_for_the_next_one(resilience):
    async with redis.asyncio.Redis.from_url(resilience.redis.url) as client:
        await client.mset({"a": "1", "b": "2"})
        with resilience.redis.on("get", key="a").delay(0.3), pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.get("a"), 0.1)
        assert await client.get("b") == b"2"
