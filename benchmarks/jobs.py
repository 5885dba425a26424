"""Measure the queue of jobs: the journal, its hand-back to Redis, and the runs of jobs, relative to BullMQ's own client.

    python benchmarks/jobs.py [--jobs 10000] [--rounds 3]

An embedded Redis behind its proxy takes the jobs. All figures are from one process, and the variants take turns, so that a busy machine
slows all of them. The processor does nothing, so runs measure the queue alone. Compare ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from bullmq import Queue
from redis.asyncio import Redis

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from pytest_resilience.backends.embedded.backend import EmbeddedBackend  # noqa: E402  # the checkout may not be installed
from pytest_resilience.stack import Stack  # noqa: E402
from service.cache.pending_writes import PendingWrites  # noqa: E402
from service.cache.redis_store import RedisStore  # noqa: E402
from service.jobs.job import Job, Progress  # noqa: E402
from service.jobs.queue import JobQueue  # noqa: E402
from service.jobs.worker import Worker  # noqa: E402
from service.settings import ServiceSettings  # noqa: E402

CLIENTS = 50
GOAL = 2.0  # times BullMQ's addBulk, for the hand-back of the journal


class Nothing:
    """A processor that does nothing."""

    async def process(self, job: Job, progress: Progress) -> None:
        """Do nothing."""


class Bench:
    """The variants, each of which returns the seconds that it took."""

    def __init__(self, url: str, directory: Path, jobs: int) -> None:
        self._url = url
        self._jobs = [Job(number + 1) for number in range(jobs)]
        self._settings = ServiceSettings(
            database_url="postgresql://127.0.0.1:1/x",
            redis_url=url,
            journal_dir=str(directory),
            journal_max_jobs=2 * jobs,
        )

    async def variants(self) -> dict[str, float]:
        """Return the seconds of each variant."""
        return {
            "BullMQ addBulk": await self._timed(self._add_bulk),
            "BullMQ add, one by one": await self._timed(self._add),
            **await self._journal(),
        }

    async def _timed(self, work: Callable[[], Awaitable[None]]) -> float:
        async with Redis.from_url(self._url) as redis:
            await redis.flushall()
        begin = time.perf_counter()
        await work()
        return time.perf_counter() - begin

    async def _add_bulk(self) -> None:
        queue = Queue("bulk", {"connection": self._url})
        for begin in range(0, len(self._jobs), 100):
            batch = self._jobs[begin : begin + 100]
            await queue.addBulk([{"name": "send", "data": {}, "opts": {"jobId": job.id}} for job in batch])
        await queue.close()

    async def _add(self) -> None:
        queue = Queue("single", {"connection": self._url})
        for job in self._jobs:
            await queue.add("send", {}, {"jobId": job.id})
        await queue.close()

    async def _journal(self) -> dict[str, float]:
        store = RedisStore(self._settings, lifetime=60, pending=PendingWrites(max_keys=1), next_writes=list)
        queue = JobQueue(self._settings, store)
        await queue.start()
        worker = Worker(self._settings, queue, Nothing(), may_take=lambda: True)
        seconds: dict[str, float] = {}

        async def fill() -> None:
            parts: Sequence[Sequence[Job]] = [self._jobs[client::CLIENTS] for client in range(CLIENTS)]

            async def client(jobs: Sequence[Job]) -> None:
                for job in jobs:
                    await queue.journal.append(job)

            await asyncio.gather(*(client(jobs) for jobs in parts))

        async def hand_back() -> None:
            async with _running(store.run, queue.run):
                while queue.journal:  # noqa: ASYNC110  # the queue has no event for this
                    await asyncio.sleep(0.001)

        async def run_all() -> None:
            async with _running(store.run, queue.run, worker.run), Redis.from_url(self._url) as redis:
                while await redis.zcard("bull:campaigns:completed") < len(self._jobs):  # noqa: ASYNC110  # nor Redis
                    await asyncio.sleep(0.01)

        seconds["journal, 50 clients"] = await self._timed(fill)
        begin = time.perf_counter()
        await hand_back()
        seconds["hand-back of the journal"] = time.perf_counter() - begin
        begin = time.perf_counter()
        await run_all()
        seconds["runs of empty jobs, 2 at a time"] = time.perf_counter() - begin
        await queue.close()
        return seconds


@asynccontextmanager
async def _running(*loops: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(_run(loop)) for loop in loops]
        yield
        for each in running:
            each.cancel()


async def _run(loop: Callable[[], Awaitable[None]]) -> None:
    await loop()


def main() -> int:
    """Return 1 if the hand-back misses its goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    stack = Stack(EmbeddedBackend(), seed=1)
    rounds = []
    try:
        for _ in range(arguments.rounds):
            with tempfile.TemporaryDirectory() as directory:
                bench = Bench(stack.redis.url, Path(directory), arguments.jobs)
                rounds.append(asyncio.run(bench.variants()))
    finally:
        stack.close()
    middle = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    reference = middle["BullMQ addBulk"]
    print(f"{arguments.jobs} jobs, median of {arguments.rounds} rounds, {os.cpu_count()} cores")
    for name, seconds in middle.items():
        print(f"{name:34}{seconds:8.2f} s{arguments.jobs / seconds:10.0f} jobs/s{seconds / reference:8.2f} x addBulk")
    return int(middle["hand-back of the journal"] > GOAL * reference)


if __name__ == "__main__":
    sys.exit(main())
