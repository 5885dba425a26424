"""The promises of the web process and of the worker while one of them, both, or a server is struck."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psycopg
import pytest
import redis

from pytest_resilience import Resilience, ServiceTarget, eventually, recovers

SOON = 20.0  # seconds: a worker that has lost its broker connects again after two
NUMBERS = [1, 2, 3]


def put(resilience: Resilience, number: int) -> httpx.Response:
    return resilience.service.put(f"/invoices/{number}", json={"customer": "Ada"})


def store(resilience: Resilience, *numbers: int) -> None:
    """Store invoices, each of which the web process has to accept."""
    for number in numbers:
        reply = put(resilience, number)
        assert reply.status_code == 202, f"invoice {number} was answered {reply.status_code}: {reply.text}"


def printed(resilience: Resilience) -> list[int]:
    """Return the printed invoices, read without the web process."""
    with psycopg.connect(resilience.postgres.direct_url) as connection:
        return [number for (number,) in connection.execute("select number from prints order by number")]


def assert_printed(resilience: Resilience, *numbers: int) -> None:
    """Wait until exactly these invoices are printed."""

    def are_printed() -> bool:
        assert printed(resilience) == list(numbers)
        return True

    eventually(are_printed, within=SOON)


@contextmanager
def in_a_task(resilience: Resilience) -> Iterator[None]:
    """Store invoice 1, and hold its task at the insert for the time of the block."""
    with resilience.postgres.on("insert", matching="prints").hang() as task:
        store(resilience, 1)
        eventually(lambda: task.receipt.touched, within=SOON)
        yield


def pass_visibility_timeout(resilience: Resilience) -> None:
    """Let the tasks that are not acknowledged be as old as the visibility timeout."""
    with redis.Redis.from_url(resilience.redis.direct_url) as broker:
        for tag in broker.zrange("unacked_index", 0, -1):
            broker.zadd("unacked_index", {tag: 1})


def test_an_invoice_is_printed_once(resilience: Resilience) -> None:
    store(resilience, 1, 1)
    assert_printed(resilience, 1)
    assert resilience.service.get("/invoices/1").json() == {"customer": "Ada", "printed": True}


@pytest.mark.parametrize("outage", ["kill", "pause"])
def test_invoices_are_taken_without_the_worker(resilience: Resilience, outage: str) -> None:
    with resilience.strike(f"worker.{outage}"):
        store(resilience, *NUMBERS)
        assert printed(resilience) == []
    assert_printed(resilience, *NUMBERS)


def test_the_worker_prints_without_the_web_process(resilience: Resilience, worker: ServiceTarget) -> None:
    with worker.pause():
        store(resilience, *NUMBERS)
        resilience.service.kill()
    assert_printed(resilience, *NUMBERS)


def test_a_worker_that_is_killed_in_a_task_loses_none(resilience: Resilience, worker: ServiceTarget) -> None:
    with in_a_task(resilience), worker.kill():
        store(resilience, 2)
        pass_visibility_timeout(resilience)
    assert_printed(resilience, 1, 2)


def test_nothing_is_lost_if_both_processes_are_killed(resilience: Resilience, worker: ServiceTarget) -> None:
    with in_a_task(resilience):
        store(resilience, 2)
        with resilience.service.kill(), worker.kill():
            pass_visibility_timeout(resilience)
    assert_printed(resilience, 1, 2)


def test_a_child_that_is_killed_in_a_task_loses_none(resilience: Resilience, worker: ServiceTarget) -> None:
    """The kernel kills the child and not the worker if a task needs too much memory."""
    with in_a_task(resilience):
        [child] = worker.process.children()
        child.kill()
    assert_printed(resilience, 1)


def test_tasks_run_as_fast_as_before_after_a_restart_of_the_broker(resilience: Resilience) -> None:
    numbers = itertools.count(1)

    def enqueue() -> int:
        put(resilience, number := next(numbers)).raise_for_status()
        return number

    with resilience.jobs(enqueue=enqueue, ran=lambda: printed(resilience), within=SOON):
        resilience.redis.restart()


def test_a_silent_connection_to_the_broker_is_replaced(resilience: Resilience) -> None:
    """A NAT or a failover has forgotten the connection on which the worker waits."""
    with resilience.redis.half_open():
        recovers(lambda: put(resilience, 1).status_code == 202, within=SOON)
        assert_printed(resilience, 1)


@pytest.mark.parametrize("outage", ["refuse", "blackhole"])
def test_without_the_broker_a_client_can_repeat_the_request(resilience: Resilience, outage: str) -> None:
    with resilience.strike(f"redis.{outage}"):
        reply = put(resilience, 1)
        assert (reply.status_code, reply.headers.get("Retry-After")) == (503, "1")
        assert resilience.service.get("/invoices/1").json()["printed"] is False
    store(resilience, 1)
    assert_printed(resilience, 1)


def test_a_repeated_request_repairs_a_broker_that_has_lost_its_data(
    resilience: Resilience, worker: ServiceTarget
) -> None:
    with worker.pause():
        store(resilience, 1)
        resilience.redis.flush()
    store(resilience, 1)
    assert_printed(resilience, 1)


def test_a_task_whose_commit_is_in_doubt_prints_once(resilience: Resilience, worker: ServiceTarget) -> None:
    with worker.pause():
        store(resilience, 1)
        resilience.postgres.commit_in_doubt()
    eventually(lambda: "succeeded" in worker.log, within=SOON)
    assert "Retry in" in worker.log
    assert printed(resilience) == [1]


def test_tasks_wait_for_postgres(resilience: Resilience, worker: ServiceTarget) -> None:
    with worker.pause():
        store(resilience, *NUMBERS)
        postgres = resilience.postgres.kill()
    eventually(lambda: "Retry in" in worker.log, within=SOON)
    postgres.heal()
    assert_printed(resilience, *NUMBERS)
