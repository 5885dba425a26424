"""The queue in Redis, in the format of BullMQ. Every call has a time limit, and every error becomes RedisUnavailable.

Rules: `bullmq` is imported when the first job is there, because its import takes as long as a third of the start. Its
scripts change the queue, and this file runs them, because bullmq's own Worker and Queue wait for a lost Redis in their own
ways: `Queue.add` for minutes, a worker for seconds after Redis is back. Producers use the connections of the cache. The
worker has a few of its own, and no command on them is sent twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..cache.redis_store import RedisStore, RedisUnavailable, TimeBudget
from ..shortages import lacking
from .job import Job, JobState, JobStatus, QueueCounts

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger("service.jobs")

NAME = "campaigns"
PREFIX = f"bull:{NAME}:"
MAX_CONNECTIONS = 4  # one waits for jobs, the others run commands
COMMAND_TIMEOUT = 1.0
BLOCK_MARGIN = 0.5
MIN_BLOCK = 0.01  # seconds; Redis takes 0 for no limit
NO_EVICTION = "noeviction"
KEEP_COMPLETED = 7 * 86_400
LOCK_SECONDS = 3.0  # after which another instance takes over the job of a killed one
STALLED_INTERVAL = 1.0  # seconds between two checks for jobs without a lock, by all instances together

# Takes or renews the lock of an active job, unless another worker has it: locks expire while Redis cannot be reached.
HOLD_LOCK = """
local held = redis.call('GET', KEYS[1])
if held == ARGV[1] or (not held and redis.call('LPOS', KEYS[2], ARGV[3])) then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  redis.call('SREM', KEYS[3], ARGV[3])
  return 1
end
return 0
"""


@dataclass(eq=False)
class Run:
    """A job that this process has taken from the queue.

    Args:
        job: the job. None if the id is of no job of the service.
        bull_job: the job as bullmq has it.
        token: the value of the lock.
        attempts: failed runs before this one.
        doom: why the job must not run, because too many processes ended in the middle of it. None if it may.
    """

    job: Job | None
    bull_job: Any
    token: str
    attempts: int
    doom: str | None
    sent: int = field(default=0, init=False)
    total: int = field(default=0, init=False)

    @property
    def id(self) -> str:
        return str(self.bull_job.id)


class BullQueue:
    """The queue in Redis.

    Args:
        redis: its state decides, and its connections serve the producers.
        attempts: runs of a job that may fail, and processes that may end in the middle of one.
    """

    def __init__(self, redis: RedisStore, *, attempts: int) -> None:
        self._redis = redis
        self._attempts = attempts
        self._client: Redis | None = None
        self._queue: Any = None
        self._next_due: float | None = None  # of the jobs that wait for another try, in ms since 1970
        self._loading = asyncio.Lock()
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS - 1)
        self._eviction_checked = False

    @property
    def loaded(self) -> bool:
        """True if bullmq is imported."""
        return self._queue is not None

    async def connect(self) -> None:
        """Connect the worker's client, and log once if Redis may evict jobs."""
        if self._client is None:
            self._client = await self._redis.open_client(max_connections=MAX_CONNECTIONS)
        async with self._time_limit(COMMAND_TIMEOUT) as client:
            await client.ping()
        if not self._eviction_checked:
            with contextlib.suppress(RedisUnavailable):  # a user without the right to read INFO can use the queue
                await self._warn_of_eviction()

    async def _warn_of_eviction(self) -> None:
        async with self._time_limit(COMMAND_TIMEOUT) as client:
            memory = await client.info("memory")
        self._eviction_checked = True
        if memory.get("maxmemory") and memory.get("maxmemory_policy", NO_EVICTION) != NO_EVICTION:
            log.warning(
                "Redis may evict jobs, because its maxmemory-policy is %s and not noeviction",
                memory["maxmemory_policy"],
            )

    async def disconnect(self) -> None:
        """Close the connections of the worker's client. It opens new ones when it is used again."""
        if self._client is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(COMMAND_TIMEOUT):
                    await self._client.connection_pool.disconnect(inuse_connections=True)

    async def load(self) -> None:
        """Import bullmq in a thread, so that requests are served meanwhile.

        Raises:
            RedisUnavailable: Redis was never up, or the process lacks a resource for the import.
        """
        async with self._loading:
            if self._client is None:
                raise RedisUnavailable
            if self._queue is None:
                try:
                    self._queue = await asyncio.to_thread(_open_queue, self._client)
                except Exception as error:
                    if lacking(error) is None:
                        raise
                    raise RedisUnavailable from error

    # For producers

    async def add(self, job: Job, budget: TimeBudget) -> None:
        """Add a job, unless the queue has it already.

        Raises:
            RedisUnavailable: the queue may or may not have the job.
        """
        async with self._errors_converted(), asyncio.timeout(budget.remaining):
            await self.load()
        arguments = self._bull_job(job)
        async with self._redis.client_within(budget) as client:
            await self._scripts.addStandardJob(arguments, arguments.timestamp, client)

    async def add_all(self, jobs: Sequence[Job]) -> None:
        """Add jobs in order, except those that the queue has already.

        Raises:
            RedisUnavailable: the queue has the first of the jobs, all or none.
        """
        await self.load()
        async with self._time_limit(COMMAND_TIMEOUT) as client, client.pipeline(transaction=False) as pipe:
            for job in jobs:
                arguments = self._bull_job(job)
                await self._scripts.addStandardJob(arguments, arguments.timestamp, pipe)
            await pipe.execute()

    async def state(self, job: Job, budget: TimeBudget) -> JobState | None:
        """Return the state of a job. None if the queue does not have it.

        Raises:
            RedisUnavailable: Redis cannot answer.
        """
        async with self._redis.client_within(budget) as client:
            pipe = client.pipeline(transaction=True)
            pipe.hgetall(f"{PREFIX}{job.id}")
            pipe.zscore(f"{PREFIX}completed", job.id)
            pipe.zscore(f"{PREFIX}failed", job.id)
            pipe.lpos(f"{PREFIX}active", job.id)
            fields, completed, failed, active = await pipe.execute()
        if not fields:
            return None
        found: dict[JobStatus, Any] = {"completed": completed, "failed": failed, "active": active, "waiting": True}
        status = next(name for name, place in found.items() if place is not None)
        return _job_state(job, status, {bytes(name).decode(): value for name, value in fields.items()})

    async def retry(self, job: Job) -> bool:
        """Move a job from the dead-letter queue to the queue, with all its attempts. False if it is not there.

        Raises:
            RedisUnavailable: the job may or may not have been moved.
        """
        await self.load()
        reset = {"resetAttemptsMade": True, "resetAttemptsStarted": True}
        async with self._time_limit(COMMAND_TIMEOUT) as client:
            try:
                await self._queue.backend.reprocessJob(self._bull_job(job), "failed", reset)
            except TypeError:  # bullmq's error for a job that is not in the state
                return False
            await client.hdel(f"{PREFIX}{job.id}", "stc")  # number of the processes that ended in the middle of it
        return True

    async def counts(self) -> QueueCounts:
        """Return the numbers that Redis has.

        Raises:
            RedisUnavailable: Redis cannot answer.
        """
        async with self._time_limit(COMMAND_TIMEOUT) as client:
            pipe = client.pipeline(transaction=False)
            pipe.llen(f"{PREFIX}wait")
            pipe.zcard(f"{PREFIX}delayed")
            pipe.llen(f"{PREFIX}active")
            pipe.zcard(f"{PREFIX}failed")
            waiting, delayed, active, dead = await pipe.execute()
        return QueueCounts(waiting=waiting + delayed, active=active, dead=dead)

    # For the worker. Every method may raise RedisUnavailable.

    async def wait(self, seconds: float) -> bool:
        """Wait until a job may be there, for at most `seconds`. Return True if one may be there."""
        if self._next_due:
            seconds = min(seconds, max(MIN_BLOCK, self._next_due / 1000 - time.time()))
        async with self._errors_converted(), asyncio.timeout(seconds + BLOCK_MARGIN):
            return await self._connected().bzpopmin(f"{PREFIX}marker", seconds) is not None

    async def take(self) -> Run | None:
        """Take the next job and lock it. None if no job is due."""
        await self.load()
        token = secrets.token_hex(8)
        async with self._time_limit(COMMAND_TIMEOUT):
            options = {"lockDuration": _ms(LOCK_SECONDS)}
            data, job_id, _, self._next_due = await self._queue.backend.moveToActive(token, options)
        return self._run(data, job_id, token) if data else None

    async def take_back_stalled(self) -> list[str]:
        """Return the jobs without a lock to the queue, because the processes that ran them have ended."""
        await self.load()
        async with self._time_limit(COMMAND_TIMEOUT):
            arguments = (self._attempts, _ms(STALLED_INTERVAL))
            return list(await self._queue.backend.moveStalledJobsToWait(*arguments))

    async def hold(self, run: Run) -> bool:
        """Renew the lock of a job. False if another process has the job or nobody has."""
        keys = (f"{PREFIX}{run.id}:lock", f"{PREFIX}active", f"{PREFIX}stalled")
        async with self._time_limit(COMMAND_TIMEOUT) as client:
            return bool(await client.eval(HOLD_LOCK, 3, *keys, run.token, _ms(LOCK_SECONDS), run.id))

    async def record_progress(self, run: Run) -> None:
        async with self._time_limit(COMMAND_TIMEOUT):
            await self._queue.backend.updateProgress(run.id, _progress(run))

    async def complete(self, run: Run) -> None:
        keep = {"age": KEEP_COMPLETED}
        async with self._time_limit(COMMAND_TIMEOUT):
            await self._queue.backend.moveToCompleted(run.bull_job, _progress(run), keep, run.token, False)

    async def bury(self, run: Run, error: str) -> None:
        """Move a job to the dead-letter queue."""
        async with self._time_limit(COMMAND_TIMEOUT):
            await self._queue.backend.moveToFailed(run.bull_job, error, False, run.token, False, {"error": error})

    async def delay(self, run: Run, seconds: float, *, error: str | None, counts: bool) -> None:
        """Return a job to the queue.

        Args:
            run: of the job.
            seconds: until the job is due again.
            error: of the run. None keeps the last one.
            counts: True if the run counts as an attempt.
        """
        options: dict[str, Any] = {"skipAttempt": not counts}
        if error is not None:
            options["fieldsToUpdate"] = {"error": error}
        async with self._time_limit(COMMAND_TIMEOUT):
            await self._queue.backend.moveToDelayed(run.id, _ms(time.time()), _ms(seconds), run.token, options)

    # Parts of the above

    @property
    def _scripts(self) -> Any:
        return self._queue.backend.scripts

    def _bull_job(self, job: Job) -> Any:
        from bullmq import Job as BullJob

        data = {"campaign_id": job.campaign_id, "step": job.step}
        return BullJob(self._queue, "send", data, {"jobId": job.id, "attempts": self._attempts})

    def _run(self, data: dict[str, str], job_id: str, token: str) -> Run:
        from bullmq import Job as BullJob

        bull_job = BullJob.fromJSON(self._queue, data, job_id)
        return Run(Job.from_id(job_id), bull_job, token, bull_job.attemptsMade, bull_job.deferredFailure)

    def _connected(self) -> Redis:
        if self._client is None or not self._redis.up:
            raise RedisUnavailable
        return self._client

    @contextlib.asynccontextmanager
    async def _time_limit(self, seconds: float) -> AsyncIterator[Redis]:
        """Lend the worker's client for at most `seconds`."""
        async with self._errors_converted(), asyncio.timeout(seconds), self._slots:
            yield self._connected()

    @contextlib.asynccontextmanager
    async def _errors_converted(self) -> AsyncIterator[None]:
        """Turn every error into RedisUnavailable."""
        try:
            yield
        except RedisUnavailable:
            raise
        except Exception as error:
            log.debug("a command for the queue failed: %s: %s", type(error).__name__, error)
            raise RedisUnavailable from error


def backoff(attempt: int) -> float:
    """Return the seconds until the next run after failed run number `attempt`: 0.5 to 1, doubled each time, at most 60."""
    return float(min(60.0, 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0))


def _open_queue(client: Redis) -> Any:
    from bullmq import Queue

    return Queue(NAME, {"connection": client, "lockDuration": _ms(LOCK_SECONDS)})


def _job_state(job: Job, status: JobStatus, fields: Mapping[str, bytes]) -> JobState:
    progress = json.loads(fields.get("returnvalue") or fields.get("progress") or b"{}") or {}
    error = fields.get("error")
    return JobState(
        job,
        status,
        attempts=int(fields.get("atm", 0)) + (status == "active"),
        sent=int(progress.get("sent", 0)),
        total=int(progress.get("total", 0)),
        error=None if error is None or status == "completed" else bytes(error).decode(errors="replace"),
    )


def _progress(run: Run) -> dict[str, int]:
    return {"sent": run.sent, "total": run.total}


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
