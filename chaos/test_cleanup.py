"""The cleanup endpoint does what it says: a zombie is really gone, the living don't suffer, and it never claims what it didn't do.

The checks of the pool sweep, too, so most tests ask an instance that makes none, while the others are stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import signal
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import asyncpg
import httpx

import healthy
from instances import NO_POOL_CHECKS, Instance, another_instance
from pytest_resilience import Resilience, Stack, eventually
from service.app import create_app
from service.settings import ServiceSettings
from workload import (
    concurrently,
    create,
    eventually_or_fail,
    postgres_session,
    service_sessions,
    session_exists,
    skip_unless_embedded,
    sql,
    timed,
    writing,
)

FREED = re.compile(r"\[GC\] Freed (-?\d+\.\d\d)MB heap, (-?\d+\.\d\d)MB external")
OLDER_BOOT = "service:00000000-0000-0000-0000-000000000000"
OPEN = (
    "begin",
    "lock table campaigns in row exclusive mode",
)  # idle in a transaction, as a process leaves it that died in one


LONGEST = 1.0  # seconds that a transaction of an instance takes at most: its DB_COMMAND_TIMEOUT


@contextmanager
def alone(resilience: Resilience, **changes: str) -> Iterator[Instance]:
    """An instance whose sessions are only cleaned up when it is asked to, and nobody else to do it."""
    settings = {
        "DB_POOL_CHECK_INTERVAL": NO_POOL_CHECKS,
        "DB_POOL_IDLE_TIMEOUT": "60",
        "DB_COMMAND_TIMEOUT": str(LONGEST),
    }
    with (
        another_instance(resilience, **settings | changes) as instance,
        resilience.service.pause(),
    ):
        assert instance.client.post("/api/campaigns", json={"name": "n", "message": "m"}).status_code == 201
        yield instance


def until_old(resilience: Resilience, *pids: int, seconds: float = LONGEST) -> None:
    """Wait until the transactions of these sessions are older than any of a living instance can be."""
    query = "select bool_and(clock_timestamp() - xact_start > make_interval(secs => $2)) from pg_stat_activity where pid = any($1)"
    eventually(lambda: sql(resilience, query, list(pids), seconds)[0][0], within=seconds + 5.0)


def boot_ids(resilience: Resilience) -> set[str]:
    """The boot ids of the instances that watch Postgres now."""
    query = "select application_name from pg_stat_activity where application_name like 'service-monitor:%'"
    return {row[0].partition(":")[2] for row in sql(resilience, query)}


def test_cleanup_terminates_zombie_sessions_of_an_earlier_boot_and_no_others(resilience: Resilience) -> None:
    with (
        alone(resilience) as instance,
        postgres_session(resilience, OLDER_BOOT, *OPEN) as zombie,
        postgres_session(resilience, OLDER_BOOT, *OPEN) as another_zombie,
        postgres_session(resilience, "somebody else", "begin") as stranger,
        postgres_session(resilience, "service-desk:42", "begin") as namesake,
        postgres_session(resilience, "", "select 1") as idler,
        postgres_session(resilience, OLDER_BOOT, "select 1") as replica,
    ):
        concurrently([lambda: instance.client.get("/api/campaigns?limit=1")] * 10)
        own = service_sessions(resilience) - {zombie, another_zombie, replica}
        until_old(resilience, zombie, another_zombie)
        reply = timed(lambda: instance.client.post("/api/db-cleanup?verbose"))
        assert reply.reply is not None, "the cleanup did not answer"
        assert reply.status == 200, reply.reply.text
        assert reply.seconds < healthy.CLEANUP_WITHIN + healthy.SLACK, f"the cleanup took {reply.seconds:.2f} s"
        gone = [not session_exists(resilience, pid) for pid in (zombie, another_zombie)]
        assert gone == [True, True], f"the cleanup says success, and zombies are still there: {reply.reply.text}"
        for who, pid in (("somebody else", stranger), ("service-desk", namesake), ("a nameless client", idler)):
            assert session_exists(resilience, pid), (
                f"the cleanup ended a session of {who}, which is none of the service's"
            )
        assert session_exists(resilience, replica), (
            "the cleanup ended an idle session of another instance, which may well be alive"
        )
        lost = own - service_sessions(resilience)
        assert not lost, f"the cleanup closed {len(lost)} of {len(own)} healthy connections of its own pool"
        counted = reply.reply.json()["server_terminated"]
        assert counted == 2, f"two zombies were ended, and the cleanup claims {counted}"


def test_cleanup_spares_young_transactions_and_those_of_live_instances(resilience: Resilience) -> None:
    """A young transaction may be of a replica whose watch is away for a moment; one of a replica whose watch is there is none of ours."""
    before = boot_ids(resilience)
    with another_instance(resilience) as sibling:
        (living,) = boot_ids(resilience) - before
        with (
            alone(resilience) as instance,
            postgres_session(resilience, f"service:{living}", *OPEN) as old,
            postgres_session(resilience, OLDER_BOOT, *OPEN) as zombie,
        ):
            until_old(resilience, old, zombie)
            with postgres_session(resilience, OLDER_BOOT, *OPEN) as young:
                assert sibling.client.get("/readyz").status_code == 200
                reply = instance.client.post("/api/db-cleanup?verbose")
                assert session_exists(resilience, young), (
                    "the cleanup ended a transaction that was younger than those of a living instance can be"
                )
            assert session_exists(resilience, old), (
                "the cleanup ended a transaction of an instance that lives: its watch is there"
            )
            assert not session_exists(resilience, zombie), (
                f"the cleanup says success, and a zombie is still there: {reply.text}"
            )


def test_cleanup_terminates_own_sessions_that_the_pool_has_lost(resilience: Resilience) -> None:
    """It holds a place on the server, and nothing will ever use it again."""
    before = boot_ids(resilience)
    with alone(resilience, DB_COMMAND_TIMEOUT="0.5") as instance:
        (own,) = boot_ids(resilience) - before
        with postgres_session(resilience, f"service:{own}", "select 1") as lost:
            query = "select clock_timestamp() - backend_start > interval '1.1 s' from pg_stat_activity where pid = $1"
            eventually(lambda: sql(resilience, query, lost)[0][0], within=5.0)
            reply = instance.client.post("/api/db-cleanup?verbose")
            assert not session_exists(resilience, lost), (
                f"a session of its own that its pool does not know is left: {reply.text}"
            )
            assert reply.json()["server_terminated"] == 1, f"the cleanup miscounts what it ended: {reply.text}"
        assert instance.client.get("/api/campaigns?limit=1").status_code == 200


def test_cleanup_does_not_count_a_session_that_survives_its_termination(
    resilience: Resilience, resilience_stack: Stack
) -> None:
    """A process that hangs in the kernel ends when it likes; here it is stopped."""
    skip_unless_embedded(resilience_stack, "the processes of Postgres are not on this machine")
    with alone(resilience) as instance, postgres_session(resilience, OLDER_BOOT, *OPEN) as stuck:
        until_old(resilience, stuck)
        os.kill(stuck, signal.SIGSTOP)
        try:
            reply = timed(lambda: instance.client.post("/api/db-cleanup?verbose"))
            assert reply.reply is not None, "the cleanup did not answer"
            assert reply.seconds < healthy.CLEANUP_WITHIN + healthy.SLACK, f"the cleanup took {reply.seconds:.2f} s"
            counted = reply.reply.json()["server_terminated"]
            assert counted == 0, f"the session is still there, and the cleanup claims to have ended {counted}"
            assert "1 sessions of Postgres did not end after pg_terminate_backend" in instance.log, (
                "a session does not end, and nothing in the log says so"
            )
        finally:
            os.kill(stuck, signal.SIGCONT)
        eventually_or_fail(
            lambda: not session_exists(resilience, stuck),
            within=5.0,
            message="told to end, and then let go on, it is still there",
        )


def test_cleanup_terminates_statements_left_by_dead_processes(resilience: Resilience) -> None:
    """Its process died, and Postgres works on for nobody; what takes longer than any statement of ours may is no replica's."""

    async def work() -> None:
        settings = {"application_name": OLDER_BOOT}
        connection = await asyncpg.connect(resilience.postgres.direct_url, server_settings=settings)
        with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError):  # ended, as it should be
            await connection.execute("select pg_sleep(5)")
        connection.terminate()

    limits = {"DB_COMMAND_TIMEOUT": "0.3", "DB_POOL_CHECK_INTERVAL": NO_POOL_CHECKS}
    with (
        another_instance(resilience, **limits) as instance,
        resilience.service.pause(),
        ThreadPoolExecutor(1) as thread,
    ):
        working = thread.submit(asyncio.run, work())
        old = "application_name = $1 and state = 'active' and clock_timestamp() - query_start > interval '0.7 s'"
        query = f"select pid from pg_stat_activity where {old}"
        eventually(lambda: sql(resilience, query, OLDER_BOOT), within=5.0)
        reply = instance.client.post("/api/db-cleanup?verbose")
        left = sql(resilience, query, OLDER_BOOT)
        assert not left, f"the cleanup says {reply.status_code}, and Postgres still works for a process that is gone"
        assert reply.json()["server_terminated"] == 1, f"the cleanup miscounts what it ended: {reply.text}"
        working.result()


def test_cleanup_closes_dead_connections_without_the_server(resilience: Resilience) -> None:
    with alone(resilience) as instance:
        concurrently([lambda: instance.client.get("/api/campaigns?limit=1")] * 10)
        with resilience.postgres.blackhole():
            reply = timed(lambda: instance.client.post("/api/db-cleanup?verbose"))
            assert reply.reply is not None, "the cleanup did not answer"
            assert reply.seconds < healthy.CLEANUP_WITHIN + healthy.SLACK, f"the cleanup took {reply.seconds:.2f} s"
            assert reply.status == 200, reply.reply.text
            assert reply.reply.json()["idle_closed"] >= 1, f"it claims success for nothing: {reply.reply.text}"


def test_cleanup_fails_no_live_request(resilience: Resilience) -> None:
    """Neither those of the instance that cleans up, nor those of another one."""

    def suffered() -> list[object]:
        with writing(resilience, writers=8) as crew:
            for each in (resilience.service, replica.client):
                crew.until(lambda writer: len(writer.acknowledged), every_one=True, grow_by=5, within=10.0)
                eventually(lambda each=each: each.post("/api/db-cleanup").status_code == 200, within=3.0)
            crew.until(lambda writer: len(writer.acknowledged), every_one=True, grow_by=5, within=10.0)
        return [code for writer in crew.writers for code in (*writer.refused, *[None] * writer.unknown)]

    with another_instance(resilience) as replica:
        failed = (
            suffered() and suffered()
        )  # a busy machine has a bad moment; a cleanup that cuts requests off does so each time
    assert not failed, f"the cleanup failed live requests or cut them off: {failed}"


def test_cleanup_is_a_503_when_it_can_do_nothing(resilience: Resilience) -> None:
    """Postgres can't be reached, and there is no connection that could be closed."""
    with resilience.postgres.refuse():
        eventually(lambda: resilience.service.get("/readyz").status_code == 503, within=2.0)
        reply = timed(lambda: resilience.service.post("/api/db-cleanup?verbose"))
        assert reply.reply is not None, "the cleanup did not answer"
        assert reply.seconds < healthy.CLEANUP_WITHIN + healthy.SLACK, f"the cleanup took {reply.seconds:.2f} s"
        assert reply.status == 503, f"Postgres is away, nothing was done, and it claims success: {reply.reply.text}"
        assert int(reply.reply.headers["Retry-After"]) >= 1


def test_concurrent_cleanup_requests_share_one_run_and_the_next_is_rate_limited(resilience: Resilience) -> None:
    least = 30  # seconds
    with (
        alone(resilience, CLEANUP_MIN_INTERVAL=str(least)) as instance,
        postgres_session(resilience, OLDER_BOOT, *OPEN) as zombie,
    ):
        until_old(resilience, zombie)
        replies = concurrently([lambda: instance.client.get("/api/db-cleanup?verbose")] * 5)
        statuses = {reply.status for reply in replies}
        assert statuses <= {200, 429}, f"a cleanup that is under way is not an error: {statuses}"
        runs = instance.log.count("[GC] Freed")
        assert runs == 1, f"{runs} cleanups ran side by side"
        done = next(r.reply.json() for r in replies if r.reply is not None and r.status == 200)
        assert done["status"] == "success"
        assert done["message"] == "Database pool cleanup triggered"
        freed = FREED.search(instance.log)
        assert freed is not None
        off = abs(done["gc_freed_mb"] - float(freed[1]) - float(freed[2]))
        assert off < 0.02, f"it claims to have freed {done['gc_freed_mb']} MB, and its log says {freed[0]}"
        second = instance.client.get("/api/db-cleanup")
        assert second.status_code == 429, f"a cleanup right after the last one is refused, not {second.status_code}"
        wait = int(second.headers["Retry-After"])
        assert least - 10 < wait <= least, f"CLEANUP_MIN_INTERVAL is {least}, and it says to come again after {wait} s"


def test_without_a_configured_token_remote_callers_cannot_clean_up(resilience: Resilience) -> None:
    environment = healthy.settings(resilience.postgres.url, resilience.redis.url)
    del environment["CLEANUP_TOKEN"]

    async def ask() -> dict[str, int]:
        app = create_app(ServiceSettings.from_environment(environment))
        stranger = httpx.ASGITransport(app=app, client=("203.0.113.7", 4711))
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=stranger, base_url="http://x") as client,
        ):
            tokens = "anything", "None", ""
            sent = {token: {"Authorization": f"Bearer {token}"} for token in tokens}
            return {
                token: (await client.post("/api/db-cleanup", headers=header)).status_code
                for token, header in sent.items()
            }

    try:
        statuses = asyncio.run(ask())
    finally:
        gc.unfreeze()  # the service froze what was there when it started
    let_in = {token: status for token, status in statuses.items() if status not in (401, 403)}
    assert not let_in, f"CLEANUP_TOKEN is not set, and a caller from elsewhere may clean up with {let_in}"


def test_cleanup_runs_every_cleanup_interval_without_a_request(resilience: Resilience) -> None:
    interval = 0.5
    with alone(resilience, CLEANUP_INTERVAL=str(interval)), postgres_session(resilience, OLDER_BOOT, *OPEN) as zombie:
        message = f"CLEANUP_INTERVAL={interval} has passed, and a zombie is still there: nobody cleans up unasked"
        within = LONGEST + interval + healthy.CLEANUP_WITHIN + healthy.SLACK
        eventually_or_fail(lambda: not session_exists(resilience, zombie), within=within, message=message)


def test_each_process_gives_its_sessions_a_unique_name(resilience: Resilience) -> None:
    """By which a cleanup tells those of the living from those of the dead."""
    query = "select distinct application_name from pg_stat_activity where application_name like 'service:%'"
    with another_instance(resilience) as instance:
        assert instance.client.post("/api/campaigns", json={"name": "n", "message": "m"}).status_code == 201
        create(resilience)
        names = [row[0] for row in sql(resilience, query)]
    assert len(names) >= 2, f"two processes call their sessions {names}: a cleanup takes one's for the other's"


def test_every_pool_check_sweeps_zombies(resilience: Resilience) -> None:
    """Every six hours would not have helped that night."""
    create(resilience)
    with (
        another_instance(resilience, DB_COMMAND_TIMEOUT=str(LONGEST)),
        postgres_session(resilience, OLDER_BOOT, *OPEN) as zombie,
        postgres_session(resilience, "somebody else", "begin") as stranger,
    ):
        within = LONGEST + 2 * healthy.POOL_CHECK_INTERVAL + healthy.SLACK
        message = "a zombie outlives the checks of the pool"
        eventually_or_fail(lambda: not session_exists(resilience, zombie), within=within, message=message)
        assert session_exists(resilience, stranger), "the sweep ended a session that is none of the service's"


class Garbage:
    """Refers to itself, so only a collection frees it."""

    def __init__(self) -> None:
        self.me = self


def test_unauthorized_cleanup_has_no_effect_and_an_authorized_one_collects_garbage(resilience: Resilience) -> None:
    """Loopback may clean up, and every client of this suite is on loopback; so the app runs in here and is told who asks."""
    environment = healthy.settings(resilience.postgres.url, resilience.redis.url) | {
        "DB_POOL_CHECK_INTERVAL": NO_POOL_CHECKS,
        "DB_COMMAND_TIMEOUT": str(LONGEST),
    }
    path = "/api/db-cleanup?verbose"
    wrong: list[dict[str, str]] = [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {healthy.CLEANUP_TOKEN}"},
        {"Authorization": "Bearer"},
        {"X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1", "X-Real-IP": "127.0.0.1"},
        {"Host": "localhost"},
    ]

    async def ask(zombie: int) -> tuple[dict[str, int], bool, httpx.Response, bool, bool]:
        app = create_app(ServiceSettings.from_environment(environment))
        stranger = httpx.ASGITransport(app=app, client=("203.0.113.7", 4711))
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=stranger, base_url="http://x") as client,
        ):

            async def ready() -> bool:
                return (await client.get("/readyz")).status_code == 200

            await eventually(ready, within=5.0)
            refused = {
                f"{method} {headers}": (await client.request(method, path, headers=headers)).status_code
                for headers in wrong
                for method in ("GET", "POST")
            }
            unharmed = await asyncio.to_thread(session_exists, resilience, zombie)
            garbage = weakref.ref(Garbage())
            right = {"Authorization": f"Bearer {healthy.CLEANUP_TOKEN}"}
            allowed = await client.post(path, headers=right)
            return (
                refused,
                unharmed,
                allowed,
                await asyncio.to_thread(session_exists, resilience, zombie),
                garbage() is None,
            )

    with resilience.service.pause(), postgres_session(resilience, OLDER_BOOT, *OPEN) as zombie:
        until_old(resilience, zombie)
        gc.disable()
        try:
            refused, unharmed, allowed, still_there, collected = asyncio.run(ask(zombie))
        finally:
            gc.enable()
            gc.unfreeze()  # the service froze what was there when it started
    let_in = {who: status for who, status in refused.items() if status not in (401, 403)}
    assert not let_in, f"a caller from elsewhere without the token may clean up: {let_in}"
    believed = {who: status for who, status in refused.items() if "Authorization" not in who and status != 401}
    assert not believed, f"a header decides who asks; a caller from elsewhere without credentials is 401: {believed}"
    assert unharmed, "a caller from elsewhere was refused, and the cleanup ran nevertheless"
    assert allowed.status_code == 200, f"whoever has the token may clean up: {allowed.text}"
    assert not still_there, f"the cleanup says success, and the zombie is still there: {allowed.text}"
    assert collected, f"the cleanup says success, and has collected no garbage: {allowed.text}"
