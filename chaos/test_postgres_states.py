"""Postgres answers but cannot serve: no rights, no column, no ids, read-only, starting. Each is a 503 that names its cause, never a 500."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import httpx
import pytest

import healthy
from instances import another_instance
from pytest_resilience import Resilience
from workload import TimedReply, assert_unavailable, concurrently, create, eventually_or_fail, sql, timed, writing

# What Postgres lacks: (how it comes to lack it, what /readyz says, what the log names).
LACKS = {
    "a column": ("alter table campaigns drop column message", "wrong columns", "message"),
    "a type": (
        "alter table campaigns alter column created_at type timestamp using created_at",
        "wrong columns",
        "created_at",
    ),
    "a default": ("alter table campaigns add column owner text not null", "wrong columns", "owner"),
    "ids": ("alter table campaigns alter column id restart with 9223372036854775807", "no ids left", "campaigns.id"),
}
# What the service's role may do: (what it is granted, what /readyz says, what the log names).
GRANTS = {
    "the table and the right to make it": ("alter role clerk set search_path = nowhere", "no table", "cannot be made"),
    "rights": ("alter role clerk reset search_path", "no rights", "DELETE, INSERT, SELECT, UPDATE"),
    "a right on one column": (
        "grant select, insert, delete, update (name, message, version, updated_at) on campaigns to clerk",
        "no rights",
        "UPDATE",
    ),
}
AS_NEEDED = "Postgres is not as the service needs it:"


@contextmanager
def clerk(resilience: Resilience) -> Iterator[str]:
    """A role that may do nothing yet; gives the URL of the database for it."""
    sql(resilience, "create role clerk login password 'clerks-word'")
    try:
        parts = urlsplit(resilience.postgres.url)
        yield urlunsplit(parts._replace(netloc=f"clerk:clerks-word@{parts.netloc.rpartition('@')[2]}"))
    finally:
        sql(resilience, "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'clerk'")
        sql(resilience, "drop owned by clerk")
        sql(resilience, "drop role clerk")


def asks(client: httpx.Client) -> list[TimedReply]:
    """Each kind of request that needs Postgres, once."""
    return [
        timed(lambda: client.get("/api/campaigns")),
        timed(lambda: client.get("/api/campaigns/987654321")),
        timed(lambda: client.post("/api/campaigns", json={"name": "n", "message": "m"})),
        timed(lambda: client.put("/api/campaigns/987654321", json={"status": "sent"})),
        timed(lambda: client.delete("/api/campaigns/987654321")),
    ]


@pytest.mark.parametrize("lack", LACKS)
def test_an_unusable_table_is_a_503_whose_cause_is_logged_once(resilience: Resilience, lack: str) -> None:
    statement, told, named = LACKS[lack]
    service = resilience.service
    asks(service.client)  # so that its statements are prepared
    sql(resilience, "truncate campaigns")
    try:
        sql(resilience, statement)
        if lack == "ids":
            create(resilience)  # the last one
        refuses(service.client, told, lack)
        names_its_cause(lambda: service.log, named, lack)
    finally:
        sql(resilience, "drop table campaigns")
    becomes_ready(service.client, lack)


def test_missing_privileges_are_a_503_whose_cause_is_logged_once(resilience: Resilience) -> None:
    create(resilience)
    with clerk(resilience) as url:
        first = next(iter(GRANTS.values()))[0]
        sql(resilience, first)
        with another_instance(resilience, ready=False, DATABASE_URL=url) as poor:
            for lack, (grant, told, named) in GRANTS.items():
                begin = 0 if grant == first else len(poor.log)
                sql(resilience, grant)
                if lack == "rights":  # what is set for a role is read by its next session
                    sql(resilience, "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'clerk'")
                refuses(poor.client, told, lack)
                names_its_cause(lambda begin=begin: poor.log[begin:], named, lack)
            sql(resilience, "grant update on campaigns to clerk")
            becomes_ready(poor.client, "rights")


def becomes_ready(client: httpx.Client, lack: str) -> None:
    """What was missing is there again: it serves, without a restart."""
    message = f"Postgres lacked {lack}, has it again, and the service does not become ready"
    within = healthy.POSTGRES_BACK_WITHIN
    eventually_or_fail(lambda: client.get("/readyz").status_code == 200, within=within, message=message)
    reply = client.post("/api/campaigns", json={"name": "n", "message": "m"})
    assert reply.status_code == 201, f"ready, and a campaign cannot be created: {reply.status_code} {reply.text}"


def refuses(client: httpx.Client, told: str, lack: str) -> None:
    """/readyz tells the state, and no request is answered 500."""
    within = healthy.READINESS_MAX_AGE + healthy.SLACK
    message = f"Postgres lacks {lack}, and /readyz does not say {told!r}"
    eventually_or_fail(
        lambda: client.get("/readyz").json()["checks"]["postgres"] == told, within=within, message=message
    )
    ready = client.get("/readyz")
    assert ready.status_code == 503, f"Postgres lacks {lack}, and /readyz says ready: {ready.text}"
    assert ready.json()["status"] == "unavailable", f"Postgres lacks {lack}, and /readyz says {ready.text}"
    replies = asks(client)
    statuses = [reply.status for reply in replies]
    wrong = [status for status in statuses if status not in (200, 201, 404, 503)]
    assert not wrong, f"Postgres lacks {lack}: a dependency fault is 503, never {wrong}"
    failed = [reply for reply in replies if reply.status == 503]
    assert failed, f"Postgres lacks {lack}, and nothing fails: {statuses}"
    assert_unavailable(failed)


def names_its_cause(log: Callable[[], str], named: str, lack: str) -> None:
    """The log has one line for the state, with its cause."""

    def lines() -> list[str]:
        return [line for line in log().splitlines() if AS_NEEDED in line]

    within = healthy.READINESS_MAX_AGE + healthy.SLACK
    eventually_or_fail(lines, within=within, message=f"Postgres lacks {lack}, and no line of the log names it")
    assert len(lines()) == 1, f"Postgres lacks {lack}: one line names it, not {len(lines())}:\n{log()}"
    assert named in lines()[0], f"Postgres lacks {lack}: the line does not name {named!r}: {lines()[0]}"
    assert "Traceback" not in log(), f"Postgres lacks {lack}, and an error escaped:\n{log()}"


def test_after_a_failover_to_a_read_only_server_reads_succeed_and_writes_are_503(resilience: Resilience) -> None:
    path = f"/api/campaigns/{create(resilience)['id']}"
    with resilience.postgres.read_only():
        message = "Postgres takes no writes, and /readyz does not say so"
        within = healthy.READINESS_MAX_AGE + healthy.SLACK

        def says() -> bool:
            reply = resilience.service.get("/readyz")
            return reply.status_code == 503 and reply.json()["checks"]["postgres"] == "read-only"

        eventually_or_fail(says, within=within, message=message)
        assert_unavailable(concurrently([lambda: resilience.service.put(path, json={"message": "lost"})] * 3))
        assert_unavailable(concurrently([lambda: resilience.service.delete(path)] * 3))
        assert_unavailable(
            concurrently([lambda: resilience.service.post("/api/campaigns", json={"name": "n", "message": "m"})] * 3)
        )
        listed = resilience.service.get("/api/campaigns?limit=1").status_code
        assert listed == 200, f"Postgres takes no writes, and a read is answered {listed}"
        assert resilience.service.get(path).headers["X-Cache"] != "stale", (
            "Postgres can be read, and a copy is called stale"
        )
    message = "Postgres takes writes again, and the service does not become ready"
    eventually_or_fail(
        lambda: resilience.service.get("/readyz").status_code == 200,
        within=healthy.POSTGRES_BACK_WITHIN,
        message=message,
    )
    assert resilience.service.put(path, json={"message": "kept"}).status_code == 200
    told = [line for line in resilience.service.log.splitlines() if AS_NEEDED in line]
    assert len(told) == 1, f"one line for one outage, not {len(told)}: {told}"
    assert "read-only" in told[0], f"the line does not name the cause: {told[0]}"


def test_a_server_in_crash_recovery_is_a_503_and_logged_as_one_outage(resilience: Resilience) -> None:
    """After a crash Postgres recovers first, and says so to all who connect (57P03)."""
    sql(resilience, "create table if not exists ballast as select repeat('x', 500) as x from generate_series(1, 1000)")
    try:
        sql(
            resilience, "insert into ballast select x from ballast, generate_series(1, 100)"
        )  # so that recovery takes a while
        with writing(resilience, writers=6) as crew:
            crew.until(lambda writer: len(writer.acknowledged), every_one=True, grow_by=2, within=10.0)
            resilience.postgres.crash()
            crew.until(
                lambda writer: len(writer.acknowledged), every_one=True, grow_by=1, within=healthy.POSTGRES_BACK_WITHIN
            )
        refused = {code for writer in crew.writers for code in writer.refused}
        assert refused <= {503}, f"a server that is starting is 503, never {sorted(refused - {503})}"
        assert refused, "Postgres threw all sessions out, and no write failed: nothing was tested"
        ready = healthy.POSTGRES_BACK_WITHIN
        eventually_or_fail(
            lambda: resilience.service.get("/readyz").status_code == 200,
            within=ready,
            message="it does not become ready",
        )
        log = resilience.service.log
        outages, recoveries = (log.count(f"Postgres connect{how}") for how in ("ion failed:", "ed successfully"))
        assert outages <= 2, (
            f"{outages} lines for one outage: one for each change of state, not one for each reason\n{log}"
        )
        assert recoveries == outages + 1, f"{recoveries} lines that Postgres is back for {outages} outages\n{log}"
    finally:
        sql(resilience, "drop table if exists ballast")
