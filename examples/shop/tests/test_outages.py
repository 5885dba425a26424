"""The promises of the shop while Postgres or Redis refuses, is slow, silent, down or full, with one test each."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from pytest_resilience import Resilience, eventually, recovers
from shop.database import DEADLINE, POOL

SLACK = 1.0  # seconds for everything but Postgres, on a busy machine
LAMP = "/products/1"
CHAIR = "/products/2"


@pytest.fixture(autouse=True)
def lamp(resilience: Resilience) -> None:
    """Store a lamp, which is then in Postgres and not in Redis."""
    reply = resilience.service.put(LAMP, json={"name": "Lamp"})
    assert reply.status_code == 201, f"the shop can't store a product: {reply.text}"


def timed(resilience: Resilience, path: str) -> tuple[float, httpx.Response]:
    """Return the duration of a request and its reply."""
    begin = time.monotonic()
    try:
        reply = resilience.service.get(path)
    except httpx.TimeoutException:
        pytest.fail(
            f"GET {path} has no answer after {time.monotonic() - begin:.0f} s: the shop hangs with its database"
        )
    return time.monotonic() - begin, reply


def source(reply: httpx.Response) -> str:
    """Return the source of a lamp."""
    assert reply.status_code == 200, f"a read of the lamp returned {reply.status_code}: {reply.text}"
    assert reply.json() == {"name": "Lamp"}
    return reply.headers["X-Source"]


def test_reads_survive_redis_refusing(resilience: Resilience) -> None:
    sources = [source(resilience.service.get(LAMP)) for _ in range(2)]
    assert sources == ["postgres", "redis"], f"the cache does not work without a fault: {sources}"
    with resilience.redis.refuse():
        during = source(resilience.service.get(LAMP))
        assert during == "postgres", f"Redis refuses, but the answer came from {during}"
    recovers(lambda: source(resilience.service.get(LAMP)) == "redis", within=5)


@pytest.mark.parametrize("how", ["slow", "silent"])
def test_postgres_without_an_answer_is_a_503_in_time(resilience: Resilience, how: str) -> None:
    strike = resilience.postgres.latency(5.0) if how == "slow" else resilience.postgres.blackhole()
    seconds, reply = timed(resilience, LAMP)
    assert reply.status_code == 503, f"Postgres is {how}, and the shop answers {reply.status_code}: {reply.text}"
    assert reply.headers["Retry-After"] == "1"
    promised = DEADLINE + SLACK
    assert seconds < promised, (
        f"Postgres is {how}, and a read waited {seconds:.2f} s for it; promised are {promised:g} s"
    )
    strike.heal()
    recovers(lambda: source(resilience.service.get(LAMP)), within=10)


def test_a_killed_postgres_is_a_503_until_it_is_back(resilience: Resilience) -> None:
    resilience.service.put(CHAIR, json={"name": "Chair"})
    resilience.service.get(CHAIR)
    with resilience.postgres.kill():
        lamp = resilience.service.get(LAMP)
        assert lamp.status_code == 503, f"Postgres was killed, and the shop answers {lamp.status_code}: {lamp.text}"
        chair = resilience.service.get(CHAIR)
        assert chair.status_code == 200, f"Redis has the chair, and the shop answers {chair.status_code}: {chair.text}"
        assert chair.headers["X-Source"] == "redis"
    recovers(lambda: source(resilience.service.get(LAMP)), within=5)
    recovers(lambda: resilience.service.put(CHAIR, json={"name": "Stool"}).status_code == 201, within=5)


def test_with_a_starved_pool_reads_are_503_and_health_answers(resilience: Resilience) -> None:
    with resilience.postgres.starve(lock="products") as starving, ThreadPoolExecutor(2 * POOL) as crowd:
        waiting = [crowd.submit(timed, resilience, LAMP) for _ in range(2 * POOL)]
        eventually(lambda: starving.receipt.touched, within=5)
        seconds, health = timed(resilience, "/health")
        assert health.status_code == 200, (
            f"the pool is starved, and /health answers {health.status_code}: {health.text}"
        )
        assert seconds < SLACK, f"the pool is starved, and /health waited {seconds:.2f} s with all the others"
        statuses = [reply.status_code for _, reply in (each.result() for each in waiting)]
        assert set(statuses) == {503}, f"no query can read the table, and the shop answers {sorted(set(statuses))}"
        slowest = max(seconds for seconds, _ in (each.result() for each in waiting))
        assert slowest < DEADLINE + SLACK, f"a read waited {slowest:.2f} s for a connection of the pool"
    recovers(lambda: source(resilience.service.get(LAMP)), within=5)


@pytest.mark.fault("redis.refuse")
def test_products_are_stored_without_redis(resilience: Resilience) -> None:
    """The fault strikes before the test begins, so the shop never connects to a working Redis."""
    reply = resilience.service.put(CHAIR, json={"name": "Chair"})
    assert reply.status_code == 201, f"Redis refuses, and a product can't be stored: {reply.status_code} {reply.text}"
    assert resilience.service.get(CHAIR).json() == {"name": "Chair"}
