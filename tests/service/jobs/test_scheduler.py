"""The cadence scheduler, with tables and queues that fail as Postgres and Redis do."""

import asyncio
import logging

import pytest

from service.errors import Unavailable
from service.jobs.job import Job
from service.jobs.scheduler import LATE_AFTER, CadenceScheduler
from service.postgres.cadences import NextStep

PERIOD = 0.05


class FakeQueue:
    """A queue that takes each job once, or no job while `error` is set."""

    def __init__(self):
        self.jobs = []
        self.error = None

    async def enqueue(self, job):
        if self.error is not None:
            raise self.error
        self.jobs.append(job)
        return True


class FakeCadences:
    """A table with one cadence. While `error` is set, Postgres is down."""

    def __init__(self, steps=1, seconds=0.0):
        self.steps = steps
        self.seconds = seconds
        self.confirmed = 0
        self.claims = 0
        self.error = None

    async def claim(self):
        self.claims += 1
        if self.error is not None:
            raise self.error
        if self.confirmed >= self.steps or self.seconds > 0:
            return []
        self.seconds = PERIOD  # until the claim expires, or the next period
        return [(7, self.confirmed + 1)]

    async def confirm(self, claims):
        assert claims == [(7, self.confirmed + 1)]
        self.confirmed += 1

    async def next_step(self):
        seconds, self.seconds = self.seconds, 0.0
        return NextStep(seconds if self.confirmed < self.steps else None, 0.0)


class Connection:
    """The monitor's connection, with a reading."""

    def __init__(self, seconds, overdue=0.0):
        self._reading = (seconds, overdue)

    async def fetchrow(self, sql, *args):
        return self._reading


def run(scheduler, scenario):
    """Run a scheduler beside a scenario until the scenario ends."""

    async def main():
        task = asyncio.create_task(scheduler.run())
        try:
            async with asyncio.timeout(5):
                return await scenario()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return asyncio.run(main())


async def until(condition):
    while not condition():  # noqa: ASYNC110  # the fakes have no events
        await asyncio.sleep(0.001)


def test_each_due_step_is_enqueued_and_then_confirmed(caplog):
    cadences, queue = FakeCadences(steps=3), FakeQueue()
    scheduler = CadenceScheduler(cadences, queue, clean_every=3600)
    with caplog.at_level(logging.INFO):

        async def scenario():
            scheduler.plan(0.0)
            await until(lambda: cadences.confirmed == 3)

        run(scheduler, scenario)
    assert queue.jobs == [Job(7, 1), Job(7, 2), Job(7, 3)]
    assert [record.message for record in caplog.records] == ["Cadence Scheduler ready"]


def test_nothing_is_queried_before_a_step_is_due():
    cadences = FakeCadences()
    scheduler = CadenceScheduler(cadences, FakeQueue(), clean_every=3600)

    async def scenario():
        for _ in range(10):
            await scheduler.read_next(Connection(3600.0))
            await asyncio.sleep(0.001)

    run(scheduler, scenario)
    assert cadences.claims == 0


def test_a_step_is_due_by_the_monotonic_clock():
    now = 100.0
    cadences, queue = FakeCadences(), FakeQueue()
    scheduler = CadenceScheduler(cadences, queue, clean_every=3600, clock=lambda: now)

    async def scenario():
        nonlocal now
        await scheduler.read_next(Connection(3600.0))
        await asyncio.sleep(0.001)
        assert cadences.claims == 0
        now += 3601.0
        scheduler.plan(3600.0)  # wakes the scheduler, as each reading of the monitor does
        await until(lambda: queue.jobs)

    run(scheduler, scenario)
    assert queue.jobs == [Job(7, 1)]


def test_a_step_is_not_lost_while_the_queue_takes_no_jobs(caplog):
    cadences, queue = FakeCadences(), FakeQueue()
    queue.error = Unavailable("The journal is full.")
    scheduler = CadenceScheduler(cadences, queue, clean_every=3600)
    with caplog.at_level(logging.INFO):

        async def scenario():
            scheduler.plan(0.0)
            await until(lambda: cadences.claims >= 6)
            assert cadences.confirmed == 0
            queue.error = None
            await until(lambda: cadences.confirmed == 1)

        run(scheduler, scenario)
    assert queue.jobs == [Job(7, 1)]
    assert [record.message for record in caplog.records] == [
        "Cadence Scheduler ready",
        "The queue takes no jobs, so due steps wait: The journal is full.",
        "RESOLVED: the queue takes jobs again",
    ]


def test_an_outage_of_postgres_costs_one_query_for_each_reading_and_no_log_line(caplog):
    cadences, queue = FakeCadences(), FakeQueue()
    cadences.error = Unavailable("The database cannot answer now.")
    scheduler = CadenceScheduler(cadences, queue, clean_every=3600)
    with caplog.at_level(logging.INFO):

        async def scenario():
            scheduler.plan(0.0)
            await until(lambda: cadences.claims == 1)
            await asyncio.sleep(0.02)
            assert cadences.claims == 1, "the scheduler queries again and again while Postgres is down"
            cadences.error = None
            await scheduler.read_next(Connection(-0.5))
            await until(lambda: queue.jobs)

        run(scheduler, scenario)
    assert [record.message for record in caplog.records] == ["Cadence Scheduler ready"]


def test_what_deleted_campaigns_left_is_removed_at_intervals_also_after_an_outage():
    runs = []

    class Table(FakeCadences):
        async def remove_orphans(self):
            runs.append(1)
            raise Unavailable("The database cannot answer now.")

    async def scenario():
        cleaning = asyncio.create_task(CadenceScheduler(Table(), FakeQueue(), clean_every=0.001).clean())
        await until(lambda: len(runs) >= 3)
        cleaning.cancel()

    asyncio.run(scenario())


def test_the_lag_grows_while_a_due_step_waits():
    now = 0.0
    scheduler = CadenceScheduler(FakeCadences(), FakeQueue(), clean_every=3600, clock=lambda: now)
    assert scheduler.lag == 0.0
    asyncio.run(scheduler.read_next(Connection(2.0)))
    assert (scheduler.lag, scheduler.state) == (0.0, "ok")
    now = 2.0 + LATE_AFTER + 1.0
    assert scheduler.lag == pytest.approx(LATE_AFTER + 1.0)
    assert scheduler.state == "late"
    asyncio.run(scheduler.read_next(Connection(1.5, overdue=7.0)))
    assert (scheduler.lag, scheduler.state) == (7.0, "late"), "a step that is claimed and not enqueued is overdue"
    asyncio.run(scheduler.read_next(Connection(None)))
    assert (scheduler.lag, scheduler.state) == (0.0, "ok")
