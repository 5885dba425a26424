"""The cleanup endpoint does what it says: a zombie is really gone, the living don't suffer, and it never claims what it didn't do."""

from __future__ import annotations

import healthy
from pytest_resilience import Resilience, eventually
from workload import create, session, sql, timed, writing

OLDER_BOOT = "service:00000000-0000-0000-0000-000000000000"


def alive(resilience: Resilience, pid: int) -> bool:
    return bool(sql(resilience, "select 1 from pg_stat_activity where pid = $1", pid))


def test_a_zombie_of_an_earlier_boot_is_really_gone(resilience: Resilience) -> None:
    create(resilience)
    begun = ("begin", "lock table campaigns in row exclusive mode")
    with session(resilience, OLDER_BOOT, *begun) as zombie, session(resilience, "somebody else", "begin") as stranger:
        reply = timed(lambda: resilience.service.post("/api/db-cleanup?verbose"))
        assert reply.status == 200
        assert reply.reply is not None
        assert reply.seconds < healthy.CLEANUP_WITHIN + healthy.SLACK
        assert reply.reply.json()["server_terminated"] >= 1
        eventually(lambda: not alive(resilience, zombie), within=2.0)
        assert alive(resilience, stranger), "the cleanup ended a session that is none of the service's"


def test_live_requests_do_not_suffer(resilience: Resilience) -> None:
    with writing(resilience, writers=6) as crew:
        for _ in range(3):
            crew.until(lambda writer: len(writer.acknowledged), every_one=True, grow_by=5, within=10.0)
            eventually(lambda: resilience.service.post("/api/db-cleanup").status_code == 200, within=3.0)
    failed = [code for writer in crew.writers for code in writer.refused]
    assert not failed, f"the cleanup failed live requests: {failed}"
    assert not any(writer.unknown for writer in crew.writers), "the cleanup cut live requests off"


def test_it_claims_no_success_when_it_can_do_nothing(resilience: Resilience) -> None:
    create(resilience)
    with resilience.postgres.blackhole():
        reply = timed(lambda: resilience.service.post("/api/db-cleanup?verbose"))
        assert reply.reply is not None, "the cleanup did not answer"
        assert reply.seconds < healthy.CLEANUP_WITHIN + healthy.SLACK
        if reply.status == 200:  # dead connections of its own pool it can close without Postgres
            body = reply.reply.json()
            assert body["idle_closed"] + body["leaked_closed"] + body["server_terminated"] > 0, (
                f"it claims success for nothing: {body}"
            )
        else:
            assert reply.status == 503


def test_it_answers_once_in_a_while(resilience: Resilience) -> None:
    create(resilience)
    first = resilience.service.get("/api/db-cleanup")
    assert first.status_code == 200
    assert first.json()["status"] == "success"
    assert first.json()["message"] == "Database pool cleanup triggered"
    second = resilience.service.get("/api/db-cleanup")
    assert second.status_code == 429
    assert int(second.headers["Retry-After"]) >= 1
