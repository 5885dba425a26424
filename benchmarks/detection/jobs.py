"""A queue of jobs in Redis with one worker. With the bug, a worker that loses its connection runs its job again."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

BUG = os.environ.get("BUG") == "job"
WAITING, ACTIVE = "jobs:waiting", "jobs:active"


class Queue:
    """Jobs that run exactly once. The done ones are remembered in this process, as a database with a unique key would."""

    def __init__(self, url: str, run: Callable[[str], Awaitable[None]]) -> None:
        self._url = url
        self._run = run
        self._done: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        while self._task is not None and not self._task.done():
            self._task.cancel()  # more than once, because redis-py may swallow a cancellation while it connects
            await asyncio.wait({self._task}, timeout=0.1)

    async def _work(self) -> None:
        while True:
            client = Redis.from_url(
                self._url,
                decode_responses=True,
                socket_timeout=0.3,
                socket_connect_timeout=0.3,
                retry=Retry(NoBackoff(), 0),  # this loop is what tries again
            )
            try:
                while True:
                    for job in await client.lrange(ACTIVE, 0, -1):  # of a worker that was interrupted
                        await self._finish(client, job)
                    if job := await client.lmove(WAITING, ACTIVE, "RIGHT", "LEFT"):
                        await self._finish(client, job)
                    else:
                        await asyncio.sleep(0.01)
            except (RedisError, OSError, TimeoutError):
                await asyncio.sleep(0.05)
            finally:
                with contextlib.suppress(RedisError, OSError, TimeoutError):
                    await client.aclose()

    async def _finish(self, client: Redis, job: str) -> None:
        if BUG or job not in self._done:
            await self._run(job)
            self._done.add(job)
        await client.lrem(ACTIVE, 1, job)
