"""Postgres runs but cannot serve. Privileges, columns or ids are missing, or it is read-only or recovering. Each state is a 503."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import httpx
import pytest

import healthy
from instances import another_instance
from pytest_resilience import Resilience, eventually
from workload import (
    TimedReply,
    assert_unavailable,
    concurrently,
    create,
    eventually_or_fail,
    sql,
    sql_connection,
    timed,
    writing,
)

# What the table lacks: (the statement that causes it, the state in /readyz, what the log line names).
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
# What the service's role lacks: (the statement that leads there, the state in /readyz, what the log line names).
GRANTS = {
    "the table and the right to create it": (
        "alter role clerk set search_path = nowhere",
        "no table",
        "cannot be created",
    ),
    "rights": ("alter role clerk reset search_path", "no rights", "DELETE, INSERT, SELECT, UPDATE"),
    "a right on one column": (
        "grant select, insert, delete, update (name, message, version, updated_at) on campaigns to clerk",
        "no rights",
        "UPDATE",
    ),
}
UNUSABLE = "Postgres is not as the service needs it:"  # begins the log line
LACKS_MORE = "Postgres lacks what contacts and jobs need:"
HAS_MORE = "Postgres has what contacts and jobs need"
CSV = {"Content-Type": "text/csv"}
CONTACT = "name,email,phone\nAda,ada@example.com,\n"
EVERY_HOUR = {"every_seconds": 3600, "repeat": 1}
FAILED = "Postgres connection failed:"
CONNECTED = "Postgres connected successfully"


@contextmanager
def role_without_privileges(resilience: Resilience) -> Iterator[str]:
    """Create the role clerk, which may do nothing yet, and yield the database URL for it."""
    sql(resilience, "create role clerk login password 'clerks-word'")
    try:
        parts = urlsplit(resilience.postgres.url)
        yield urlunsplit(parts._replace(netloc=f"clerk:clerks-word@{parts.netloc.rpartition('@')[2]}"))
    finally:
        terminate_sessions_of_clerk(resilience)
        sql(resilience, "drop owned by clerk")
        sql(resilience, "drop role clerk")


def terminate_sessions_of_clerk(resilience: Resilience) -> None:
    """Terminate the sessions of the role clerk. Settings of a role apply to its next session."""
    sql(resilience, "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'clerk'")


def send_one_of_each(client: httpx.Client) -> list[TimedReply]:
    """Send each kind of request that needs Postgres once."""
    return [
        timed(lambda: client.get("/api/campaigns")),
        timed(lambda: client.get("/api/campaigns/987654321")),
        timed(lambda: client.post("/api/campaigns", json={"name": "n", "message": "m"})),
        timed(lambda: client.put("/api/campaigns/987654321", json={"status": "sent"})),
        timed(lambda: client.delete("/api/campaigns/987654321")),
    ]


@pytest.mark.parametrize("lack", LACKS)
def test_an_unusable_table_is_a_503_whose_cause_is_logged_once(resilience: Resilience, lack: str) -> None:
    statement, state, cause = LACKS[lack]
    service = resilience.service
    send_one_of_each(service.client)  # prepares the statements
    sql(resilience, "truncate campaigns")
    try:
        sql(resilience, statement)
        if lack == "ids":
            create(resilience)  # takes the last id
        assert_refuses(service.client, state, lack)
        assert_cause_logged_once(lambda: service.log, cause, lack)
    finally:
        sql(resilience, "drop table campaigns")
    assert_recovers(service.client, lack)


def test_missing_privileges_are_a_503_whose_cause_is_logged_once(resilience: Resilience) -> None:
    create(resilience)
    with role_without_privileges(resilience) as url:
        first = next(iter(GRANTS.values()))[0]
        sql(resilience, first)
        with another_instance(resilience, ready=False, DATABASE_URL=url) as instance:
            for lack, (grant, state, cause) in GRANTS.items():
                begin = 0 if grant == first else len(instance.log)
                sql(resilience, grant)
                if lack == "rights":
                    terminate_sessions_of_clerk(resilience)
                assert_refuses(instance.client, state, lack)
                assert_cause_logged_once(lambda begin=begin: instance.log[begin:], cause, lack)
            sql(resilience, "grant update on campaigns to clerk")
            assert_recovers(instance.client, "rights")
            lines = instance.log.count(UNUSABLE)
            sql(resilience, "revoke update on campaigns from clerk")
            message = "Postgres lacks the same right a second time, and no line of the log reports it"
            within = healthy.READINESS_MAX_AGE + healthy.SLACK
            eventually_or_fail(lambda: instance.log.count(UNUSABLE) == lines + 1, within=within, message=message)


def test_without_rights_on_contacts_the_service_is_ready_and_imports_jobs_and_cadences_wait(
    resilience: Resilience,
) -> None:
    campaign = create(resilience)["id"]
    with role_without_privileges(resilience) as url:
        sql(resilience, "grant all on campaigns to clerk")
        settings = {"DATABASE_URL": url, "JOB_ATTEMPTS": "1"}
        with resilience.service.pause(), another_instance(resilience, ready=False, **settings) as instance:
            message = "only tables that campaigns do not need lack rights, and /readyz does not report ready"
            eventually_or_fail(lambda: instance.client.get("/readyz").status_code == 200, within=5.0, message=message)
            job = f"/api/jobs/campaign-{campaign}-0"
            assert instance.client.post(f"/api/campaigns/{campaign}/send").status_code == 202
            replies = [
                timed(lambda: instance.client.post("/api/contacts/import", content=CONTACT, headers=CSV)),
                timed(lambda: instance.client.put(f"/api/campaigns/{campaign}/cadence", json=EVERY_HOUR)),
            ]
            assert_unavailable(replies)
            message = "jobs have no rights on contacts and deliveries, and the state of a job does not give a reason"
            state = eventually_or_fail(
                lambda: (state := instance.client.get(job).json())["error"] and state, within=5.0, message=message
            )
            assert state["status"] == "waiting", f"a job lacks rights in Postgres, and it does not wait: {state}"
            lines = re.findall(f"{LACKS_MORE} .*", instance.log)
            assert len(lines) == 1, f"the lack of rights on some tables costs these lines of the log, not one: {lines}"
            named = [name for name in ("contacts", "deliveries", "cadences") if name in lines[0]]
            assert len(named) == 3, f"rights on contacts, deliveries and cadences lack, and the log names {named}"
            sql(resilience, "grant all on contacts, deliveries, cadences to clerk")
            message = "jobs have all rights again, and one that waited does not run"
            eventually_or_fail(
                lambda: instance.client.get(job).json()["status"] == "completed", within=5.0, message=message
            )
            message = "the tables have all rights again, and no line of the log reports that"
            eventually_or_fail(lambda: instance.log.count(HAS_MORE) == 1, within=2.0, message=message)
            sql(resilience, "revoke insert on contacts from clerk")
            message = "a table lacks rights a second time, and no line of the log reports that"
            eventually_or_fail(lambda: instance.log.count(LACKS_MORE) == 2, within=2.0, message=message)
            sql(resilience, "grant insert on contacts to clerk")
            message = "the tables have all rights a second time, and no line of the log reports that"
            eventually_or_fail(lambda: instance.log.count(HAS_MORE) == 2, within=2.0, message=message)


def assert_recovers(client: httpx.Client, lack: str) -> None:
    """Assert that the service serves again without a restart once Postgres has what it lacked."""
    message = f"Postgres lacked {lack}, has it again, and the service does not become ready"
    within = healthy.POSTGRES_BACK_WITHIN
    eventually_or_fail(lambda: client.get("/readyz").status_code == 200, within=within, message=message)
    reply = client.post("/api/campaigns", json={"name": "n", "message": "m"})
    assert reply.status_code == 201, f"/readyz reports ready, and a POST gets {reply.status_code}: {reply.text}"


def assert_refuses(client: httpx.Client, state: str, lack: str) -> None:
    """Assert that /readyz reports the state, and that requests fail with a 503 and never with a 500."""
    within = healthy.READINESS_MAX_AGE + healthy.SLACK
    message = f"Postgres lacks {lack}, and /readyz does not report {state!r}"
    eventually_or_fail(
        lambda: client.get("/readyz").json()["checks"]["postgres"] == state, within=within, message=message
    )
    ready = client.get("/readyz")
    assert ready.status_code == 503, f"Postgres lacks {lack}, and /readyz reports ready: {ready.text}"
    assert ready.json()["status"] == "unavailable", f"Postgres lacks {lack}, and /readyz reports {ready.text}"
    replies = send_one_of_each(client)
    statuses = [reply.status for reply in replies]
    unexpected = [status for status in statuses if status not in (200, 201, 404, 503)]
    assert not unexpected, f"Postgres lacks {lack}: a dependency fault is 503, never {unexpected}"
    failed = [reply for reply in replies if reply.status == 503]
    assert failed, f"Postgres lacks {lack}, and no request fails: {statuses}"
    assert_unavailable(failed)


def assert_cause_logged_once(log: Callable[[], str], cause: str, lack: str) -> None:
    """Assert that the log has one line for the state, that it names the cause, and that no error escaped."""

    def lines() -> list[str]:
        return [line for line in log().splitlines() if UNUSABLE in line]

    within = healthy.READINESS_MAX_AGE + healthy.SLACK
    eventually_or_fail(lines, within=within, message=f"Postgres lacks {lack}, and no line of the log reports it")
    until = time.monotonic() + healthy.READINESS_MAX_AGE  # in which Postgres is checked at least once more
    while len(lines()) == 1 and time.monotonic() < until:
        time.sleep(0.02)
    assert len(lines()) == 1, f"Postgres lacks {lack}: one line reports it, not {len(lines())}:\n{log()}"
    assert cause in lines()[0], f"Postgres lacks {lack}: the line does not name {cause!r}: {lines()[0]}"
    assert "Traceback" not in log(), f"Postgres lacks {lack}, and an unhandled error is in the log:\n{log()}"


REFUSE = """
create function refuse() returns trigger language plpgsql as
$$ begin raise exception 'refused' using errcode = new.name; end $$
"""
REFUSE_INSERTS = "create trigger refuse before insert on campaigns for each row execute function refuse()"
# A second lasts a minute for the monitor of Postgres.
FAST_CHECKS = """
import time
from service.postgres.monitor import PostgresMonitor

PostgresMonitor.__init__.__kwdefaults__["clock"] = lambda: 60 * time.monotonic()
"""
REFUSED = re.compile(r"Postgres refuses a statement: \w+ (\w{5})")


def test_a_statement_that_postgres_refuses_is_a_503_and_logged_once_for_each_sqlstate(resilience: Resilience) -> None:
    """A trigger fails each INSERT with the SQLSTATE that the campaign has as its name, while all checks find Postgres up."""
    create(resilience)
    states = ("22012", "23514", "XX000")
    with sql_connection(resilience) as fetch_value:
        fetch_value(REFUSE)
        try:
            fetch_value(REFUSE_INSERTS)
            for state in states:
                refuse_an_insert(resilience, state)
                message = (
                    f"Postgres is up and refuses a statement with SQLSTATE {state}, and no line of the log names it"
                )
                within = healthy.READINESS_MAX_AGE + healthy.SLACK
                eventually_or_fail(
                    lambda state=state: state in REFUSED.findall(resilience.service.log), within=within, message=message
                )
                refuse_an_insert(resilience, state)
                now = fetch_value("select clock_timestamp()::text")
                checked = f"select query_start > '{now}' from pg_stat_activity where application_name like 'service-monitor:%'"
                eventually(lambda checked=checked: fetch_value(checked), within=5.0)
        finally:
            fetch_value("drop function refuse cascade")
    logged = REFUSED.findall(resilience.service.log)
    assert logged == list(states), f"each SQLSTATE has one line a minute, and the log has {logged} for two of each"
    assert resilience.service.get("/readyz").status_code == 200, (
        "Postgres is up, and one statement makes the service unready"
    )


def test_a_statement_that_postgres_goes_on_to_refuse_is_logged_once_a_minute(resilience: Resilience) -> None:
    """Minutes are seconds for the checks of Postgres in this instance, and for nothing else."""
    state = "22012"
    with another_instance(resilience, first=FAST_CHECKS) as instance, sql_connection(resilience) as fetch_value:
        fetch_value(REFUSE)

        def is_logged_twice() -> bool:
            status = instance.client.post("/api/campaigns", json={"name": state, "message": "m"}).status_code
            assert status == 503, f"Postgres refuses a statement, and the request gets {status}, not 503"
            return REFUSED.findall(instance.log).count(state) >= 2

        try:
            fetch_value(REFUSE_INSERTS)
            begin = time.monotonic()
            message = "Postgres goes on to refuse a statement, and after a minute no second line of the log names it"
            eventually_or_fail(is_logged_twice, within=5.0, message=message)
            minutes = time.monotonic() - begin
        finally:
            fetch_value("drop function refuse cascade")
    assert minutes >= 1.0, (
        f"Postgres goes on to refuse a statement, and {minutes:.2f} minutes have two lines of the log"
    )


def refuse_an_insert(resilience: Resilience, state: str) -> None:
    """Create a campaign whose INSERT fails with an SQLSTATE, and assert that it gets a 503."""
    assert_unavailable([timed(lambda: resilience.service.post("/api/campaigns", json={"name": state, "message": "m"}))])


def test_after_a_failover_to_a_read_only_server_reads_succeed_and_writes_are_503(resilience: Resilience) -> None:
    path = f"/api/campaigns/{create(resilience)['id']}"
    with resilience.postgres.read_only():

        def reported() -> bool:
            ready = resilience.service.get("/readyz")
            return ready.status_code == 503 and ready.json()["checks"]["postgres"] == "read-only"

        message = "Postgres is read-only, and /readyz does not report that"
        eventually_or_fail(reported, within=healthy.READINESS_MAX_AGE + healthy.SLACK, message=message)
        for write in (
            lambda: resilience.service.put(path, json={"message": "lost"}),
            lambda: resilience.service.delete(path),
            lambda: resilience.service.post("/api/campaigns", json={"name": "n", "message": "m"}),
        ):
            assert_unavailable(concurrently([write] * 3))
        status = resilience.service.get("/api/campaigns?limit=1").status_code
        assert status == 200, f"Postgres is read-only, and a read gets {status}, not 200"
        state = resilience.service.get(path).headers["X-Cache"]
        assert state != "stale", "Postgres can be read, and a copy is served as stale"
    message = "Postgres accepts writes again, and the service does not become ready"
    within = healthy.POSTGRES_BACK_WITHIN
    eventually_or_fail(lambda: resilience.service.get("/readyz").status_code == 200, within=within, message=message)
    assert resilience.service.put(path, json={"message": "kept"}).status_code == 200
    lines = [line for line in resilience.service.log.splitlines() if UNUSABLE in line]
    assert len(lines) == 1, f"one line for one outage, not {len(lines)}: {lines}"
    assert "read-only" in lines[0], f"the line does not name the cause: {lines[0]}"


def test_a_server_in_crash_recovery_is_a_503_and_logged_as_one_outage(resilience: Resilience) -> None:
    """After a crash Postgres recovers first and refuses every client with 57P03."""
    sql(resilience, "create table if not exists ballast as select repeat('x', 500) as x from generate_series(1, 1000)")
    try:
        # This much WAL makes the recovery last a while.
        sql(resilience, "insert into ballast select x from ballast, generate_series(1, 100)")
        with writing(resilience, writers=6) as writers:
            writers.wait_for_acknowledgements(2, within=10.0)
            resilience.postgres.crash()
            writers.wait_for_acknowledgements(1, within=healthy.POSTGRES_BACK_WITHIN)
        statuses = set(writers.refused)
        assert statuses <= {503}, f"a server in recovery is 503, never {sorted(statuses - {503})}"
        assert statuses, "Postgres terminated all sessions, and no write failed: nothing was tested"
        eventually_or_fail(
            lambda: resilience.service.get("/readyz").status_code == 200,
            within=healthy.POSTGRES_BACK_WITHIN,
            message="Postgres has recovered, and the service does not become ready",
        )
        log = resilience.service.log
        lines = re.findall("Postgres connect(?:ion failed:|ed successfully)", log)
        changes = lines[lines.index(CONNECTED) + 1 :]  # a busy machine may miss the first check at the start
        assert changes.count(FAILED) <= 2, (
            f"{changes.count(FAILED)} lines for one outage: one for each change of state, not one for each reason\n{log}"
        )
        alternating = changes == [FAILED, CONNECTED] * (len(changes) // 2)
        assert alternating, f"one line for each outage and one for each recovery, alternating, not {changes}\n{log}"
    finally:
        sql(resilience, "drop table if exists ballast")
