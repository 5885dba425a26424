"""Play scenarios by the asyncio client of redis-py with its defaults and a time-out: python redis_py_asyncio_client.py URL."""

from __future__ import annotations

import sys
import urllib.parse

import redis.asyncio as redis
from answers import TIMEOUT, Answer, Attempts, no_code, serve_async

PARTS = urllib.parse.urlsplit(sys.argv[1])
attempts = Attempts(no_code)


async def transaction(client: redis.Redis) -> None:
    async with client.pipeline(transaction=True) as pipeline:
        await pipeline.set("acts:a", 1).incr("acts:b").execute()


async def play(scenario: str) -> Answer:
    async with redis.Redis(
        host=PARTS.hostname, port=PARTS.port, password=PARTS.password, socket_timeout=TIMEOUT
    ) as client:
        if scenario != "connect":
            await client.ping()
        scenarios = {
            "set": lambda: client.set("acts:a", 1),
            "get": lambda: client.get("acts:text"),
            "multi": lambda: transaction(client),
            "connect": client.ping,
        }
        return {"raised": await attempts.wait(scenarios[scenario]), "next": await attempts.wait(client.ping)}


serve_async("redis", play)
