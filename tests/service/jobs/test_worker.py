"""The queue and the worker on a real Redis, with a processor that the tests script."""

import asyncio
import contextlib
import errno
import inspect
import itertools
import logging

import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from service.cache.pending_writes import PendingWrites
from service.cache.redis_store import RedisStore
from service.errors import Unavailable
from service.jobs import bull, worker
from service.jobs.bull import backoff
from service.jobs.job import GatewayFailed, Job, JobReturned, JobState
from service.jobs.queue import JobQueue
from service.jobs.worker import Worker
from service.settings import ServiceSettings

QUEUE = "bull:a-test:"


@pytest.fixture(autouse=True)
def own_queue(monkeypatch):
    """Use a queue that the shared process of the service does not take jobs from."""
    monkeypatch.setattr(bull, "NAME", "a-test")
    monkeypatch.setattr(bull, "PREFIX", QUEUE)


class Processor:
    """A processor that records its jobs. `body` runs for each of them."""

    def __init__(self, body):
        self.jobs = []
        self.body = body

    async def process(self, job, progress):
        self.jobs.append(job)
        await self.body(job, progress)


class Stage:
    """A queue and a worker in this process, and what they work with."""

    def __init__(self, settings, body, may_take):
        self.redis = RedisStore(
            settings, lifetime=600, pending=PendingWrites(max_keys=10, max_taken=10), next_writes=list
        )
        self.queue = JobQueue(settings, self.redis)
        self.processor = Processor(body)
        self.worker = Worker(settings, self.queue, self.processor, may_take=may_take)

    async def state(self, job):
        with contextlib.suppress(Unavailable):
            return await self.queue.state(job.id)

    async def reaches(self, job, status, within=20.0):
        """Wait for a status of a job, and return its state."""

        async def reached():
            state = await self.state(job)
            return state if state is not None and state.status == status else None

        return await until(reached, within)


def play(resilience, directory, scene, *, body=None, may_take=lambda: True, attempts=2):
    """Run a scene on a stage, with a worker for two jobs at a time."""

    async def nothing(job, progress):
        await progress(1, 1)

    settings = ServiceSettings(
        database_url="postgresql://127.0.0.1:1/x",
        redis_url=resilience.redis.url,
        journal_dir=str(directory),
        job_attempts=attempts,
    )

    async def run():
        stage = Stage(settings, body or nothing, may_take)
        await stage.queue.start()
        async with asyncio.TaskGroup() as tasks:
            loops = [tasks.create_task(loop()) for loop in (stage.redis.run, stage.queue.run, stage.worker.run)]
            await stage.redis.wait_until(up=True)
            await scene(stage)
            for loop in loops:
                loop.cancel()
        await stage.queue.close()

    asyncio.run(run())


async def until(question, within=20.0):
    """Wait for an answer that is true, and return it."""
    async with asyncio.timeout(within):
        while True:
            answer = question()
            if answer := await answer if inspect.isawaitable(answer) else answer:
                return answer
            await asyncio.sleep(0.01)


def test_a_job_runs_once_however_often_it_is_enqueued(resilience, tmp_path):
    async def body(job, progress):
        await progress(3, 10)
        await progress(10, 10)

    async def scene(stage):
        for _ in range(3):
            assert await stage.queue.enqueue(Job(7)) is True
            state = await stage.reaches(Job(7), "completed")
        assert state == JobState(Job(7), "completed", attempts=1, sent=10, total=10)
        assert stage.processor.jobs == [Job(7)]

    play(resilience, tmp_path, scene, body=body)


def test_progress_is_visible_during_the_run(resilience, tmp_path):
    async def body(job, progress):
        await progress(3, 10)
        await finish.wait()

    async def scene(stage):
        await stage.queue.enqueue(Job(7))
        await stage.reaches(Job(7), "active")

        async def progressed():
            state = await stage.state(Job(7))
            return state if state.total else None

        assert await until(progressed) == JobState(Job(7), "active", attempts=1, sent=3, total=10)
        finish.set()
        await stage.reaches(Job(7), "completed")

    finish = asyncio.Event()
    play(resilience, tmp_path, scene, body=body)


def test_as_many_jobs_run_at_a_time_as_there_are_connections_for_them(resilience, tmp_path):
    async def body(job, progress):
        running.append(job)
        await finish.wait()

    async def scene(stage):
        for number in range(4):
            await stage.queue.enqueue(Job(number + 1))
        await until(lambda: len(running) == 2)
        await until(lambda: stage.queue.counts.waiting == 2)
        assert (stage.queue.counts.active, len(running)) == (2, 2)
        finish.set()
        for number in range(4):
            await stage.reaches(Job(number + 1), "completed")
        assert running == [Job(1), Job(2), Job(3), Job(4)]

    finish, running = asyncio.Event(), []
    play(resilience, tmp_path, scene, body=body)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (GatewayFailed("The gateway answered with status 500."), "The gateway answered with status 500."),
        (ValueError("password=hunter2"), "ValueError"),
    ],
)
def test_a_job_that_fails_each_time_is_a_dead_letter_with_its_reason(resilience, tmp_path, caplog, error, text):
    async def body(job, progress):
        raise error

    async def scene(stage):
        await stage.queue.enqueue(Job(7))
        state = await stage.reaches(Job(7), "failed")
        assert (state.attempts, state.error, len(stage.processor.jobs)) == (2, text, 2)
        await until(lambda: stage.queue.counts.dead == 1)
        assert stage.queue.counts.failed == 2

        stage.processor.body = lambda job, progress: progress(1, 1)
        assert await stage.queue.retry("campaign-7-0") is True
        state = await stage.reaches(Job(7), "completed")
        assert (state.attempts, state.error) == (1, None)
        assert await stage.queue.retry("campaign-7-0") is False
        assert await stage.queue.retry("campaign-8-0") is False

    play(resilience, tmp_path, scene, body=body)
    lines = [record.getMessage() for record in caplog.records if "dead-letter queue" in record.getMessage()]
    assert lines == [f"job campaign-7-0 is in the dead-letter queue after 2 failed runs: {text}"]


@pytest.mark.parametrize("error", [JobReturned(), Unavailable("The database cannot answer now.")])
def test_a_run_that_is_interrupted_is_no_attempt(resilience, tmp_path, monkeypatch, error):
    monkeypatch.setattr(worker, "backoff", lambda _: 0.01)
    errors = iter([error] * 5)

    async def body(job, progress):
        if (next_error := next(errors, None)) is not None:
            raise next_error

    async def scene(stage):
        await stage.queue.enqueue(Job(7))
        state = await stage.reaches(Job(7), "completed")
        assert (state.attempts, len(stage.processor.jobs), stage.queue.counts.failed) == (1, 6, 0)

    play(resilience, tmp_path, scene, body=body)


def test_nothing_is_taken_while_the_process_can_take_no_job(resilience, tmp_path):
    allowed = False

    async def scene(stage):
        nonlocal allowed
        await stage.queue.enqueue(Job(7))
        await until(lambda: stage.queue.counts.waiting == 1)
        assert stage.processor.jobs == []
        allowed = True
        await stage.reaches(Job(7), "completed")
        await until(lambda: stage.queue.counts.waiting == 0)
        allowed = False  # while the worker waits for the next job
        await stage.queue.enqueue(Job(8))
        await until(lambda: stage.queue.counts.waiting == 1)
        assert stage.processor.jobs == [Job(7)]

    play(resilience, tmp_path, scene, may_take=lambda: allowed)


def test_a_job_that_is_not_of_the_service_is_a_dead_letter_and_blocks_none(resilience, tmp_path):
    async def scene(stage):
        await stage.queue.enqueue(Job(1))
        await stage.reaches(Job(1), "completed")
        await stage.queue.bull._queue.add("foreign", {}, {"jobId": "foreign"})
        await stage.queue.enqueue(Job(2))
        await stage.reaches(Job(2), "completed")
        assert stage.processor.jobs == [Job(1), Job(2)]
        await until(lambda: stage.queue.counts.dead == 1)
        assert await stage.queue.state("foreign") is None

    play(resilience, tmp_path, scene)


def test_a_job_in_whose_runs_too_many_processes_ended_is_a_dead_letter(resilience, tmp_path):
    """Such a job may be what ends the processes."""

    async def scene(stage):
        nonlocal allowed
        await stage.queue.enqueue(Job(7))
        await until(lambda: stage.queue.counts.waiting == 1)
        async with Redis.from_url(resilience.redis.direct_url) as redis:
            await redis.hset(f"{QUEUE}campaign-7-0", "defa", "job stalled more than allowable limit")
        allowed = True
        state = await stage.reaches(Job(7), "failed")
        assert state.error == "job stalled more than allowable limit"
        assert stage.processor.jobs == []

    allowed = False
    play(resilience, tmp_path, scene, may_take=lambda: allowed)


def test_a_dead_letter_that_processes_ended_in_has_all_its_attempts_when_it_is_retried(
    resilience, tmp_path, monkeypatch
):
    monkeypatch.setattr(bull, "LOCK_SECONDS", 0.05)
    monkeypatch.setattr(bull, "STALLED_INTERVAL", 0.05)
    monkeypatch.setattr(worker, "STALLED_INTERVAL", 0.05)

    async def scene(stage):
        nonlocal allowed
        await stage.queue.enqueue(Job(7))
        for _ in range(3):  # one process more than JOB_ATTEMPTS
            await until(stage.queue.bull.take)  # and nobody renews the lock
        allowed = True
        state = await stage.reaches(Job(7), "failed")
        assert (state.error, stage.processor.jobs) == ("job stalled more than allowable limit", [])

        allowed = False
        assert await stage.queue.retry("campaign-7-0") is True
        for _ in range(2):
            run = await until(stage.queue.bull.take)
            assert (run.id, run.doom) == ("campaign-7-0", None)
        allowed = True
        state = await stage.reaches(Job(7), "completed")
        assert (state.attempts, state.error) == (1, None)

    allowed = False
    play(resilience, tmp_path, scene, may_take=lambda: allowed)


def test_a_run_survives_an_outage_that_outlasts_its_lock(resilience, tmp_path, monkeypatch):
    monkeypatch.setattr(bull, "LOCK_SECONDS", 0.3)
    monkeypatch.setattr(worker, "HOLD_INTERVAL", 0.1)
    finish = asyncio.Event()

    async def body(job, progress):
        await finish.wait()

    async def scene(stage):
        await stage.queue.enqueue(Job(7))
        await until(lambda: stage.processor.jobs)
        with resilience.redis.refuse():
            await stage.redis.wait_until(up=False)
            async with Redis.from_url(resilience.redis.direct_url) as redis:
                lock = f"{QUEUE}campaign-7-0:lock"

                async def expired():
                    return not await redis.exists(lock)

                await until(expired)
            finish.set()
        state = await stage.reaches(Job(7), "completed")
        assert (state.attempts, stage.processor.jobs) == (1, [Job(7)])

    play(resilience, tmp_path, scene, body=body)


def test_the_outcome_of_a_run_whose_job_another_process_has_is_dropped(resilience, tmp_path):
    finish = asyncio.Event()

    async def body(job, progress):
        await finish.wait()

    async def scene(stage):
        await stage.queue.enqueue(Job(7))
        await until(lambda: stage.processor.jobs)
        async with Redis.from_url(resilience.redis.direct_url) as redis:
            await redis.set(f"{QUEUE}campaign-7-0:lock", "another process", px=60_000)
        finish.set()
        await stage.queue.enqueue(Job(8))
        await stage.reaches(Job(8), "completed")
        assert (await stage.state(Job(7))).status == "active"

    play(resilience, tmp_path, scene, body=body)


def test_jobs_follow_those_of_the_journal(resilience, tmp_path):
    async def scene(stage):
        nonlocal allowed
        with resilience.redis.refuse():
            await stage.redis.wait_until(up=False)
            await stage.queue.enqueue(Job(1))
            assert stage.queue.taken_by == "journal"
        await stage.redis.wait_until(up=True)
        assert stage.queue.taken_by == "journal"  # no await since the recovery, so nothing is handed back yet
        await stage.queue.enqueue(Job(2))
        await until(lambda: stage.queue.taken_by == "up")
        allowed = True
        for job in (Job(1), Job(2)):
            await stage.reaches(job, "completed")
        assert stage.processor.jobs == [Job(1), Job(2)]

    allowed = False
    play(resilience, tmp_path, scene, may_take=lambda: allowed)


def test_without_jobs_bullmq_is_not_imported(resilience, tmp_path, caplog):
    caplog.set_level(logging.INFO)

    async def scene(stage):
        await until(lambda: "Redis connected successfully for BullMQ" in caplog.messages)
        await stage.queue.bull.counts()
        await stage.queue.bull.wait(0.2)
        assert not stage.queue.bull.loaded

    play(resilience, tmp_path, scene)


def test_a_job_waits_while_bullmq_cannot_be_imported(resilience, tmp_path, monkeypatch):
    """Without descriptors neither the files of bullmq nor those of its scripts can be opened."""

    def fail(_):
        failures.append(1)
        raise OSError(errno.EMFILE, "Too many open files")

    async def scene(stage):
        with monkeypatch.context() as patch:
            patch.setattr(bull, "_open_queue", fail)
            await stage.queue.enqueue(Job(7))
            await until(lambda: len(failures) >= 3)
        await stage.reaches(Job(7), "completed")

    failures = []
    play(resilience, tmp_path, scene)


def test_a_redis_that_may_evict_jobs_is_logged_once(resilience, tmp_path, caplog):
    with SyncRedis.from_url(resilience.redis.direct_url) as redis:
        redis.config_set("maxmemory", "100mb")
        redis.config_set("maxmemory-policy", "allkeys-lru")

    async def scene(stage):
        with resilience.redis.refuse():
            await stage.redis.wait_until(up=False)
        await stage.queue.enqueue(Job(7))
        await stage.reaches(Job(7), "completed")

    play(resilience, tmp_path, scene)
    assert len([message for message in caplog.messages if "maxmemory-policy is allkeys-lru" in message]) == 1


def test_delays_double_with_jitter_up_to_a_minute():
    for attempt, longest in ((1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (1000, 60)):
        delays = {backoff(attempt) for _ in itertools.repeat(None, 100)}
        assert longest / 2 <= min(delays) < max(delays) <= longest
