"""A subscriber that renews its subscription after each outage of Redis, or with the bug after the first one only."""

from __future__ import annotations

import asyncio
import contextlib
import os

from redis.asyncio import Redis
from redis.exceptions import RedisError

BUG = os.environ.get("BUG") == "subscription"
CHANNEL = "news"


class Subscriber:
    """A task that receives the messages of a channel."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.received: set[str] = set()
        self._arrived = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        ready = asyncio.Event()
        self._task = asyncio.create_task(self._run(ready))
        await ready.wait()

    async def stop(self) -> None:
        while self._task is not None and not self._task.done():
            self._task.cancel()  # more than once, because redis-py may swallow a cancellation while it connects
            await asyncio.wait({self._task}, timeout=0.1)

    async def wait_for(self, message: str) -> None:
        async with self._arrived:
            await self._arrived.wait_for(lambda: message in self.received)

    async def _run(self, ready: asyncio.Event) -> None:
        subscriptions = 0
        while True:
            client = Redis.from_url(self._url, decode_responses=True, socket_timeout=0.5, socket_connect_timeout=0.5)
            try:
                channel = client.pubsub()
                if not BUG or subscriptions < 2:
                    await channel.subscribe(CHANNEL)
                else:
                    await channel.ping()  # connected, and that is all
                subscriptions += 1
                ready.set()
                while True:
                    message = await channel.get_message(timeout=0.2)
                    if message is None:
                        await channel.ping()
                    elif message["type"] == "message":
                        async with self._arrived:
                            self.received.add(message["data"])
                            self._arrived.notify_all()
            except (RedisError, OSError, TimeoutError):
                await asyncio.sleep(0.05)
            finally:
                with contextlib.suppress(RedisError, OSError, TimeoutError):
                    await client.aclose()
