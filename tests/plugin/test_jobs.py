"""`jobs` in async tests, with coroutine functions."""

from __future__ import annotations

import pytest

WORKER = '''
import asyncio, contextlib, threading, pytest, redis.asyncio
from pytest_resilience import NotSteady, SetupError

class Worker:
    """A worker that blocks on a list, and that polls every 1.5 s from its first error on if it is a bad one."""

    def __init__(self, url, *, is_bad):
        self.client = redis.asyncio.Redis.from_url(url, socket_timeout=5)
        self.is_bad = is_bad
        self.ran, self.polls = [], False

    async def work(self):
        while True:
            try:
                if self.polls:
                    await asyncio.sleep(1.5)
                    job = await self.client.lpop("jobs")
                else:
                    item = await self.client.blpop("jobs", timeout=1)
                    job = item and item[1]
                if job:
                    self.ran.append(job.decode())
            except redis.RedisError:
                self.polls = self.is_bad
                await asyncio.sleep(0.01)

async def hit(strike):
    while not strike.receipt.touched:
        await asyncio.sleep(0.001)

@contextlib.asynccontextmanager
async def working(resilience, *, is_bad=False):
    worker = Worker(resilience.redis.url, is_bad=is_bad)
    task = asyncio.create_task(worker.work(), name="worker")
    queue = redis.asyncio.Redis.from_url(resilience.redis.url, socket_timeout=5)
    try:
        yield worker, queue
    finally:
        while not task.done():
            task.cancel()    # more than once, because redis-py may swallow a cancellation while it connects
            await asyncio.wait({task}, timeout=0.1)
        await worker.client.aclose()
        await queue.aclose()
'''
BODIES = r"""
MARK
async def test_coroutine_functions_with_a_name(resilience):
    async with working(resilience) as (worker, queue):
        async def enqueue(job):
            await queue.rpush("jobs", job)
        async def ran(job):
            await asyncio.sleep(0)
            return job in worker.ran
        async with resilience.jobs(enqueue=enqueue, ran=ran, within=30) as jobs:
            with resilience.redis.reset() as strike:
                await hit(strike)
            with resilience.redis.latency(0.01) as strike:
                await hit(strike)
        assert len(jobs.before) == 3 and len(jobs.after) >= 3 and 0 < jobs.slowdown
        assert len(worker.ran) == len(jobs.before) + len(jobs.after) + 2 - len(jobs.refused)

MARK
async def test_coroutine_functions_without_arguments(resilience):
    async with working(resilience) as (worker, queue):
        async def enqueue():
            job = f"number {await queue.incr('number')}"
            await queue.rpush("jobs", job)
            return job
        async def ran():
            return worker.ran
        async with resilience.jobs(enqueue=enqueue, ran=ran, within=30) as jobs:
            with resilience.redis.latency(0.01) as strike:
                await hit(strike)
        assert "number 4" in worker.ran

MARK
async def test_a_worker_that_polls_for_ever(resilience):
    async with working(resilience, is_bad=True) as (worker, queue):
        with pytest.raises(NotSteady) as raised:
            async with resilience.jobs(
                enqueue=lambda job: queue.rpush("jobs", job), ran=lambda job: job in worker.ran, within=4
            ):
                with resilience.redis.refuse():
                    while not worker.polls:
                        await asyncio.sleep(0.001)
    text = str(raised.value)
    assert "jobs: they run, and take 1." in text and "the worker polls, or waits for a time-out" in text

MARK
async def test_a_worker_that_dies(resilience):
    async with working(resilience) as (worker, queue):
        worker.client.blpop = None
        with pytest.raises(NotSteady) as raised:
            async with resilience.jobs(enqueue=lambda job: queue.rpush("jobs", job), ran=lambda job: job in worker.ran, within=1):
                pass
    text = str(raised.value)
    assert "jobs: before any fault, a job has not run within 1 s" in text
    assert "the task worker has died: TypeError: 'NoneType' object is not callable" in text

MARK
async def test_a_job_that_cannot_be_enqueued(resilience):
    async with working(resilience) as (worker, queue):
        async def enqueue(job):
            if resilience.redis.active_strikes():
                raise ConnectionError("down")
            await queue.rpush("jobs", job)
        async with resilience.jobs(enqueue=enqueue, ran=lambda job: job in worker.ran, within=30) as jobs:
            with resilience.redis.refuse() as strike:
                await hit(strike)
                while not jobs.refused:
                    await asyncio.sleep(0.001)
        assert str(jobs.refused[0]) == "down" and len(jobs.after) >= 3

MARK
async def test_jobs_that_can_never_be_enqueued_again(resilience):
    async with working(resilience) as (worker, queue):
        async def enqueue(job):
            if resilience.strikes:
                raise ConnectionError("down")
            await queue.rpush("jobs", job)
        with pytest.raises(NotSteady, match="jobs: none could be enqueued within 2 s after the heal") as raised:
            async with resilience.jobs(enqueue=enqueue, ran=lambda job: job in worker.ran, within=2):
                with resilience.redis.reset() as strike:
                    await hit(strike)
        assert " could not be enqueued, the first because of ConnectionError: down\n" in str(raised.value)

MARK
async def test_errors_of_ran_after_the_heal(resilience):
    async with working(resilience) as (worker, queue):
        errors = iter([])
        async def ran(job):
            for error in errors:
                raise error
            return job in worker.ran
        async with resilience.jobs(enqueue=lambda job: queue.rpush("jobs", job), ran=ran, within=30):
            with resilience.redis.latency(0.001) as strike:
                await hit(strike)
            errors = iter([ConnectionError("stale"), ConnectionError("stale")])
        assert next(errors, None) is None
        with pytest.raises(NotSteady, match="the last error of `ran`: ConnectionError: stale"):
            async with resilience.jobs(enqueue=lambda job: queue.rpush("jobs", job), ran=ran, within=2):
                with resilience.redis.latency(0.001) as strike:
                    await hit(strike)
                errors = (ConnectionError("stale") for _ in iter(int, 1))

MARK
async def test_a_task_that_passes_its_error_on_has_not_died(resilience):
    async with working(resilience) as (worker, queue):
        async with resilience.jobs(enqueue=lambda job: queue.rpush("jobs", job), ran=lambda job: job in worker.ran, within=30):
            with resilience.redis.reset() as strike:    # an inner task of redis-py reads the answer to BLPOP
                await hit(strike)

MARK
async def test_a_plain_with_block_is_refused(resilience):
    async with working(resilience) as (worker, queue):
        with pytest.raises(SetupError, match="use `async with resilience.jobs"):
            with resilience.jobs(enqueue=lambda job: queue.rpush("jobs", job), ran=lambda job: job in worker.ran):
                pass

def test_a_sync_test_refuses_coroutine_functions(resilience):
    async def enqueue(job):
        pass
    with pytest.raises(SetupError, match="jobs: an async function needs an async test, and `async with resilience.jobs"):
        resilience.jobs(enqueue=enqueue, ran=list)
"""
ANYIO = """
@pytest.fixture
def anyio_backend():
    return "asyncio"
"""


@pytest.mark.parametrize(
    ("mark", "options", "more"),
    [("@pytest.mark.asyncio", ("-p", "no:anyio"), ""), ("@pytest.mark.anyio", ("-p", "no:asyncio"), ANYIO)],
    ids=["pytest-asyncio", "anyio"],
)
def test_jobs_in_async_tests(project: pytest.Pytester, mark: str, options: tuple[str, ...], more: str) -> None:
    project.makepyfile(WORKER + more + BODIES.replace("MARK", mark))
    result = project.runpytest_inprocess(*options, "--resilience-leaks=error")
    result.stdout.fnmatch_lines("*= 10 passed*")
