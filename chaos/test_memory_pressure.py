"""Memory runs short: the guard notices within 2 s, says so in the log, collects, and memory comes down."""

from __future__ import annotations

import re

import healthy
from pytest_resilience import Resilience, eventually, recovers
from workload import NAME, sql, timed

FORCED = re.compile(r"\[Memory\] High heap usage: (\d+\.\d\d)%, forcing GC")
FREED = re.compile(r"\[GC\] Freed (-?\d+\.\d\d)MB heap, (-?\d+\.\d\d)MB external, (-?\d+\.\d\d)MB total")
MIB = 2**20


def fill_the_fallback_cache(resilience: Resilience, campaigns: int) -> None:
    """With Redis away, campaigns that are read stay in the service's own memory."""
    query = "insert into campaigns (name, message) select $1, repeat(chr(64 + i % 26), 10000) from generate_series(1, $2) i returning id"
    ids = [row["id"] for row in sql(resilience, query, NAME, campaigns)]
    with resilience.redis.refuse():
        for i in ids:
            assert resilience.service.get(f"/api/campaigns/{i}").status_code == 200


def test_the_guard_forces_a_collection_and_memory_comes_down(resilience: Resilience) -> None:
    fill_the_fallback_cache(resilience, campaigns=2000)
    full = resilience.service.process.memory_info().rss
    assert not FORCED.search(resilience.service.log), "the guard must not cry before memory is short"

    with resilience.service.memory_pressure(headroom_mb=4):
        eventually(lambda: FORCED.search(resilience.service.log), within=healthy.GUARD_WITHIN)
        eventually(lambda: FREED.search(resilience.service.log), within=healthy.GUARD_WITHIN)
        found = FORCED.search(resilience.service.log)
        assert found is not None
        assert float(found[1]) > 90, "the guard acts above 90 %, and says the number that it saw"
        eventually(lambda: resilience.service.process.memory_info().rss < full - 5 * MIB, within=10.0)
        assert resilience.service.get("/health").status_code == 200
        assert resilience.service.get("/livez").status_code == 200
        # What was freed can be used again: the service serves, although its limit has not moved.
        recovers(lambda: resilience.service.get("/api/campaigns?limit=1").status_code == 200, within=5.0)

    assert resilience.service.log.count("forcing GC") <= 2, "one line for one episode"
    recovers(lambda: resilience.service.get("/api/campaigns?limit=1").status_code == 200, within=5.0)


def test_a_service_without_memory_answers_503_and_lives(resilience: Resilience) -> None:
    """With no headroom at all an allocation fails; that is one 503, not the end of the process."""
    pid = resilience.service.process.pid
    with resilience.service.memory_pressure(headroom_mb=0):
        big = {"name": "big", "message": "x" * 10_000}
        statuses = {timed(lambda: resilience.service.post("/api/campaigns", json=big)).status for _ in range(30)}
        # None: where there is no memory to read a request into, its connection is closed.
        assert statuses <= {201, 503, None}, f"a lack of memory is 503, never {statuses - {201, 503, None}}"
        eventually(lambda: resilience.service.get("/livez").status_code == 200, within=5.0)
    recovers(
        lambda: resilience.service.post("/api/campaigns", json={"name": "n", "message": "m"}).status_code == 201,
        within=5.0,
    )
    assert resilience.service.process.pid == pid, "the process did not survive"
