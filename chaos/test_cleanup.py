"""Cleanup removes dead sessions and only those, never disturbs live requests, and reports exactly what it did.

Pool checks sweep sessions too, so most tests use an instance without checks while all other instances are suspended.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import signal
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

import asyncpg
import httpx
import pytest

import healthy
from instances import NO_POOL_CHECKS, Instance, another_instance
from pytest_resilience import Resilience, Stack, eventually
from workload import (
    concurrently,
    create,
    eventually_or_fail,
    postgres_session,
    service_sessions,
    session_exists,
    skip_unless_embedded,
    sql,
    sql_connection,
    timed,
    wait_until_session_ends,
    wait_until_unready,
    writing,
)

FREED = re.compile(r"\[GC\] Freed (-?\d+\.\d\d)MB heap, (-?\d+\.\d\d)MB external")
OLDER_BOOT = "service:00000000-0000-0000-0000-000000000000"
# Leaves a session idle in a transaction, like a process that died inside one.
OPEN_TRANSACTION = ("begin", "lock table campaigns in row exclusive mode")
REMOTE, LOCAL = "203.0.113.7", "127.0.0.1"  # addresses of callers
LONGEST = 1.0  # seconds of the longest transaction of an instance: its DB_COMMAND_TIMEOUT


@contextmanager
def only_instance(resilience: Resilience, **changes: str) -> Iterator[Instance]:
    """Run an instance that cleans up only on request, while the suite's own service is suspended."""
    settings = {
        "DB_POOL_CHECK_INTERVAL": NO_POOL_CHECKS,
        "DB_POOL_IDLE_TIMEOUT": "60",
        "DB_COMMAND_TIMEOUT": str(LONGEST),
    }
    with another_instance(resilience, **settings | changes) as instance, resilience.service.pause():
        assert instance.client.post("/api/campaigns", json={"name": "n", "message": "m"}).status_code == 201
        yield instance


def wait_until_transactions_are_old(resilience: Resilience, *pids: int, seconds: float = LONGEST) -> None:
    """Wait until the transactions of these sessions are older than any of a live instance can be."""
    query = "select bool_and(clock_timestamp() - xact_start > make_interval(secs => $2)) from pg_stat_activity where pid = any($1)"
    with sql_connection(resilience) as fetch_value:
        eventually(lambda: fetch_value(query, list(pids), seconds), within=seconds + 5.0)


def boot_ids(resilience: Resilience) -> set[str]:
    """Return the boot ids of the live instances, which each have a monitoring session."""
    query = "select application_name from pg_stat_activity where application_name like 'service-monitor:%'"
    return {row[0].partition(":")[2] for row in sql(resilience, query)}


def clean_up(instance: Instance) -> httpx.Response:
    """Request a cleanup, assert that it replies in time, and return the reply."""
    outcome = timed(lambda: instance.client.post("/api/db-cleanup?verbose"))
    assert outcome.reply is not None, f"the cleanup did not reply: {outcome.error!r}"
    assert outcome.seconds < healthy.CLEANUP_WITHIN + healthy.SLACK, f"the cleanup took {outcome.seconds:.2f} s"
    return outcome.reply


def test_cleanup_terminates_zombie_sessions_of_an_earlier_boot_and_no_others(resilience: Resilience) -> None:
    with (
        only_instance(resilience) as instance,
        postgres_session(resilience, OLDER_BOOT, *OPEN_TRANSACTION) as zombie,
        postgres_session(resilience, OLDER_BOOT, *OPEN_TRANSACTION) as another_zombie,
        postgres_session(resilience, "another application", "begin") as foreign,
        postgres_session(resilience, "service-desk:42", "begin") as similar,
        postgres_session(resilience, "", "begin") as nameless,
        postgres_session(resilience, OLDER_BOOT, "select 1") as idle_replica,
    ):
        concurrently([lambda: instance.client.get("/api/campaigns?limit=1")] * 10)
        own = service_sessions(resilience) - {zombie, another_zombie, idle_replica}
        # Those that must be left alone too: a cleanup that ends all old transactions of a name would spare a younger one.
        wait_until_transactions_are_old(resilience, zombie, another_zombie, foreign, similar, nameless)
        reply = clean_up(instance)
        assert reply.status_code == 200, reply.text
        left = [pid for pid in (zombie, another_zombie) if session_exists(resilience, pid)]
        assert not left, f"the cleanup reports success, and {len(left)} of 2 zombies are still there: {reply.text}"
        for name, pid in (("another application", foreign), ("service-desk", similar), ("a nameless client", nameless)):
            assert session_exists(resilience, pid), (
                f"the cleanup terminated a session of {name}, which is not the service's"
            )
        assert session_exists(resilience, idle_replica), (
            "the cleanup terminated an idle session of another instance, which may well be alive"
        )
        lost = own - service_sessions(resilience)
        assert not lost, f"the cleanup closed {len(lost)} of {len(own)} healthy connections of its own pool"
        count = reply.json()["server_terminated"]
        assert count == 2, f"2 zombies were terminated, and the cleanup reports {count}"


def test_cleanup_spares_young_transactions_and_those_of_live_instances(resilience: Resilience) -> None:
    """A young transaction may belong to a replica that is just reconnecting its monitor. An old one with a monitor is not dead."""
    before = boot_ids(resilience)
    with another_instance(resilience) as replica:
        (live_boot,) = boot_ids(resilience) - before
        with (
            only_instance(resilience) as instance,
            postgres_session(resilience, f"service:{live_boot}", *OPEN_TRANSACTION) as live,
            postgres_session(resilience, OLDER_BOOT, *OPEN_TRANSACTION) as zombie,
        ):
            wait_until_transactions_are_old(resilience, live, zombie)
            with postgres_session(resilience, OLDER_BOOT, *OPEN_TRANSACTION) as young:
                assert replica.client.get("/readyz").status_code == 200
                reply = instance.client.post("/api/db-cleanup?verbose")
                assert session_exists(resilience, young), (
                    "the cleanup terminated a transaction younger than those of a live instance can be"
                )
            assert session_exists(resilience, live), (
                "the cleanup terminated a transaction of a live instance, whose monitor is connected"
            )
            assert not session_exists(resilience, zombie), (
                f"the cleanup reports success, and a zombie is still there: {reply.text}"
            )


def test_cleanup_terminates_own_sessions_that_the_pool_has_lost(resilience: Resilience) -> None:
    """Such a session takes a connection of the server that nothing will ever use again."""
    before = boot_ids(resilience)
    with only_instance(resilience, DB_COMMAND_TIMEOUT="0.5") as instance:
        (own_boot,) = boot_ids(resilience) - before
        with (
            postgres_session(resilience, f"service:{own_boot}", "select 1") as lost,
            sql_connection(resilience) as fetch_value,
        ):
            query = "select clock_timestamp() - backend_start > interval '1.1 s' from pg_stat_activity where pid = $1"
            eventually(lambda: fetch_value(query, lost), within=5.0)
            reply = instance.client.post("/api/db-cleanup?verbose")
            assert not session_exists(resilience, lost), (
                f"a session under the instance's name that its pool does not know is left: {reply.text}"
            )
            assert reply.json()["server_terminated"] == 1, (
                f"the cleanup miscounts the sessions it terminated: {reply.text}"
            )
        assert instance.client.get("/api/campaigns?limit=1").status_code == 200


def test_cleanup_does_not_count_a_session_that_survives_its_termination(
    resilience: Resilience, resilience_stack: Stack
) -> None:
    """A server process that hangs in the kernel ends late or never. Here it is suspended."""
    skip_unless_embedded(resilience_stack, "the processes of Postgres are not on this machine")
    with (
        only_instance(resilience) as instance,
        postgres_session(resilience, OLDER_BOOT, *OPEN_TRANSACTION) as stuck,
    ):
        wait_until_transactions_are_old(resilience, stuck)
        os.kill(stuck, signal.SIGSTOP)
        try:
            count = clean_up(instance).json()["server_terminated"]
            assert count == 0, f"the session is still there, and the cleanup reports {count} terminated"
            assert "1 sessions of Postgres did not end after pg_terminate_backend" in instance.log, (
                "a session survives its termination, and the log does not report it"
            )
        finally:
            os.kill(stuck, signal.SIGCONT)
        message = "a terminated session was suspended, has resumed, and is still there"
        wait_until_session_ends(resilience, stuck, within=5.0, message=message)


def test_cleanup_terminates_statements_left_by_dead_processes(resilience: Resilience) -> None:
    """A statement that runs longer than any of a live instance can has lost its client, and Postgres works for nothing."""

    async def sleep_in_postgres() -> None:
        settings = {"application_name": OLDER_BOOT}
        connection = await asyncpg.connect(resilience.postgres.direct_url, server_settings=settings)
        with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError):  # the expected termination
            await connection.execute("select pg_sleep(5)")
        connection.terminate()

    settings = {"DB_COMMAND_TIMEOUT": "0.3", "DB_POOL_CHECK_INTERVAL": NO_POOL_CHECKS}
    with (
        another_instance(resilience, **settings) as instance,
        resilience.service.pause(),
        ThreadPoolExecutor(1) as thread,
    ):
        statement = thread.submit(asyncio.run, sleep_in_postgres())
        old = "application_name = $1 and state = 'active' and clock_timestamp() - query_start > interval '0.7 s'"
        query = f"select pid from pg_stat_activity where {old}"
        with sql_connection(resilience) as fetch_value:
            eventually(lambda: fetch_value(query, OLDER_BOOT), within=5.0)
        reply = instance.client.post("/api/db-cleanup?verbose")
        left = sql(resilience, query, OLDER_BOOT)
        assert not left, f"the cleanup replied {reply.status_code}, and Postgres still works for a dead process"
        assert reply.json()["server_terminated"] == 1, f"the cleanup miscounts the sessions it terminated: {reply.text}"
        statement.result()


def test_cleanup_terminates_sessions_of_other_boots_only_beyond_each_limit(resilience: Resilience) -> None:
    """An instance is dead when its monitor has sent no query for 10 s, although the monitor is still connected."""
    dead, alive, quiet = (f"00000000-0000-0000-0000-{number:012}" for number in range(3))
    settings = {"DB_COMMAND_TIMEOUT": "3", "DB_POOL_IDLE_TIMEOUT": "4"}
    idle = "select clock_timestamp() - state_change > make_interval(secs => $2) from pg_stat_activity where pid = $1"
    with (
        only_instance(resilience, **settings) as instance,
        sql_connection(resilience) as fetch_value,
        ExitStack() as sessions,
    ):

        def session(name: str, *statements: str) -> int:
            return sessions.enter_context(postgres_session(resilience, name, *statements))

        monitor = session(f"service-monitor:{dead}", "select 1")
        ended = {
            "a transaction of an instance whose monitor is silent for more than 10 s": session(
                f"service:{dead}", *OPEN_TRANSACTION
            ),
            "a session that is idle for more than twice DB_POOL_IDLE_TIMEOUT": session(f"service:{quiet}", "select 1"),
        }
        eventually(lambda: fetch_value(idle, monitor, 2.0), within=10.0)
        silent_since = time.monotonic()
        session(f"service-monitor:{alive}", "select 1")
        eventually(lambda: fetch_value(idle, monitor, 5.5), within=10.0)
        young = time.monotonic()
        spared = {
            "a transaction of an instance whose monitor is silent for less than 10 s": session(
                f"service:{alive}", *OPEN_TRANSACTION
            ),
            "a session that is idle for less than twice DB_POOL_IDLE_TIMEOUT": session(f"service:{quiet}", "select 1"),
        }
        with statement_of(resilience, f"service:{quiet}") as statement:
            spared["a statement that runs for less than twice DB_COMMAND_TIMEOUT"] = statement
            eventually(lambda: fetch_value(idle, monitor, 10.1) and time.monotonic() - young > 4.5, within=10.0)
            reply = clean_up(instance)
            took, silent = time.monotonic() - young, time.monotonic() - silent_since
            left = [kind for kind, pid in ended.items() if session_exists(resilience, pid)]
            lost = [kind for kind, pid in spared.items() if not session_exists(resilience, pid)]
        assert not left, f"the cleanup reports {reply.text}, and has not terminated {'; '.join(left)}"
        if took > 5.9 or silent > 9.9:
            pytest.skip(f"this machine is too busy for sessions of an exact age: {took:.1f} and {silent:.1f} s")
        assert not lost, f"the cleanup has terminated {'; '.join(lost)}"


@contextmanager
def statement_of(resilience: Resilience, application_name: str) -> Iterator[int]:
    """Run a statement in a session with a name for the duration of the block. Yield its process id in the server."""

    async def sleep_in_postgres() -> None:
        settings = {"application_name": application_name}
        connection = await asyncpg.connect(resilience.postgres.direct_url, server_settings=settings)
        with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError):  # the termination below
            await connection.execute("select pg_sleep(60)")
        connection.terminate()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, sleep_in_postgres())
        query = "select pid from pg_stat_activity where application_name = $1 and wait_event = 'PgSleep'"
        (row,) = eventually(lambda: sql(resilience, query, application_name), within=5.0)
        try:
            yield row["pid"]
        finally:
            sql(resilience, "select pg_terminate_backend($1)", row["pid"])


def test_cleanup_closes_dead_connections_without_the_server(resilience: Resilience) -> None:
    with only_instance(resilience) as instance:
        concurrently([lambda: instance.client.get("/api/campaigns?limit=1")] * 10)
        with resilience.postgres.blackhole():
            reply = clean_up(instance)
            assert reply.status_code == 200, reply.text
            assert reply.json()["idle_closed"] >= 1, f"the cleanup reports success and closed nothing: {reply.text}"


def test_cleanup_fails_no_live_request(resilience: Resilience) -> None:
    """Neither requests of the instance that cleans up nor those of another instance fail."""

    def failed_writes() -> list[object]:
        with writing(resilience, writers=8) as writers:
            for each in (resilience.service, replica.client):
                writers.wait_for_acknowledgements(5, within=10.0)
                eventually(lambda each=each: each.post("/api/db-cleanup").status_code == 200, within=3.0)
            writers.wait_for_acknowledgements(5, within=10.0)
        return [status for writer in writers for status in (*writer.refused, *[None] * writer.unknown)]

    with another_instance(resilience) as replica:
        # Twice, because a busy machine may fail a request once. A cleanup that cuts off requests does so each time.
        failed = failed_writes() and failed_writes()
    assert not failed, f"the cleanup failed live requests or cut them off: {failed}"


def test_cleanup_is_a_503_when_it_can_do_nothing(resilience: Resilience) -> None:
    """Postgres refuses connections, and there is no connection that could be closed."""
    with resilience.postgres.refuse():
        wait_until_unready(resilience.service)
        outcome = timed(lambda: resilience.service.post("/api/db-cleanup?verbose"))
        assert outcome.reply is not None, f"the cleanup did not reply: {outcome.error!r}"
        assert outcome.seconds < healthy.CLEANUP_WITHIN + healthy.SLACK, f"the cleanup took {outcome.seconds:.2f} s"
        assert outcome.status == 503, f"Postgres is down, and the cleanup claims success: {outcome.reply.text}"
        assert int(outcome.reply.headers["Retry-After"]) >= 1


def test_concurrent_cleanup_requests_share_one_run_and_the_next_is_rate_limited(resilience: Resilience) -> None:
    interval = 30  # seconds
    with (
        only_instance(resilience, CLEANUP_MIN_INTERVAL=str(interval)) as instance,
        postgres_session(resilience, OLDER_BOOT, *OPEN_TRANSACTION) as zombie,
    ):
        wait_until_transactions_are_old(resilience, zombie)
        replies = concurrently([lambda: instance.client.get("/api/db-cleanup?verbose")] * 5)
        statuses = {reply.status for reply in replies}
        assert statuses <= {200, 429}, f"requests during a cleanup get {statuses}, not 200 or 429"
        runs = instance.log.count("[GC] Freed")
        assert runs == 1, f"5 concurrent requests caused {runs} cleanups side by side, not 1"
        body = next(r.reply.json() for r in replies if r.reply is not None and r.status == 200)
        assert body["status"] == "success"
        assert body["message"] == "Database pool cleanup triggered"
        freed = FREED.search(instance.log)
        assert freed is not None
        difference = abs(body["gc_freed_mb"] - float(freed[1]) - float(freed[2]))
        assert difference < 0.02, f"the reply reports {body['gc_freed_mb']} MB freed, and the log has {freed[0]}"
        second = instance.client.get("/api/db-cleanup")
        assert second.status_code == 429, f"a cleanup right after another one gets {second.status_code}, not 429"
        wait = int(second.headers["Retry-After"])
        assert interval - 10 < wait <= interval, f"CLEANUP_MIN_INTERVAL is {interval}, and Retry-After is {wait} s"


@asynccontextmanager
async def client_at(address: str, environment: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    """Run the application in this process with a client at an address. All clients of a real process are on loopback."""
    from service.app import create_app  # here, because the worker of no other test needs the application
    from service.settings import ServiceSettings

    app = create_app(ServiceSettings.from_environment(environment))
    transport = httpx.ASGITransport(app=app, client=(address, 4711))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://x") as client,
    ):
        yield client


def test_without_a_configured_token_remote_callers_cannot_clean_up(resilience: Resilience) -> None:
    environment = healthy.settings(resilience.postgres.url, resilience.redis.url)
    del environment["CLEANUP_TOKEN"]

    async def statuses_by_token() -> dict[str, int]:
        async with client_at(REMOTE, environment) as client:
            headers = {token: {"Authorization": f"Bearer {token}"} for token in ("anything", "None", "")}
            return {
                token: (await client.post("/api/db-cleanup", headers=header)).status_code
                for token, header in headers.items()
            }

    try:
        statuses = asyncio.run(statuses_by_token())
    finally:
        gc.unfreeze()  # the application froze all objects when it started
    accepted = {token: status for token, status in statuses.items() if status not in (401, 403)}
    assert not accepted, f"CLEANUP_TOKEN is not set, and a remote caller may clean up with {accepted}"


def test_the_name_in_host_is_a_host_of_this_machine(resilience: Resilience) -> None:
    """HOST may be a name that resolves to loopback, and another such name may be that of a foreign site."""
    environment = healthy.settings(resilience.postgres.url, resilience.redis.url)
    environment |= {"HOST": "Campaigns.Example", "CLEANUP_MIN_INTERVAL": "0"}
    hosts = ("campaigns.example", "CAMPAIGNS.EXAMPLE:8080", "campaigns.example.", "x.campaigns.example", "example")

    async def replies_by_host() -> dict[str, httpx.Response]:
        async with client_at(LOCAL, environment) as client:
            return {host: await client.post("/api/db-cleanup", headers={"Host": host}) for host in hosts}

    try:
        replies = asyncio.run(replies_by_host())
    finally:
        gc.unfreeze()  # the application froze all objects when it started
    statuses = {host: reply.status_code for host, reply in replies.items()}
    refused = [host for host, status in statuses.items() if status == 403]
    assert refused == list(hosts[3:]), f"HOST is {environment['HOST']}, and a caller on loopback gets {statuses}"
    body = replies[hosts[0]].json()
    assert set(body) == {"status", "message", "timestamp"}, (
        f"without ?verbose a cleanup has no counts, and reports {body}"
    )


def test_cleanup_runs_every_cleanup_interval_without_a_request(resilience: Resilience) -> None:
    interval = 0.5
    with (
        only_instance(resilience, CLEANUP_INTERVAL=str(interval)),
        postgres_session(resilience, OLDER_BOOT, *OPEN_TRANSACTION) as zombie,
    ):
        message = f"CLEANUP_INTERVAL={interval} has passed, and a zombie is still there: no periodic cleanup runs"
        within = LONGEST + interval + healthy.CLEANUP_WITHIN + healthy.SLACK
        wait_until_session_ends(resilience, zombie, within=within, message=message)


def test_each_process_gives_its_sessions_a_unique_name(resilience: Resilience) -> None:
    """The cleanup recognizes the sessions of dead processes by that name."""
    query = "select distinct application_name from pg_stat_activity where application_name like 'service:%'"
    with another_instance(resilience, preloaded=False) as instance:
        assert instance.client.post("/api/campaigns", json={"name": "n", "message": "m"}).status_code == 201
        create(resilience)
        names = [row[0] for row in sql(resilience, query)]
    assert len(names) >= 2, f"two processes name their sessions {names}: a cleanup cannot tell them apart"


def test_every_pool_check_sweeps_zombies(resilience: Resilience) -> None:
    """The periodic cleanup every six hours would have been too late in the incident."""
    create(resilience)
    with (
        another_instance(resilience, DB_COMMAND_TIMEOUT=str(LONGEST)) as instance,
        postgres_session(resilience, "another application", "begin") as foreign,  # first, so that it is older
        postgres_session(resilience, OLDER_BOOT, *OPEN_TRANSACTION) as zombie,
    ):
        within = LONGEST + 2 * healthy.POOL_CHECK_INTERVAL + healthy.SLACK
        message = "a zombie outlives the checks of the pool"
        wait_until_session_ends(resilience, zombie, within=within, message=message)
        assert session_exists(resilience, foreign), "the sweep terminated a session that is not the service's"
        line = "Closed 0 leaked connections, terminated 1 orphaned server sessions"
        message = "a check of the pool has terminated a session, and no line of the log reports it"
        eventually_or_fail(lambda: line in instance.log, within=healthy.SLACK, message=message)


class Garbage:
    """An object that refers to itself, so that only a garbage collection frees it."""

    def __init__(self) -> None:
        self.me = self


@dataclass
class RemoteCleanup:
    """The outcome of cleanup requests from a remote address.

    Attributes:
        refused: status by request, for requests without the token.
        zombie_survived_refusals: a zombie was still there after them.
        allowed: the reply to a request with the token.
        zombie_survived: the zombie was still there after that one.
        garbage_collected: unreachable objects were freed by that one.
    """

    refused: dict[str, int]
    zombie_survived_refusals: bool
    allowed: httpx.Response
    zombie_survived: bool
    garbage_collected: bool


async def clean_up_remotely(resilience: Resilience, environment: dict[str, str], zombie: int) -> RemoteCleanup:
    """Request cleanups from a remote address, first without the token and then with it."""
    path = "/api/db-cleanup?verbose"
    wrong: list[dict[str, str]] = [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {healthy.CLEANUP_TOKEN}"},
        {"Authorization": "Bearer"},
        {"X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1", "X-Real-IP": "127.0.0.1"},
        {"Host": "localhost"},
    ]
    async with client_at(REMOTE, environment) as client:

        async def ready() -> bool:
            return (await client.get("/readyz")).status_code == 200

        await eventually(ready, within=5.0)
        refused = {
            f"{method} {headers}": (await client.request(method, path, headers=headers)).status_code
            for headers in wrong
            for method in ("GET", "POST")
        }
        survived_refusals = await asyncio.to_thread(session_exists, resilience, zombie)
        garbage = weakref.ref(Garbage())
        allowed = await client.post(path, headers={"Authorization": f"Bearer {healthy.CLEANUP_TOKEN}"})
        survived = await asyncio.to_thread(session_exists, resilience, zombie)
        return RemoteCleanup(refused, survived_refusals, allowed, survived, garbage() is None)


def test_unauthorized_cleanup_has_no_effect_and_an_authorized_one_collects_garbage(resilience: Resilience) -> None:
    environment = healthy.settings(resilience.postgres.url, resilience.redis.url) | {
        "DB_POOL_CHECK_INTERVAL": NO_POOL_CHECKS,
        "DB_COMMAND_TIMEOUT": str(LONGEST),
    }
    with resilience.service.pause(), postgres_session(resilience, OLDER_BOOT, *OPEN_TRANSACTION) as zombie:
        wait_until_transactions_are_old(resilience, zombie)
        gc.disable()
        try:
            outcome = asyncio.run(clean_up_remotely(resilience, environment, zombie))
        finally:
            gc.enable()
            gc.unfreeze()  # the application froze all objects when it started
    accepted = {request: status for request, status in outcome.refused.items() if status not in (401, 403)}
    assert not accepted, f"a remote caller without the token may clean up: {accepted}"
    wrong = {request: s for request, s in outcome.refused.items() if "Authorization" not in request and s != 401}
    assert not wrong, f"a header decides who the caller is; a remote caller without credentials gets 401, not {wrong}"
    assert outcome.zombie_survived_refusals, "a remote caller was refused, and the cleanup ran nevertheless"
    text = outcome.allowed.text
    assert outcome.allowed.status_code == 200, f"a remote caller with the token may clean up: {text}"
    assert not outcome.zombie_survived, f"the cleanup reports success, and the zombie is still there: {text}"
    assert outcome.garbage_collected, f"the cleanup reports success, and has collected no garbage: {text}"
