"""The promises of the bookings while Postgres or Redis is struck."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from bookings.database import POOL
from pytest_resilience import Resilience, eventually, recovers

KEY = uuid.UUID(int=1)


@pytest.fixture(autouse=True)
def event(resilience: Resilience) -> None:
    """Store an event with three seats."""
    assert resilience.service.put("/events/1", json={"free": 3}).status_code == 201


def book(resilience: Resilience, key: uuid.UUID = KEY) -> httpx.Response:
    return resilience.service.put(f"/bookings/{key}", json={"event": 1})


def assert_booked(reply: httpx.Response) -> None:
    assert reply.status_code == 201, f"the booking was answered {reply.status_code}: {reply.text}"


def assert_unavailable(reply: httpx.Response) -> None:
    assert (reply.status_code, reply.headers.get("Retry-After")) == (503, "1"), reply.text


def free(resilience: Resilience) -> int:
    """Return the free seats, which have to be served."""
    reply = resilience.service.get("/events/1")
    assert reply.status_code == 200, f"the free seats were answered {reply.status_code}: {reply.text}"
    return int(reply.json()["free"])


def test_a_key_books_one_seat(resilience: Resilience) -> None:
    assert_booked(book(resilience))
    assert_booked(book(resilience))
    assert free(resilience) == 2


def test_a_key_that_comes_twice_at_once_books_one_seat(resilience: Resilience) -> None:
    with ThreadPoolExecutor(2) as crowd:
        for reply in crowd.map(lambda _: book(resilience), range(2)):
            assert_booked(reply)
    assert free(resilience) == 2


def test_no_seat_is_sold_twice(resilience: Resilience) -> None:
    with ThreadPoolExecutor(8) as crowd:
        replies = list(crowd.map(lambda number: book(resilience, uuid.UUID(int=number)), range(1, 9)))
    statuses = [reply.status_code for reply in replies]
    assert free(resilience) + statuses.count(201) == 3, f"three seats, and the answers were {statuses}"


@pytest.mark.parametrize("outage", ["refuse", "kill", "blackhole"])
def test_without_postgres_a_booking_is_503_and_works_after_that(resilience: Resilience, outage: str) -> None:
    assert free(resilience) == 3
    with resilience.strike(f"postgres.{outage}"):
        assert_unavailable(book(resilience))
        assert free(resilience) == 3, "Redis has the free seats"
        assert resilience.service.get("/readyz").status_code == 503
        assert resilience.service.get("/health").status_code == 200
    recovers(lambda: book(resilience).status_code == 201, within=5)


def test_connections_that_died_while_idle_cost_no_error(resilience: Resilience) -> None:
    resilience.postgres.terminate_backends()
    assert_booked(book(resilience))


def test_with_a_starved_pool_bookings_are_503_and_health_answers(resilience: Resilience) -> None:
    with resilience.postgres.starve(lock="bookings") as starving, ThreadPoolExecutor(8 * POOL) as crowd:
        waiting = [crowd.submit(book, resilience) for _ in range(8 * POOL)]
        eventually(lambda: starving.receipt.touched, within=5)
        assert resilience.service.get("/health").status_code == 200
        for each in waiting:
            assert_unavailable(each.result())
    recovers(lambda: book(resilience).status_code == 201, within=5)


def test_a_commit_whose_answer_is_lost_books_one_seat(resilience: Resilience) -> None:
    with resilience.postgres.on("commit").lose_answer():
        assert_unavailable(book(resilience))
    assert_booked(book(resilience))
    assert free(resilience) == 2


def test_a_conflict_is_repeated(resilience: Resilience) -> None:
    with resilience.postgres.serialization_failure():
        assert_booked(book(resilience))
    assert free(resilience) == 2


def test_the_attempts_after_conflicts_have_an_end(resilience: Resilience) -> None:
    with resilience.postgres.on("insert|update").error("40001"):
        assert_unavailable(book(resilience))


@pytest.mark.parametrize("outage", ["refuse", "kill", "blackhole"])
def test_without_redis_the_free_seats_come_from_postgres(resilience: Resilience, outage: str) -> None:
    with resilience.strike(f"redis.{outage}"):
        assert free(resilience) == 3
        assert_booked(book(resilience))
        assert free(resilience) == 2
