"""Every promise holds for each verb, that is for POST, PUT, DELETE, GET of one campaign and GET of a list."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import httpx

import healthy
from instances import NO_POOL_CHECKS, Instance, another_instance
from pytest_resilience import Resilience, Stack, eventually
from verbs import READS, VERBS, WRITES, assert_all_succeed, assert_all_unavailable, send_every_verb, uncached_campaigns
from workload import (
    ATTEMPTS,
    concurrently,
    create,
    eventually_or_fail,
    skip_unless_embedded,
    sql,
    sql_connection,
    timed,
    use_whole_pool,
    wait_until_ready,
    wait_until_redis_is,
    wait_until_redis_serves,
)

POOL = 5  # connections: one for each verb
ACQUIRE, COMMAND = 1.0, 2.0  # seconds
QUICK = {
    "DB_POOL_MAX": str(POOL),
    "DB_POOL_ACQUIRE_TIMEOUT": str(ACQUIRE),
    "DB_COMMAND_TIMEOUT": str(COMMAND),
    "DB_POOL_CHECK_INTERVAL": NO_POOL_CHECKS,  # so that no sweep returns a connection that a request has lost
}
IN_TIME = 2 * (ACQUIRE + COMMAND) + 2 * healthy.SLACK  # seconds: a read may be tried twice
SHORT_TIMEOUTS = {"DB_COMMAND_TIMEOUT": "0.5", "DB_POOL_ACQUIRE_TIMEOUT": "0.5"}

Fault = Callable[[Resilience], AbstractContextManager[object]]
# One test strikes them one after the other, because the effects of one outage may only show in the next.
POSTGRES: dict[str, Fault] = {
    "Postgres hangs": lambda r: r.postgres.blackhole(),
    "Postgres' replies are lost": lambda r: r.postgres.blackhole(direction="down"),
    "Postgres refuses": lambda r: r.postgres.refuse(),
    "Postgres resets": lambda r: r.postgres.reset(),
}
REDIS: dict[str, Fault] = {
    "Redis hangs": lambda r: r.redis.blackhole(),
    "Redis refuses": lambda r: r.redis.refuse(),
    "Redis is read-only": lambda r: r.redis.readonly(),
    "Redis is full": lambda r: r.redis.oom(),
}


def assert_whole_pool_is_free(resilience: Resilience, instance: Instance, *, after: str) -> None:
    """Assert that a request on each connection of the pool can wait in Postgres at the same time."""
    wait_until_ready(instance.client)
    ids = iter(uncached_campaigns(resilience, ATTEMPTS * POOL))
    in_use, replies = use_whole_pool(
        lambda: resilience.postgres.hold_locks("campaigns"),
        lambda: send_every_verb(instance.client, list(itertools.islice(ids, POOL))),
        size=POOL,
        within=ACQUIRE,
    )
    assert in_use == POOL, (
        f"after {after!r}: connections of the pool are lost, so {POOL} requests can no longer run at once, but {in_use}"
    )
    assert_all_succeed(replies, during=f"after {after!r}", within=IN_TIME)


def test_without_postgres_every_verb_gets_a_timely_503_and_returns_its_connection(resilience: Resilience) -> None:
    with another_instance(resilience, **QUICK) as instance:
        create(resilience)
        for kind, fault in POSTGRES.items():
            ids = uncached_campaigns(resilience, 3 * len(VERBS))
            before, during = ids[: len(VERBS)], ids[len(VERBS) :]
            assert_all_succeed(send_every_verb(instance.client, before), during="nothing is wrong", within=IN_TIME)
            with fault(resilience):
                replies = send_every_verb(instance.client, during, names=[*VERBS, *VERBS])
            assert_all_unavailable(replies, during=kind, within=IN_TIME)
            assert_whole_pool_is_free(resilience, instance, after=kind)


def test_an_exhausted_pool_gives_every_verb_a_timely_503(resilience: Resilience) -> None:
    """Requests with a connection wait for a lock, later ones wait for a connection. Both wait for a bounded time."""
    acquire, command = 0.8, 4.0  # seconds: connections are held for longer than other requests may wait for them
    limits = {"DB_POOL_ACQUIRE_TIMEOUT": str(acquire), "DB_COMMAND_TIMEOUT": str(command)}
    with another_instance(resilience, **QUICK | limits) as instance:
        create(resilience)
        first, second = uncached_campaigns(resilience, len(VERBS)), uncached_campaigns(resilience, len(VERBS))
        with resilience.postgres.hold_locks("campaigns") as locked, ThreadPoolExecutor(1) as thread:
            with_connection = thread.submit(send_every_verb, instance.client, first)
            eventually(lambda: locked.receipt.touched == POOL, within=command / 2)
            without_connection = send_every_verb(instance.client, second)
            cleanup = timed(lambda: instance.client.post("/api/db-cleanup"))
            locked_replies = with_connection.result()
        within = acquire + 2 * healthy.SLACK
        assert_all_unavailable(without_connection, during="all connections are in use", within=within)
        during = "a lock is held for longer than a statement may take"
        assert_all_unavailable(locked_replies, during=during, within=2 * command)
        assert cleanup.status == 200, f"all connections are in use, and a cleanup gets {cleanup}, not 200"


def test_without_redis_every_verb_succeeds_within_the_redis_budget(resilience: Resilience) -> None:
    """The first requests are sent before the service has noticed that Redis is down."""
    path = f"/api/campaigns/{create(resilience)['id']}"
    within = healthy.REDIS_BUDGET + healthy.SLACK
    for kind, fault in REDIS.items():
        wait_until_redis_serves(resilience, path)
        ids = dict(zip(VERBS, uncached_campaigns(resilience, len(VERBS)), strict=True))
        with fault(resilience):
            assert_all_succeed(send_every_verb(resilience.service, ids.values()), during=kind, within=within)
            assert_writes_show(resilience, ids, when=kind)
            later = send_every_verb(resilience.service, uncached_campaigns(resilience, len(VERBS)))
            assert_all_succeed(later, during=f"{kind}, and that is noticed", within=within)
        assert_writes_show(resilience, ids, when=f"after {kind!r}")
        wait_until_redis_serves(resilience, path)
        assert_writes_show(resilience, ids, when=f"after {kind!r}, with Redis in use")


def assert_writes_show(resilience: Resilience, ids: dict[str, int], *, when: str) -> None:
    """Assert that reads see the PUT and the DELETE of `send_every_verb`."""
    message = resilience.service.get(f"/api/campaigns/{ids['PUT']}").json()["message"]
    assert message == "changed", f"{when}: a read does not see the PUT before it"
    status = resilience.service.get(f"/api/campaigns/{ids['DELETE']}").status_code
    assert status == 404, f"{when}: a read of a deleted campaign gets {status}, not 404"


def test_a_slow_redis_costs_every_write_at_most_one_budget(resilience: Resilience) -> None:
    path = f"/api/campaigns/{create(resilience)['id']}"
    wait_until_redis_serves(resilience, path)
    most = 1.4 * healthy.REDIS_BUDGET  # two commands of 0.8 each would be 1.6
    with resilience.redis.latency(seconds=0.8 * healthy.REDIS_BUDGET):
        for name in WRITES:
            verb, seconds = VERBS[name], []
            for i in uncached_campaigns(resilience, 3):  # the fastest of three counts, because the machine may be busy
                reply = timed(lambda i=i, verb=verb: verb.send(resilience.service, i))
                assert reply.status == verb.status, f"Redis is slow: {name} gets {reply.status}, not {verb.status}"
                seconds.append(reply.seconds)
            fastest = min(seconds)
            assert fastest < most, (
                f"Redis is slow: {name} spends {fastest:.2f} s on it, more than its budget, {healthy.REDIS_BUDGET} s"
            )


def test_no_cache_is_trusted_after_a_put_or_delete_with_unknown_outcome(resilience: Resilience) -> None:
    """The write happens and its reply is lost, once with Redis and once without it. No cached copy may be trusted then."""
    with another_instance(resilience, **SHORT_TIMEOUTS) as instance:
        for verb in ("PUT", "DELETE"):
            write_with_unknown_outcome(resilience, instance.client, verb)


def write_with_unknown_outcome(resilience: Resilience, client: httpx.Client, verb: str) -> None:
    """Lose the reply to a write, with Redis and without it, and read what it wrote."""
    expected = {"PUT": 200, "DELETE": 404}[verb]

    def create_cached() -> int:
        """Create a campaign that all caches have. The verb's statement is prepared first, so that it is one message later."""
        VERBS[verb].send(client, client.post("/api/campaigns", json={"name": "n", "message": "m"}).json()["id"])
        campaign: int = client.post("/api/campaigns", json={"name": "n", "message": "before"}).json()["id"]
        assert client.get(f"/api/campaigns/{campaign}").status_code == 200
        return campaign

    def write(campaign: int, where: str) -> None:
        unchanged = "select 1 from campaigns where id = $1 and message = 'before'"
        with resilience.postgres.blackhole(direction="down"):
            status = VERBS[verb].send(client, campaign).status_code
            assert status == 503, f"the outcome of the {verb} is unknown, and it gets {status}, not 503"
            eventually_or_fail(
                lambda: not sql(resilience, unchanged, campaign),
                within=healthy.POSTGRES_BACK_WITHIN,
                message=f"the {verb} never reached Postgres",
            )
        wait_until_ready(client)
        assert_write_shows(campaign, where)

    def assert_write_shows(campaign: int, where: str) -> None:
        reply = client.get(f"/api/campaigns/{campaign}")
        source = reply.headers.get("X-Cache-Source")
        old = f"the {verb} happened {where}, its reply was lost, and {source} still serves the old value"
        assert reply.status_code == expected, f"{old}: {reply.status_code}, not {expected}"
        assert reply.json().get("message") != "before", old

    wait_until_redis_is(client, "up", within=5.0)
    write(create_cached(), "with Redis")
    campaign = create_cached()
    with resilience.redis.refuse():
        wait_until_redis_is(client, "down")
        write(campaign, "without Redis")
    wait_until_redis_is(client, "up")
    assert_write_shows(campaign, "without Redis, which is back")


def test_a_put_or_delete_whose_reply_was_lost_is_not_retried(resilience: Resilience, resilience_stack: Stack) -> None:
    """The statement ran, then the connection broke. A retry would change the row twice, or find it deleted."""
    skip_unless_embedded(
        resilience_stack, "toxiproxy-server sends what it holds when it closes a connection, so no reply is lost"
    )
    for verb in ("PUT", "DELETE"):
        lose_the_reply(resilience, verb)


def lose_the_reply(resilience: Resilience, verb: str) -> None:
    """Lose the reply to one write, and assert that it happened once and got a 503."""
    VERBS[verb].send(resilience.service, create(resilience)["id"])  # prepares the statement
    campaign = create(resilience)["id"]
    done = "select 1 where not exists (select 1 from campaigns where id = $1 and version = 1)"
    with ThreadPoolExecutor(1) as thread:
        with resilience.postgres.blackhole(direction="down"):
            write = thread.submit(timed, lambda: VERBS[verb].send(resilience.service, campaign))
            eventually(lambda: sql(resilience, done, campaign), within=5.0)
            paused = (
                resilience.service.pause()
            )  # so that the network is healed when the service sees the broken connection
            with resilience.postgres.reset():
                pass
        paused.heal()
        outcome = write.result()
    wait_until_ready(resilience.service)
    versions = [row["version"] for row in sql(resilience, "select version from campaigns where id = $1", campaign)]
    expected = [2] if verb == "PUT" else []
    assert versions == expected, f"one {verb} happened twice: the row has the versions {versions}, not {expected}"
    assert outcome.status == 503, (
        f"the outcome of the {verb} is unknown, and it gets {outcome}, not 503: it was retried"
    )


def test_every_read_is_retried_when_its_session_is_terminated(resilience: Resilience) -> None:
    """A failover terminates the sessions of running statements. Reads, of one campaign or a list, can be repeated."""
    create(resilience)
    ids = uncached_campaigns(resilience, 2 * len(READS))
    with resilience.postgres.starve(lock="campaigns") as locked, ThreadPoolExecutor(1) as thread:
        reads = thread.submit(send_every_verb, resilience.service, ids, names=READS * 2)
        eventually(lambda: locked.receipt.touched == len(ids), within=healthy.ACQUIRE_TIMEOUT)
        resilience.postgres.terminate_backends()
        locked.heal()
        replies = reads.result()
    within = healthy.ACQUIRE_TIMEOUT + healthy.COMMAND_TIMEOUT
    assert_all_succeed(replies, during="the sessions of reads were terminated", within=within)


def test_every_write_is_acknowledged_only_after_its_wal_is_flushed(resilience: Resilience) -> None:
    flushed = "select pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()"
    ids = [create(resilience)["id"] for _ in range(10)]
    with sql_connection(resilience) as fetch_value:
        for verb in WRITES:
            unflushed = 0
            for i in ids:
                reply = VERBS[verb].send(resilience.service, i)
                unflushed += not fetch_value(flushed)
                assert reply.status_code == VERBS[verb].status, f"{verb} gets {reply.status_code}"
            # Other sessions write WAL too, so a few positions may be behind.
            assert unflushed < len(ids) // 2, (
                f"{unflushed} of {len(ids)} acknowledged {verb}s were not yet in Postgres' WAL: a crash loses them"
            )


def test_lists_are_never_cached(resilience: Resilience) -> None:
    """A list shows every write before it, with Redis and without it, and is refused without Postgres."""

    def messages() -> dict[int, str]:
        reply = resilience.service.get("/api/campaigns")
        assert reply.status_code == 200, f"the list gets {reply.status_code}, not 200"
        return {item["id"]: item["message"] for item in reply.json()["items"]}

    def assert_list_shows_every_write(where: str) -> None:
        campaign = create(resilience, "created")["id"]
        assert messages().get(campaign) == "created", f"{where}: the list lacks a campaign that was created"
        assert resilience.service.put(f"/api/campaigns/{campaign}", json={"message": "changed"}).status_code == 200
        assert messages().get(campaign) == "changed", f"{where}: the list shows a campaign as it was before its change"
        assert resilience.service.delete(f"/api/campaigns/{campaign}").status_code == 204
        assert campaign not in messages(), f"{where}: the list still has a campaign that was deleted"

    assert_list_shows_every_write("with Redis")
    with resilience.redis.refuse():
        assert_list_shows_every_write("without Redis")
    with resilience.postgres.refuse():
        status = resilience.service.get("/api/campaigns").status_code
    assert status == 503, f"without Postgres the list is unknown, and it gets {status}, not 503"


def test_after_a_refused_write_the_cached_copy_is_served_as_stale(resilience: Resilience) -> None:
    """The refused write may have happened, so the copy is doubtful. It is still better than an error."""
    for verb in ("PUT", "DELETE"):
        path = f"/api/campaigns/{create(resilience)['id']}"
        wait_until_redis_serves(resilience, path)
        with resilience.postgres.refuse():
            status = VERBS[verb].send(resilience.service, int(path.rpartition("/")[2])).status_code
            assert status == 503, f"a {verb} without Postgres gets {status}, not 503"
            for read in [timed(lambda path=path: resilience.service.get(path)) for _ in range(5)]:
                assert read.reply is not None, f"a read after a refused {verb} got no reply: {read.error!r}"
                assert read.status == 200, f"a {verb} was refused, and the copy was lost with it: {read.status}"
                state = read.reply.headers["X-Cache"]
                assert state == "stale", (
                    f"a {verb} may have happened, and the copy from before it is served as a {state}"
                )
        wait_until_ready(resilience.service)
        later = concurrently([lambda path=path: resilience.service.get(path)] * 5)
        states = {read.reply.headers["X-Cache"] for read in later if read.reply is not None}
        assert "stale" not in states, f"Postgres is back, and a doubtful copy is still served after a {verb}: {states}"
        wait_until_redis_serves(resilience, path)
