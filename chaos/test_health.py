"""GET /health waits for nothing: whatever is broken, 99 of 100 answers come within 50 ms."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest

import healthy
from pytest_resilience import Resilience, Strike
from workload import create, timed

FAULTS: dict[str, Callable[[Resilience], Strike]] = {
    "redis refuses": lambda r: r.redis.refuse(),
    "redis hangs": lambda r: r.redis.blackhole(),
    "redis frozen": lambda r: r.redis.pause(),
    "redis killed": lambda r: r.redis.kill(),
    "postgres refuses": lambda r: r.postgres.refuse(),
    "postgres resets": lambda r: r.postgres.reset(),
    "postgres hangs": lambda r: r.postgres.blackhole(),
    "postgres frozen": lambda r: r.postgres.pause(),
    "postgres killed": lambda r: r.postgres.kill(),
    "postgres locked": lambda r: r.postgres.starve(lock="campaigns"),
    "memory short": lambda r: r.service.memory_pressure(headroom_mb=8),
}
ASKS = 300
FORM = re.compile(
    r'\{"status":"healthy","nextReady":true,"timestamp":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z","uptime":\d+\.\d+\}'
)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_health_answers_in_time_under(resilience: Resilience, fault: Callable[[Resilience], Strike]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    path = f"/api/campaigns/{create(resilience)['id']}"
    resilience.service.get(path)
    with fault(resilience), ThreadPoolExecutor(6) as threads:
        # Requests that feel the fault, under way while /health is asked.
        readers = [threads.submit(timed, lambda: resilience.service.get(path)) for _ in range(3)]
        writers = [threads.submit(timed, lambda: resilience.service.put(path, json={"message": "m"})) for _ in range(3)]
        seconds = []
        for _ in range(ASKS):
            begin = time.monotonic()
            reply = resilience.service.get("/health")
            seconds.append(time.monotonic() - begin)
            assert reply.status_code == 200
        assert FORM.fullmatch(reply.text), f"/health answers in another form: {reply.text}"
        assert resilience.service.get("/livez").status_code == 200
        p99 = sorted(seconds)[ASKS * 99 // 100]
        assert p99 < healthy.HEALTH_P99, f"/health took {p99 * 1000:.0f} ms at p99, worst {max(seconds) * 1000:.0f} ms"
        statuses = {f.result().status for f in readers + writers}
    assert statuses <= {200, 503}, f"a dependency fault is 503 or served from a cache, never {statuses - {200, 503}}"
