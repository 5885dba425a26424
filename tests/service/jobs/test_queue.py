"""The loop of the queue that follows Redis."""

import asyncio
import contextlib
import logging
import re

import pytest

from pytest_resilience import eventually
from service.cache.redis_store import RedisUnavailable
from service.jobs import queue as queue_module
from service.jobs.job import Job, QueueCounts
from service.jobs.queue import JobQueue
from service.settings import ServiceSettings

BATCH = 3
HANDED_BACK = r"(\d+) jobs of the journal were handed back to the queue"
CONNECTED = "Redis connected successfully for BullMQ"


class Redis:
    """A Redis that is up, and that may have been down since the last check."""

    up = True
    outages = 0

    async def wait_until(self, *, up):
        assert up


class Bull:
    """A queue in Redis without jobs."""

    async def connect(self):
        pass

    async def disconnect(self):
        pass

    async def counts(self):
        return QueueCounts()


def test_the_recovery_from_an_outage_between_two_checks_is_logged(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "service.jobs")
    monkeypatch.setattr(queue_module, "CHECK_INTERVAL", 0.01)
    redis = Redis()
    settings = ServiceSettings.from_environment(
        {"DATABASE_URL": "postgresql://user@host/db", "JOURNAL_DIR": str(tmp_path)}
    )
    queue = JobQueue(settings, redis)
    queue.bull = Bull()

    async def follow():
        async def each_recovery_is_logged():
            return caplog.messages.count(CONNECTED) == redis.outages + 1

        running = asyncio.create_task(queue.run())
        try:
            for redis.outages in range(3):
                await eventually(each_recovery_is_logged, within=5.0)
        finally:
            running.cancel()

    asyncio.run(follow())
    assert caplog.messages.count(CONNECTED) == 3


class TakingBull(Bull):
    """A queue in Redis that takes jobs, except for some batches.

    Args:
        failures: numbers of the batches that it does not take, from 0.
        on_batch: called with the journal when a batch is taken.
    """

    def __init__(self, failures=(), on_batch=None):
        self.taken = []
        self.journal = None
        self._number = -1
        self._failures = failures
        self._on_batch = on_batch

    async def add_all(self, jobs):
        self._number += 1
        if self._number in self._failures:
            raise RedisUnavailable
        self.taken += jobs
        if self._on_batch is not None:
            await self._on_batch(self.journal)


@pytest.mark.parametrize("count", [1, BATCH - 1, BATCH, BATCH + 1, 3 * BATCH + 1])
@pytest.mark.parametrize("failures", [(), (0,), (1,), (1, 2)])
def test_all_jobs_of_the_journal_are_handed_back_in_order_and_counted(hand_back, count, failures):
    bull = TakingBull(failures)
    lines = hand_back(bull, count)
    assert bull.taken == [Job(number) for number in range(1, count + 1)]
    assert sum(lines) == count


def test_a_job_that_comes_while_others_are_handed_back_is_counted(hand_back):
    late = Job(100)

    async def append(journal):
        if late not in bull.taken:
            await journal.append(late)

    bull = TakingBull(on_batch=append)
    assert hand_back(bull, BATCH + 1) == [BATCH + 2]
    assert bull.taken[-1] == late


@pytest.fixture
def hand_back(tmp_path, monkeypatch, caplog):
    """Return a function that hands jobs 1, 2 and so on back, and returns the numbers in the log."""
    monkeypatch.setattr(queue_module, "HAND_BACK_BATCH", BATCH)
    caplog.set_level(logging.INFO, "service.jobs")
    settings = ServiceSettings.from_environment(
        {"DATABASE_URL": "postgresql://user@host/db", "JOURNAL_DIR": str(tmp_path)}
    )

    async def run(bull, count):
        queue = JobQueue(settings, Redis())
        queue.bull, bull.journal = bull, queue.journal
        for number in range(1, count + 1):
            await queue.journal.append(Job(number))
        while queue.journal:
            with contextlib.suppress(RedisUnavailable):
                await queue._hand_back()
        await queue.close()

    def hand_back(bull, count):
        asyncio.run(run(bull, count))
        return [int(number) for number in re.findall(HANDED_BACK, caplog.text)]

    return hand_back
