"""Many clients change one campaign while Redis comes and goes. No change is lost, and no reader sees versions go backwards."""

from __future__ import annotations

import healthy
from pytest_resilience import Resilience, eventually
from workload import concurrently, create, reading, sql


def test_of_concurrent_writers_of_one_version_exactly_one_wins(resilience: Resilience) -> None:
    path = f"/api/campaigns/{create(resilience)['id']}"
    with resilience.redis.refuse():
        for version in (1, 2, 3):
            seen = {"If-Match": f'"{version}"'}
            messages = [f"writer {number} saw version {version}" for number in range(12)]
            replies = concurrently(
                [lambda m=m, h=seen: resilience.service.put(path, json={"message": m}, headers=h) for m in messages]
            )
            winners = [message for message, reply in zip(messages, replies, strict=True) if reply.status == 200]
            assert len(winners) == 1, (
                f"{len(winners)} of 12 writers of version {version} succeed, not 1: the others' changes are lost"
            )
            statuses = {reply.status for reply in replies}
            assert statuses == {200, 412}, f"writers of an older version get 412, not {statuses}"
            now = resilience.service.get(path)
            assert now.json()["message"] == winners[0], "the change of the writer that got 200 is not there"
            assert (now.json()["version"], now.headers["ETag"]) == (version + 1, f'"{version + 1}"')


def test_concurrent_updates_all_count_and_reads_are_monotonic(resilience: Resilience) -> None:
    path = f"/api/campaigns/{create(resilience)['id']}"
    changes = 0
    with reading(resilience, path) as reads:
        for _ in range(3):
            with resilience.redis.reset() as outage:
                replies = concurrently([lambda: resilience.service.put(path, json={"status": "scheduled"})] * 8)
                eventually(lambda outage=outage: outage.receipt.touched, within=healthy.REDIS_BACK_WITHIN)
            replies += concurrently([lambda: resilience.service.put(path, json={"status": "sending"})] * 8)
            assert {reply.status for reply in replies} == {200}
            changes += len(replies)
    versions = [read.reply.json()["version"] for read in reads if read.reply is not None]
    assert versions == sorted(versions), f"a reader saw an older version after a newer one: {versions}"
    served, stored = (
        resilience.service.get(path).json()["version"],
        sql(resilience, "select version from campaigns")[0][0],
    )
    assert served == 1 + changes, f"the version is {served} after {changes} changes: changes were lost or counted twice"
    assert stored == 1 + changes, f"the version in Postgres is {stored} after {changes} changes"
