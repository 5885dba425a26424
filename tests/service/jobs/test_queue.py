"""The loop of the queue that follows Redis."""

import asyncio
import logging

from pytest_resilience import eventually
from service.jobs import queue as queue_module
from service.jobs.job import QueueCounts
from service.jobs.queue import JobQueue
from service.settings import ServiceSettings

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
