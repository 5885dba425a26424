"""The promises of the shelf while Postgres, Redis or a process of gunicorn is struck."""

from __future__ import annotations

from contextlib import suppress

import httpx
import pytest

from pytest_resilience import Resilience, recovers

LOAN = "/loans/00000000-0000-0000-0000-000000000001"
EMMA = {"title": "Emma", "copies": 3}


@pytest.fixture(autouse=True)
def emma(resilience: Resilience) -> None:
    assert resilience.service.put("/books/1", json=EMMA).status_code == 201


def lend(resilience: Resilience) -> httpx.Response:
    return resilience.service.put(LOAN, json={"isbn": "1"})


def assert_lent(reply: httpx.Response) -> None:
    assert reply.status_code == 201, f"the loan was answered {reply.status_code}: {reply.text}"


def assert_unavailable(reply: httpx.Response) -> None:
    assert (reply.status_code, reply.headers.get("Retry-After")) == (503, "1"), reply.text


def copies(resilience: Resilience) -> int:
    reply = resilience.service.get("/books/1")
    assert reply.status_code == 200, f"the book was answered {reply.status_code}: {reply.text}"
    return int(reply.json()["copies"])


def test_connections_that_died_between_two_requests_cost_no_error(resilience: Resilience) -> None:
    resilience.postgres.restart()
    assert_lent(lend(resilience))


@pytest.mark.parametrize("outage", ["refuse", "kill"])
def test_without_postgres_a_loan_is_503_and_works_after_that(resilience: Resilience, outage: str) -> None:
    assert copies(resilience) == 3
    with resilience.strike(f"postgres.{outage}"):
        assert_unavailable(lend(resilience))
        assert copies(resilience) == 3
        assert resilience.service.get("/health").status_code == 200
    assert_lent(lend(resilience))


def test_a_table_that_a_migration_has_locked_is_503_in_time(resilience: Resilience) -> None:
    with resilience.postgres.hold_locks("shelf_loan"):
        assert_unavailable(lend(resilience))
    assert_lent(lend(resilience))


def test_a_new_connection_that_gets_no_answer_is_503_in_time(resilience: Resilience) -> None:
    with resilience.postgres.refuse():
        pass  # the connections that existed are closed
    with resilience.postgres.blackhole():
        assert_unavailable(lend(resilience))


def test_a_worker_that_hangs_with_postgres_is_replaced_in_time(resilience: Resilience) -> None:
    with resilience.postgres.blackhole():
        with suppress(httpx.RemoteProtocolError):  # gunicorn ends the worker, with an answer or without one
            assert lend(resilience).status_code == 500
        assert resilience.service.get("/health").status_code == 200
    assert_lent(lend(resilience))


@pytest.mark.parametrize("outage", ["refuse", "kill", "blackhole"])
def test_without_redis_books_come_from_postgres(resilience: Resilience, outage: str) -> None:
    with resilience.strike(f"redis.{outage}"):
        assert copies(resilience) == 3
        assert_lent(lend(resilience))
        assert copies(resilience) == 2


def test_a_commit_whose_answer_is_lost_lends_one_copy(resilience: Resilience) -> None:
    with resilience.postgres.on("commit").lose_answer():
        assert_unavailable(lend(resilience))
    assert_lent(lend(resilience))
    assert copies(resilience) == 2


def test_a_killed_worker_of_gunicorn_is_replaced(resilience: Resilience) -> None:
    [worker] = resilience.service.process.children()
    worker.kill()
    recovers(lambda: lend(resilience).status_code == 201, within=10)
