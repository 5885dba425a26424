"""An accepted job runs exactly once, whatever happens to Redis, to the service and to the journal on its way."""

from __future__ import annotations

from pytest_resilience import Resilience, eventually
from workload import create


def test_jobs_accepted_while_redis_is_down_run_when_it_is_back(resilience: Resilience) -> None:
    with resilience.redis.refuse():
        replies = [resilience.service.post(f"/api/campaigns/{create(resilience)['id']}/send") for _ in range(3)]
        assert [reply.status_code for reply in replies] == [202] * 3
    for reply in replies:
        path = reply.headers["Location"]
        eventually(lambda path=path: resilience.service.get(path).json()["status"] == "completed", within=5)
