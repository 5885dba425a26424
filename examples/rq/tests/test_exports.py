"""The promises of the queue and of its worker while one of them or Postgres is struck."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import psycopg
import pytest
import redis

from exports.queue import Exports
from pytest_resilience import Resilience, ServiceTarget, eventually

SOON = 20.0  # seconds: a worker that has lost Redis waits 1 s, then 2 s, then 4 s
NUMBERS = [1, 2, 3]


def written(resilience: Resilience) -> list[int]:
    """Return the exports that are written."""
    with psycopg.connect(resilience.postgres.direct_url) as connection:
        return [number for (number,) in connection.execute("select number from exports order by number")]


def assert_written(resilience: Resilience, *numbers: int) -> None:
    """Wait until exactly these exports are written."""

    def are_written() -> bool:
        assert written(resilience) == list(numbers)
        return True

    eventually(are_written, within=SOON)


@contextmanager
def in_a_job(resilience: Resilience, exports: Exports) -> Iterator[None]:
    """Enqueue export 1, and hold its job at the insert for the time of the block."""
    with resilience.postgres.on("insert", matching="exports").hang() as job:
        exports.enqueue(1)
        eventually(lambda: job.receipt.touched, within=SOON)
        yield


def let_minutes_pass(resilience: Resilience) -> None:
    """Let what a killed worker has left in Redis expire: its started jobs, and its lock for scheduled jobs."""
    with redis.Redis.from_url(resilience.redis.direct_url) as client:
        for execution in client.zrange("rq:wip:exports", 0, -1):
            client.zadd("rq:wip:exports", {execution: 1})
        client.delete("rq:scheduler-lock:exports")


def test_an_export_is_written_once(resilience: Resilience, exports: Exports) -> None:
    exports.enqueue(1)
    exports.enqueue(1)
    assert_written(resilience, 1)


@pytest.mark.parametrize("outage", ["kill", "pause"])
def test_jobs_wait_for_the_worker(resilience: Resilience, exports: Exports, outage: str) -> None:
    with resilience.strike(f"worker.{outage}"):
        for number in NUMBERS:
            exports.enqueue(number)
    assert_written(resilience, *NUMBERS)


def test_a_worker_that_is_killed_in_a_job_loses_none(
    resilience: Resilience, exports: Exports, worker: ServiceTarget
) -> None:
    with in_a_job(resilience, exports), worker.kill():
        let_minutes_pass(resilience)
    assert_written(resilience, 1)


def test_a_child_that_is_killed_in_a_job_loses_none(
    resilience: Resilience, exports: Exports, worker: ServiceTarget
) -> None:
    with in_a_job(resilience, exports):
        max(worker.process.children(recursive=True), key=psutil.Process.create_time).kill()
    assert_written(resilience, 1)


@pytest.mark.parametrize("outage", ["refuse", "restart"])
def test_jobs_run_after_an_outage_of_redis(resilience: Resilience, exports: Exports, outage: str) -> None:
    exports.enqueue(1)
    assert_written(resilience, 1)
    resilience.strike(f"redis.{outage}").heal()
    exports.enqueue(2)
    exports.enqueue(3)
    assert_written(resilience, 1, 2, 3)


def test_a_worker_that_loses_redis_in_a_job_is_replaced(resilience: Resilience, exports: Exports) -> None:
    with in_a_job(resilience, exports):
        redis_is_down = resilience.redis.kill()
    assert_written(resilience, 1)
    redis_is_down.heal()
    exports.enqueue(2)
    assert_written(resilience, 1, 2)


@pytest.mark.parametrize("outage", ["refuse", "blackhole"])
def test_without_redis_a_program_can_repeat_its_call(resilience: Resilience, exports: Exports, outage: str) -> None:
    begin = time.monotonic()
    with resilience.strike(f"redis.{outage}"), pytest.raises((redis.ConnectionError, redis.TimeoutError)):
        exports.enqueue(1)
    assert time.monotonic() - begin < 4, "the program waits for Redis for longer than promised"
    exports.enqueue(1)
    assert_written(resilience, 1)


def test_a_job_whose_commit_is_in_doubt_writes_once(
    resilience: Resilience, exports: Exports, worker: ServiceTarget
) -> None:
    with resilience.postgres.commit_in_doubt():
        exports.enqueue(1)
        eventually(lambda: "Job OK" in worker.log, within=SOON)
    assert written(resilience) == [1]


def test_jobs_wait_for_postgres(resilience: Resilience, exports: Exports, worker: ServiceTarget) -> None:
    with resilience.postgres.kill():
        exports.enqueue(1)
        eventually(lambda: worker.log.count("scheduled for retry") >= 2, within=SOON)
    assert_written(resilience, 1)
