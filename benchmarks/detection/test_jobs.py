"""Each job runs exactly once, whatever happens to Redis."""

from __future__ import annotations

import asyncio
import itertools

from hypothesis import given
from jobs import ACTIVE, WAITING, Queue
from redis.asyncio import Redis
from redis.exceptions import RedisError

from pytest_resilience import Resilience, Schedule
from pytest_resilience.checkers import jobs_run
from pytest_resilience.history import Client
from pytest_resilience.strategies import schedules

JOB_SECONDS = 0.01  # for one job, such as a message that is sent
JOBS = 4  # that each operation enqueues


class Jobs:
    """Enqueue jobs around the proxy. The worker reaches Redis through it."""

    kinds = ("enqueue",)

    async def begin(self, resilience: Resilience) -> None:
        self._redis = Redis.from_url(resilience.redis.direct_url, socket_timeout=1.0)
        self._history = resilience.history
        self._worker = resilience.history.client()
        self._numbers = itertools.count(1)
        self._queue = Queue(resilience.redis.url, self._run)
        self._queue.start()

    def kind(self, n: int) -> str:
        return "enqueue"

    async def _run(self, job: str) -> None:
        call = self._worker.invoke("run", key=job)
        await asyncio.sleep(JOB_SECONDS)
        call.ok()

    async def perform(self, client: Client, kind: str, n: int) -> None:
        for _ in range(JOBS):
            job = f"job-{next(self._numbers)}"
            call = client.invoke(kind, key=job)
            try:
                await self._redis.lpush(WAITING, job)
            except RedisError as error:
                call.info(error)
            else:
                call.ok()
        await asyncio.sleep(0.02)

    async def read_all(self, client: Client) -> None:
        """Wait until the queue is drained."""
        async with asyncio.timeout(10.0):
            while await self._redis.llen(WAITING) or await self._redis.llen(ACTIVE):  # noqa: ASYNC110  # nothing signals it
                await asyncio.sleep(0.02)

    async def end(self) -> None:
        await self._queue.stop()
        await self._redis.aclose()


@given(schedule=schedules("redis", faults=("reset", "refuse", "latency", "blackhole", "flap"), operations=12))
def test_each_job_runs_exactly_once(resilience: Resilience, schedule: Schedule) -> None:
    resilience.play(schedule, Jobs()).check(jobs_run(exactly_once=True))
