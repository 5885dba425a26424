"""The promises of the links while Postgres, Redis or both are down, silent, frozen or restarted."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from pytest_resilience import Resilience, Strike, eventually, recovers

DEADLINE = 1.0  # seconds that a request may spend on Postgres
BUDGET = 0.25  # seconds that a command may spend on Redis
POOL = 5  # connections to Postgres
SLACK = 1.5  # seconds for everything else, on a busy machine

OUTAGES: dict[str, Callable[..., Strike]] = {
    "refusing": lambda server: server.refuse(),
    "silent": lambda server: server.blackhole(),
    "frozen": lambda server: server.pause(),
    "killed": lambda server: server.kill(),
}
outages = pytest.mark.parametrize("outage", OUTAGES)


def create(resilience: Resilience, url: str = "https://example.com") -> str:
    """Create a link and return its path."""
    reply = resilience.service.post("/links", content=url)
    assert reply.status_code == 201, reply.text
    return f"/links/{reply.json()['codes'][0]}"


def source(resilience: Resilience, path: str) -> str:
    """Return the source of a link, which has to be right."""
    reply = resilience.service.get(path)
    assert (reply.status_code, reply.json()) == (200, {"url": "https://example.com"})
    return reply.headers["x-source"]


def refused_in_time(resilience: Resilience, path: str) -> bool:
    """True if a read is refused with a 503 before the deadline."""
    begin = time.monotonic()
    reply = resilience.service.get(path)
    seconds = time.monotonic() - begin
    assert seconds < DEADLINE + BUDGET + SLACK, f"a read waited {seconds:.2f} s"
    return reply.status_code == 503 and reply.headers["retry-after"] == "1"


@outages
def test_reads_survive_redis_twice_in_a_row(resilience: Resilience, outage: str) -> None:
    link = create(resilience)
    for _ in range(2):
        recovers(lambda: source(resilience, link) == "redis", within=5)
        with OUTAGES[outage](resilience.redis):
            begin = time.monotonic()
            assert source(resilience, link) == "postgres"
            seconds = time.monotonic() - begin
            assert seconds < BUDGET + SLACK, f"a read waited {seconds:.2f} s for Redis"
    recovers(lambda: source(resilience, link) == "redis", within=5)


@outages
def test_without_postgres_reads_are_refused_in_time(resilience: Resilience, outage: str) -> None:
    link = create(resilience)
    with OUTAGES[outage](resilience.postgres):
        assert refused_in_time(resilience, link)
        assert resilience.service.get("/health").status_code == 200
    recovers(lambda: source(resilience, link), within=5)


def test_cached_links_are_served_without_postgres(resilience: Resilience) -> None:
    link = create(resilience)
    eventually(lambda: source(resilience, link) == "redis", within=5)
    with resilience.postgres.refuse():
        assert source(resilience, link) == "redis"
        assert resilience.service.get("/readyz").status_code == 503


def test_both_struck_together_are_a_refusal_and_then_over(resilience: Resilience) -> None:
    link = create(resilience)
    with resilience.redis.blackhole(), resilience.postgres.refuse():
        assert refused_in_time(resilience, link)
    recovers(lambda: source(resilience, link) == "redis", within=5)


def test_sessions_that_postgres_ends_do_not_end_the_process(resilience: Resilience) -> None:
    link = create(resilience)
    process = resilience.service.process.pid
    resilience.postgres.terminate_backends()
    recovers(lambda: source(resilience, link), within=5)
    assert resilience.service.process.pid == process


def test_a_pool_of_connections_that_died_silently_is_replaced(resilience: Resilience) -> None:
    with resilience.postgres.on("select", matching="links").delay(0.2), ThreadPoolExecutor(POOL) as clients:
        list(clients.map(resilience.service.get, ["/links/none"] * POOL))  # opens all connections
    with resilience.postgres.half_open() as strike:
        recovers(lambda: create(resilience), within=5)
        assert strike.receipt.touched


def test_a_connection_to_redis_that_died_silently_is_replaced(resilience: Resilience) -> None:
    link = create(resilience)
    eventually(lambda: source(resilience, link) == "redis", within=5)
    with resilience.redis.half_open():
        recovers(lambda: source(resilience, link) == "redis", within=5)
