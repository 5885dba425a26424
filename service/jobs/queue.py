"""The queue of jobs, in Redis while Redis is up and else in the journal.

Rules: the circuit breaker of the cache decides about Redis, and one loop follows it. A request spends at most
REDIS_BUDGET on Redis and then uses the journal, under the same job id, so a lost reply makes no second job. Jobs of the
journal go to Redis in their order, and until it is empty, new jobs go to the journal, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import random
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..cache.redis_store import RedisStore, RedisUnavailable, TimeBudget
from ..errors import Unavailable
from ..waiting import ends_within
from .bull import BullQueue
from .job import Job, JobState, QueueCounts
from .journal import Journal

if TYPE_CHECKING:
    from ..settings import ServiceSettings

log = logging.getLogger("service.jobs")

CHECK_INTERVAL = 1.0
HAND_BACK_BATCH = 250
ADOPTION_CHECKS = 5  # checks from one search for the journals of dead processes to the next


class JobQueue:
    """The queue that requests and the cadence use, and the loop that empties the journal.

    Args:
        redis: the Redis of the cache.
    """

    def __init__(self, settings: ServiceSettings, redis: RedisStore) -> None:
        self._budget = settings.redis_budget
        self.redis = redis
        self.bull = BullQueue(redis, attempts=settings.job_attempts)
        self.journal = Journal(Path(settings.journal_dir), max_jobs=settings.journal_max_jobs)
        self.failed_runs = 0
        self._counts = QueueCounts()
        self._wake = asyncio.Event()

    @property
    def taken_by(self) -> Literal["up", "journal", "full"]:
        """The part that takes jobs now: Redis ("up"), the journal, or neither ("full")."""
        if self.redis.up and not self.journal:
            return "up"
        return "journal" if self.journal.accepts else "full"

    @property
    def counts(self) -> QueueCounts:
        """The queue in numbers. Those of Redis are from the last check, and from before an outage during one."""
        return dataclasses.replace(self._counts, journal=len(self.journal), failed=self.failed_runs)

    async def enqueue(self, job: Job) -> bool:
        """Accept a job. Return True if an instance that is killed now does not lose it, which is always so.

        Raises:
            Unavailable: neither Redis nor the journal can take the job.
        """
        if self.redis.up and not self.journal:
            with contextlib.suppress(RedisUnavailable):
                await self.bull.add(job, TimeBudget(self._budget))
                return True
        await self.journal.append(job)
        self._wake.set()
        return True

    async def state(self, job_id: str) -> JobState | None:
        """Return the state of a job. None if there is no such job.

        Raises:
            Unavailable: Redis is down and the journal does not have the job.
        """
        job = Job.from_id(job_id)
        if job is None:
            return None
        try:
            found = await self.bull.state(job, TimeBudget(self._budget))
        except RedisUnavailable as error:
            if job not in self.journal:
                raise Unavailable("The queue of jobs cannot answer now.") from error
            found = None
        return JobState(job, "waiting") if found is None and job in self.journal else found

    async def retry(self, job_id: str) -> bool:
        """Move a job from the dead-letter queue back to the queue. False if it is not in the dead-letter queue.

        Raises:
            Unavailable: Redis is down.
        """
        job = Job.from_id(job_id)
        if job is None:
            return False
        try:
            return await self.bull.retry(job)
        except RedisUnavailable as error:
            raise Unavailable("The queue of jobs cannot answer now.") from error

    async def start(self) -> None:
        """Take over the jobs that an earlier process has left in the journal. Without a usable journal, start too."""
        await self.journal.adopt()

    async def close(self) -> None:
        """Close the connections and the journal. The worker has ended before."""
        await self.bull.disconnect()
        await self.journal.close()

    async def run(self) -> None:
        """Follow Redis until cancelled. While it is up, empty the journal and count the jobs."""
        logged_outages = None
        while True:
            await self.redis.wait_until(up=True)
            with contextlib.suppress(RedisUnavailable):
                await self.bull.connect()
                if logged_outages != self.redis.outages:
                    logged_outages = self.redis.outages
                    log.info("Redis connected successfully for BullMQ")
                await self._serve_until_outage()
            await self.bull.disconnect()
            if self.redis.up:  # the prober of the cache has not noticed the outage yet
                await asyncio.sleep(random.uniform(0.1, 0.5))

    async def _serve_until_outage(self) -> None:
        """Empty the journal and count the jobs until Redis is down, or was between two checks."""
        checks, outages = 0, self.redis.outages
        while self.redis.up and self.redis.outages == outages:
            if checks % ADOPTION_CHECKS == 0:
                await self.journal.adopt()
            checks += 1
            await self._hand_back()
            self._counts = await self.bull.counts()
            await self._sleep(CHECK_INTERVAL)

    async def _hand_back(self) -> None:
        """Give the jobs of the journal to Redis in their order, until none is left."""
        total = 0
        try:
            while jobs := self.journal.oldest(HAND_BACK_BATCH):
                await self.bull.add_all(jobs)
                total += len(jobs)
                await self.journal.remove(jobs)
        finally:
            if total:
                log.info("%d jobs of the journal were handed back to the queue", total)

    async def _sleep(self, seconds: float) -> None:
        """Sleep until a job is in the journal, for at most `seconds`."""
        await ends_within(seconds, self._wake.wait())
        self._wake.clear()
