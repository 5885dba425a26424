"""The worker, which takes jobs from the queue and runs them.

Rules: nothing is taken while Redis is down or `may_take` is false. A run that fails is repeated with growing delays until
JOB_ATTEMPTS runs have failed, and then the job is in the dead-letter queue. A run that a stop of the service or an outage
of Postgres interrupts counts as no attempt. The outcome of a run is recorded when Redis is up. Another process takes over
the job of a killed one within a few seconds, when the lock of the job has expired.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from ..cache.redis_store import RedisUnavailable
from ..errors import ServiceError, Unavailable
from ..waiting import ends_within
from .bull import LOCK_SECONDS, STALLED_INTERVAL, Run, backoff
from .job import GatewayFailed, JobReturned, Processor
from .queue import JobQueue

if TYPE_CHECKING:
    from ..settings import ServiceSettings

log = logging.getLogger("service.jobs")

BLOCK_SECONDS = 1.0  # for one wait for a job
PAUSE = 0.2  # seconds between two looks at `may_take`
HOLD_INTERVAL = LOCK_SECONDS / 4
RETURN_TIMEOUT = 0.5  # seconds to return a job when the service stops


class Worker:
    """The worker of this process.

    Args:
        processor: runs the jobs.
        may_take: returns True if the process can take another job.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        queue: JobQueue,
        processor: Processor,
        *,
        may_take: Callable[[], bool],
    ) -> None:
        self._queue = queue
        self._bull = queue.bull
        self._redis = queue.redis
        self._processor = processor
        self._attempts = settings.job_attempts
        self._may_take = may_take
        self._free_slots = asyncio.Semaphore(settings.worker_connections)
        self._runs: set[Run] = set()

    async def run(self) -> None:
        """Take and run jobs until cancelled, and then return them to the queue."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._hold_locks())
            tasks.create_task(self._watch_stalled())
            while True:
                await self._free_slots.acquire()
                tasks.create_task(self._run(await self._next()))

    async def _next(self) -> Run:
        """Wait for a job and take it."""
        while True:
            await self._redis.wait_until(up=True)
            try:
                if not self._may_take():
                    await asyncio.sleep(PAUSE)
                elif (run := await self._take()) is not None:
                    return run
            except RedisUnavailable:
                await asyncio.sleep(random.uniform(PAUSE, 2 * PAUSE))

    async def _take(self) -> Run | None:
        """Return the next job, or None after a while without one."""
        if self._has_work() and (run := await self._bull.take()) is not None:
            return run
        if await self._bull.wait(BLOCK_SECONDS) and self._may_take():
            return await self._bull.take()
        return None

    def _has_work(self) -> bool:
        """True if a job may be there. Before the first job, bullmq is not imported to find that out."""
        counts = self._queue.counts
        return self._bull.loaded or bool(counts.waiting or counts.active)

    async def _run(self, run: Run) -> None:
        """Run one job and record the outcome."""
        self._runs.add(run)
        try:
            await self._settle(run, await self._outcome(run))
        except asyncio.CancelledError:
            with contextlib.suppress(RedisUnavailable, TimeoutError):
                async with asyncio.timeout(RETURN_TIMEOUT):
                    await self._bull.delay(run, 0, error=None, counts=False)
            raise
        finally:
            self._runs.discard(run)
            self._free_slots.release()

    async def _outcome(self, run: Run) -> Callable[[], Awaitable[None]]:
        """Run the job. Return the function that records the outcome."""

        async def record_progress(sent: int, total: int) -> None:
            run.sent, run.total = sent, total
            with contextlib.suppress(RedisUnavailable):
                await self._bull.record_progress(run)

        if run.job is None or run.doom is not None:
            return lambda: self._bury(run, run.doom or "This is no job of the service.", failed_runs=run.attempts)
        try:
            await self._processor.process(run.job, record_progress)
        except JobReturned:
            return lambda: self._bull.delay(run, 0, error=None, counts=False)
        except Exception as error:  # noqa: BLE001  # whatever fails, the job is not lost
            return self._failure(run, error)
        return lambda: self._bull.complete(run)

    def _failure(self, run: Run, error: Exception) -> Callable[[], Awaitable[None]]:
        """Return the function that records a failed run."""
        if isinstance(error, Unavailable) and not isinstance(error, GatewayFailed):
            return lambda: self._bull.delay(run, backoff(2), error=str(error), counts=False)
        self._queue.failed_runs += 1
        if not isinstance(error, ServiceError):
            log.error("job %s failed", run.id, exc_info=error)
        text = str(error) if isinstance(error, ServiceError) else type(error).__name__
        if run.attempts + 1 >= self._attempts:
            return lambda: self._bury(run, text, failed_runs=run.attempts + 1)
        return lambda: self._bull.delay(run, backoff(run.attempts + 1), error=text, counts=True)

    async def _bury(self, run: Run, error: str, *, failed_runs: int) -> None:
        await self._bull.bury(run, error)
        log.warning("job %s is in the dead-letter queue after %d failed runs: %s", run.id, failed_runs, error)

    async def _settle(self, run: Run, record: Callable[[], Awaitable[None]]) -> None:
        """Record the outcome, once Redis is up, unless another process has taken over the job."""
        while True:
            await self._redis.wait_until(up=True)
            try:
                if await self._bull.hold(run):
                    await record()
                return
            except RedisUnavailable:
                await asyncio.sleep(random.uniform(PAUSE, 2 * PAUSE))

    async def _hold_locks(self) -> None:
        """Renew the locks of the jobs that run. After an outage renew them at once, before another process takes over."""
        while True:
            await self._redis.wait_until(up=True)
            for run in list(self._runs):
                with contextlib.suppress(RedisUnavailable):
                    await self._bull.hold(run)
            await ends_within(HOLD_INTERVAL, self._redis.wait_until(up=False))

    async def _watch_stalled(self) -> None:
        """Return the jobs of killed processes to the queue. After an outage, let the living renew their locks first."""
        wait = STALLED_INTERVAL
        while True:
            await self._redis.wait_until(up=True)
            while not await self._goes_down_within(wait):
                wait = STALLED_INTERVAL
                if self._has_work():
                    with contextlib.suppress(RedisUnavailable):
                        await self._take_back_stalled()
            wait = LOCK_SECONDS

    async def _take_back_stalled(self) -> None:
        for job_id in await self._bull.take_back_stalled():
            log.warning("job %s is back in the queue, because its lock has expired", job_id)

    async def _goes_down_within(self, seconds: float) -> bool:
        """Wait until Redis is down, for at most `seconds`. Return True if it is."""
        return await ends_within(seconds, self._redis.wait_until(up=False))
