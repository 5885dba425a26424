"""Postgres is killed and comes back: what was acknowledged is there, what was refused is not, and the service is back by itself."""

from __future__ import annotations

import healthy
from pytest_resilience import Resilience, eventually, recovers
from workload import at_once, create, sql, timed, writing


def test_no_acknowledged_write_is_lost_when_postgres_is_killed_twice(resilience: Resilience) -> None:
    with writing(resilience, writers=4) as crew:
        for _ in range(2):
            crew.until(lambda writer: len(writer.acknowledged), every_one=True, grow_by=5, within=10.0)
            with resilience.postgres.kill():
                crew.until(lambda writer: writer.unknown + len(writer.refused), every_one=False, grow_by=1, within=10.0)
            crew.until(
                lambda writer: len(writer.acknowledged), every_one=True, grow_by=1, within=healthy.POSTGRES_BACK_WITHIN
            )

    rows = {row["id"]: row["message"] for row in sql(resilience, "select id, message from campaigns")}
    acknowledged = {i: message for writer in crew.writers for i, message in writer.acknowledged.items()}
    lost = {i: m for i, m in acknowledged.items() if rows.get(i) != m}
    assert not lost, (
        f"{len(lost)} of {len(acknowledged)} acknowledged campaigns are not in Postgres: {sorted(lost.items())[:5]}"
    )
    refused_codes = {code for writer in crew.writers for code in writer.refused}
    assert refused_codes <= {503}, f"a dependency fault is 503: {refused_codes}"
    # Twice the same row would be a write that was retried although it had happened.
    assert len(set(rows.values())) == len(rows), "a write happened twice"
    unexplained = len(rows) - len(acknowledged)
    doubtful = sum(writer.unknown + len(writer.refused) for writer in crew.writers)
    assert unexplained <= doubtful, f"{unexplained} rows that nobody was told of, and only {doubtful} writes in doubt"


def test_cached_reads_go_on_and_others_get_503_while_postgres_is_away(resilience: Resilience) -> None:
    cached, other = create(resilience), create(resilience)
    path = f"/api/campaigns/{cached['id']}"
    eventually(lambda: resilience.service.get(path).headers["X-Cache"] == "hit", within=2.0)
    with resilience.postgres.refuse():
        assert resilience.service.get(path).json()["id"] == cached["id"]
        refused = timed(lambda: resilience.service.put(f"/api/campaigns/{other['id']}", json={"message": "lost?"}))
        assert refused.status == 503
        assert refused.reply is not None
        assert int(refused.reply.headers["Retry-After"]) >= 1
        assert refused.seconds < healthy.ACQUIRE_TIMEOUT + healthy.SLACK, "refused connections must fail at once"
        eventually(lambda: resilience.service.get("/readyz").status_code == 503, within=2.0)
    recovers(lambda: resilience.service.get("/readyz").status_code == 200, within=healthy.POSTGRES_BACK_WITHIN)
    recovers(
        lambda: resilience.service.put(f"/api/campaigns/{other['id']}", json={"message": "kept"}).status_code == 200,
        within=healthy.POSTGRES_BACK_WITHIN,
    )


def test_connections_that_were_cut_while_idle_cost_nobody_a_request(resilience: Resilience) -> None:
    """A failover closes every idle connection; the pool must notice before a request is sent into one."""
    campaigns = [create(resilience) for _ in range(5)]
    at_once([lambda: resilience.service.post("/api/campaigns", json={"name": "n", "message": "m"})] * 10)
    with resilience.postgres.refuse():
        pass
    for campaign in campaigns:
        reply = resilience.service.put(f"/api/campaigns/{campaign['id']}", json={"message": "after the failover"})
        assert reply.status_code == 200, reply.text
