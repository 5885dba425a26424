"""Redis refuses, hangs or flaps, and comes back: no request fails, none waits, nothing stale stays, and Redis is used again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import healthy
from pytest_resilience import Resilience, Strike, eventually
from workload import at_once, create, timed

FELL_BACK = "Redis connection failed, falling back to in-memory cache:"
CONNECTED = "Redis connected successfully"

OUTAGES: dict[str, Callable[[Resilience], Strike]] = {
    "refusing": lambda r: r.redis.refuse(),
    "resetting": lambda r: r.redis.reset(),
    "hanging": lambda r: r.redis.blackhole(),
    "frozen": lambda r: r.redis.pause(),
    "killed": lambda r: r.redis.kill(),
}


@pytest.fixture(params=OUTAGES.values(), ids=OUTAGES.keys())
def outage(request: pytest.FixtureRequest) -> Callable[[Resilience], Strike]:
    strike: Callable[[Resilience], Strike] = request.param
    return strike


def served_by(resilience: Resilience, path: str) -> str:
    """Which layer answers a read now."""
    reply = resilience.service.get(path)
    assert reply.status_code == 200, f"a read failed: {reply.status_code} {reply.text}"
    return reply.headers["X-Cache-Source"]


def back_on_redis(resilience: Resilience, path: str) -> None:
    eventually(lambda: served_by(resilience, path) == "redis", within=healthy.REDIS_BACK_WITHIN)


def test_reads_survive_an_outage_of_redis_twice_in_a_row(
    resilience: Resilience, outage: Callable[[Resilience], Strike]
) -> None:
    """The second outage tells: a client that gave up after the first one looks healthy until then."""
    path = f"/api/campaigns/{create(resilience)['id']}"
    back_on_redis(resilience, path)

    for number in (1, 2):
        with outage(resilience):
            replies = [timed(lambda: resilience.service.get(path)) for _ in range(30)]
            assert [r.status for r in replies] == [200] * 30
            slowest = max(r.seconds for r in replies)
            assert slowest < healthy.REDIS_BUDGET + healthy.SLACK, f"a read took {slowest:.2f} s while Redis was away"
            assert replies[-1].reply is not None
            assert replies[-1].reply.headers["X-Cache-Source"] == "memory", "the fallback cache does not serve"
            assert resilience.service.log.count(FELL_BACK) == number, "one line for each outage, not one for each error"
        back_on_redis(resilience, path)
        assert resilience.service.log.count(CONNECTED) == 1 + number, "one line at the start and one for each recovery"


def test_writes_survive_an_outage_of_redis(resilience: Resilience, outage: Callable[[Resilience], Strike]) -> None:
    path = f"/api/campaigns/{create(resilience)['id']}"
    back_on_redis(resilience, path)
    with outage(resilience):
        reply = resilience.service.put(path, json={"message": "changed while Redis was away"})
        assert reply.status_code == 200
        assert resilience.service.get(path).json()["message"] == "changed while Redis was away"


def test_what_was_written_during_an_outage_is_not_undone_by_what_redis_remembers(
    resilience: Resilience, outage: Callable[[Resilience], Strike]
) -> None:
    """Redis still holds the old values when it comes back; nobody may be served them, from the first moment on."""
    changed, deleted = (f"/api/campaigns/{create(resilience)['id']}" for _ in range(2))
    for path in (changed, deleted):
        back_on_redis(resilience, path)
    with outage(resilience):
        assert resilience.service.put(changed, json={"message": "the new text"}).status_code == 200
        assert resilience.service.delete(deleted).status_code == 204

    def new_text() -> str:
        reply = resilience.service.get(changed)
        assert reply.json()["message"] == "the new text", "an old value came back out of Redis"
        assert resilience.service.get(deleted).status_code == 404, "a deleted campaign came back out of Redis"
        return reply.headers["X-Cache-Source"]

    sources = [new_text()]
    while sources[-1] != "redis" and len(sources) < 500:
        sources.append(new_text())
    back_on_redis(resilience, changed)
    assert new_text() == "redis"


def test_flapping_redis_fails_no_request(resilience: Resilience) -> None:
    path = f"/api/campaigns/{create(resilience)['id']}"
    back_on_redis(resilience, path)
    for number in range(6):
        with resilience.redis.refuse() as flap:
            written = resilience.service.put(path, json={"message": f"text {number}"})
            assert written.status_code == 200
            down = at_once([lambda: resilience.service.get(path)] * 8)
            eventually(lambda: flap.receipt.touched, within=healthy.REDIS_BACK_WITHIN)  # by a request or by the prober
        up = at_once([lambda: resilience.service.get(path)] * 8)
        for read in down + up:
            assert read.reply is not None
            assert read.status == 200
            assert read.reply.json()["message"] == f"text {number}", "a read missed the write before it"
    back_on_redis(resilience, path)
    assert resilience.service.get(path).json()["message"] == "text 5"


def test_many_at_once_do_not_pile_up_behind_a_hanging_redis(resilience: Resilience) -> None:
    path = f"/api/campaigns/{create(resilience)['id']}"
    back_on_redis(resilience, path)
    with resilience.redis.blackhole():
        reads = at_once([lambda: resilience.service.get(path)] * 40)
        assert [r.status for r in reads] == [200] * 40
        slowest = max(r.seconds for r in reads)
        assert slowest < healthy.REDIS_BUDGET + healthy.SLACK, f"the last of 40 readers waited {slowest:.2f} s"
