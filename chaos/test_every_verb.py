"""Every verb keeps every promise: what a fault must not do to a POST, it must not do to a PUT, a DELETE or a GET either."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import httpx

import healthy
from instances import NO_POOL_CHECKS, Instance, another_instance
from pytest_resilience import Resilience, Stack, eventually, recovers
from verbs import READS, VERBS, WRITES, assert_all_succeed, assert_all_unavailable, send_every_verb, uncached_campaigns
from workload import (
    concurrently,
    create,
    eventually_or_fail,
    served_by,
    skip_unless_embedded,
    sql,
    sql_connection,
    timed,
)

POOL = 5  # connections: as many as there are verbs
ACQUIRE, COMMAND = 1.0, 2.0  # seconds
QUICK = {
    "DB_POOL_MAX": str(POOL),
    "DB_POOL_ACQUIRE_TIMEOUT": str(ACQUIRE),
    "DB_COMMAND_TIMEOUT": str(COMMAND),
    "DB_POOL_CHECK_INTERVAL": NO_POOL_CHECKS,  # no sweep gives back what a request has lost
}
IN_TIME = 2 * (ACQUIRE + COMMAND) + 2 * healthy.SLACK  # seconds: a read may be tried twice
PATIENT = {"DB_COMMAND_TIMEOUT": "0.5", "DB_POOL_ACQUIRE_TIMEOUT": "0.5"}

Fault = Callable[[Resilience], AbstractContextManager[object]]
# They follow each other in one test: what one outage leaves behind may show in the next.
POSTGRES: dict[str, Fault] = {
    "Postgres hangs": lambda r: r.postgres.blackhole(),
    "Postgres' answers are lost": lambda r: r.postgres.blackhole(direction="down"),
    "Postgres refuses": lambda r: r.postgres.refuse(),
    "Postgres resets": lambda r: r.postgres.reset(),
}
REDIS: dict[str, Fault] = {
    "Redis hangs": lambda r: r.redis.blackhole(),
    "Redis refuses": lambda r: r.redis.refuse(),
    "Redis is read-only": lambda r: r.redis.readonly(),
    "Redis is full": lambda r: r.redis.oom(),
}


def the_whole_pool_is_free(resilience: Resilience, instance: Instance, *, after: str) -> None:
    """Assert that as many requests as the pool has connections can wait in Postgres at the same time."""
    recovers(lambda: instance.client.get("/readyz").status_code == 200, within=healthy.POSTGRES_BACK_WITHIN)
    ids = uncached_campaigns(resilience, POOL)
    message = f"{after}: connections of the pool are lost, and {POOL} requests cannot be under way at once any more"
    with resilience.postgres.hold_locks("campaigns") as held, ThreadPoolExecutor(1) as thread:
        asked = thread.submit(send_every_verb, instance.client, ids)
        try:
            eventually_or_fail(lambda: held.receipt.touched == POOL, within=ACQUIRE, message=message)
        finally:
            held.heal()
            answers = asked.result()
    assert_all_succeed(answers, during=f"after that: {after}", within=IN_TIME)


def test_without_postgres_every_verb_gets_a_timely_503_and_returns_its_connection(resilience: Resilience) -> None:
    with another_instance(resilience, **QUICK) as instance:
        create(resilience)
        for kind, fault in POSTGRES.items():
            ids = uncached_campaigns(resilience, 3 * len(VERBS))
            warm, struck = ids[: len(VERBS)], ids[len(VERBS) :]
            assert_all_succeed(send_every_verb(instance.client, warm), during="nothing is wrong", within=IN_TIME)
            with fault(resilience):
                answers = send_every_verb(instance.client, struck, names=[*VERBS, *VERBS])
            assert_all_unavailable(answers, during=kind, within=IN_TIME)
            the_whole_pool_is_free(resilience, instance, after=kind)


def test_an_exhausted_pool_gives_every_verb_a_timely_503(resilience: Resilience) -> None:
    """Those who hold the connections wait for a lock, those who come after them for a connection: neither waits for long."""
    acquire, command = 0.8, 4.0  # seconds: who holds a connection holds it for longer than others may wait for it
    limits = {"DB_POOL_ACQUIRE_TIMEOUT": str(acquire), "DB_COMMAND_TIMEOUT": str(command)}
    with another_instance(resilience, **QUICK | limits) as instance:
        create(resilience)
        first, second = uncached_campaigns(resilience, len(VERBS)), uncached_campaigns(resilience, len(VERBS))
        with resilience.postgres.hold_locks("campaigns") as locked, ThreadPoolExecutor(1) as thread:
            holding = thread.submit(send_every_verb, instance.client, first)
            eventually(lambda: locked.receipt.touched == POOL, within=command / 2)
            late = send_every_verb(instance.client, second)
            cleanup = timed(lambda: instance.client.post("/api/db-cleanup"))
            held = holding.result()
        assert_all_unavailable(late, during="all connections are in use", within=acquire + 2 * healthy.SLACK)
        assert_all_unavailable(held, during="a lock is held for longer than a statement may take", within=2 * command)
        assert cleanup.status == 200, f"all connections are in use, and so the cleanup is answered {cleanup.status}"


def test_without_redis_every_verb_succeeds_within_the_redis_budget(resilience: Resilience) -> None:
    """All are under way in the moment in which Redis goes away: nobody knows of it yet."""
    path = f"/api/campaigns/{create(resilience)['id']}"
    within = healthy.REDIS_BUDGET + healthy.SLACK
    for kind, fault in REDIS.items():
        eventually(lambda: served_by(resilience, path) == "redis", within=healthy.REDIS_BACK_WITHIN)
        ids = dict(zip(VERBS, uncached_campaigns(resilience, len(VERBS)), strict=True))

        def nothing_of_the_past(when: str, ids: dict[str, int] = ids) -> None:
            changed = resilience.service.get(f"/api/campaigns/{ids['PUT']}").json()["message"]
            assert changed == "changed", f"{when}: a read missed the PUT before it"
            status = resilience.service.get(f"/api/campaigns/{ids['DELETE']}").status_code
            assert status == 404, f"{when}: a deleted campaign is served ({status})"

        with fault(resilience):
            assert_all_succeed(send_every_verb(resilience.service, ids.values()), during=kind, within=within)
            nothing_of_the_past(kind)
            again = send_every_verb(resilience.service, uncached_campaigns(resilience, len(VERBS)))
            assert_all_succeed(again, during=f"{kind}, which is known by now", within=within)
        nothing_of_the_past(f"{kind} no longer")
        eventually(lambda: served_by(resilience, path) == "redis", within=healthy.REDIS_BACK_WITHIN)
        nothing_of_the_past(f"{kind} no longer, and is used again")


def test_a_slow_redis_costs_every_write_at_most_one_budget(resilience: Resilience) -> None:
    path = f"/api/campaigns/{create(resilience)['id']}"
    eventually(lambda: served_by(resilience, path) == "redis", within=healthy.REDIS_BACK_WITHIN)
    most = 1.4 * healthy.REDIS_BUDGET  # two calls of 0.8 each would be 1.6
    with resilience.redis.latency(seconds=0.8 * healthy.REDIS_BUDGET):
        for verb in WRITES:
            each, took = VERBS[verb], []
            for i in uncached_campaigns(resilience, 3):  # the quickest of three: a busy machine has bad moments
                asked = timed(lambda i=i, each=each: each.send(resilience.service, i))
                assert asked.status == each.status, f"Redis is slow: {verb} is answered {asked.status}"
                took.append(asked.seconds)
            assert min(took) < most, (
                f"Redis is slow: {verb} spends {min(took):.2f} s on it, and its budget is {healthy.REDIS_BUDGET} s"
            )


def test_no_cache_is_trusted_after_a_put_or_delete_with_unknown_outcome(resilience: Resilience) -> None:
    """The write happened and its answer was lost. Once with Redis there, once without it: each cache must not be believed."""
    with another_instance(resilience, **PATIENT) as instance:
        for verb in ("PUT", "DELETE"):
            doubt(resilience, instance.client, verb)


def doubt(resilience: Resilience, client: httpx.Client, verb: str) -> None:
    """Have one kind of write in doubt, with Redis there and without it, and read what it wrote."""
    status = {"PUT": 200, "DELETE": 404}[verb]

    def fresh() -> int:
        """Create a campaign that all caches have, and have the statement prepared, so that it is one message to Postgres."""
        VERBS[verb].send(client, client.post("/api/campaigns", json={"name": "n", "message": "m"}).json()["id"])
        made: int = client.post("/api/campaigns", json={"name": "n", "message": "before"}).json()["id"]
        assert client.get(f"/api/campaigns/{made}").status_code == 200
        return made

    def in_doubt(made: int, where: str) -> None:
        happened = "select 1 from campaigns where id = $1 and message = 'before'"
        with resilience.postgres.blackhole(direction="down"):
            answer = VERBS[verb].send(client, made)
            assert answer.status_code == 503, f"nobody can know whether the {verb} happened: {answer.status_code}"
            eventually_or_fail(
                lambda: not sql(resilience, happened, made),
                within=healthy.POSTGRES_BACK_WITHIN,
                message=f"the {verb} never reached Postgres",
            )
        recovers(lambda: client.get("/readyz").status_code == 200, within=healthy.POSTGRES_BACK_WITHIN)
        told(made, where)

    def told(made: int, where: str) -> None:
        reply = client.get(f"/api/campaigns/{made}")
        source = reply.headers.get("X-Cache-Source")
        assert reply.status_code == status, (
            f"the {verb} happened {where}, its answer was lost, and {source} still serves what was before"
        )
        message = reply.json().get("message")
        assert message != "before", f"the {verb} happened {where}, and {source} still serves what was before"

    eventually(lambda: client.get("/readyz").json()["checks"]["redis"] == "up", within=5.0)
    in_doubt(fresh(), "with Redis there")
    made = fresh()
    with resilience.redis.refuse():
        eventually(lambda: client.get("/readyz").json()["checks"]["redis"] == "down", within=2.0)
        in_doubt(made, "without Redis")
    within = healthy.REDIS_BACK_WITHIN
    eventually_or_fail(
        lambda: client.get("/readyz").json()["checks"]["redis"] == "up",
        within=within,
        message=f"Redis is back, and after {within:g} s the service still does not use it",
    )
    told(made, "without Redis, which is back")


def test_a_put_or_delete_whose_reply_was_lost_is_not_retried(resilience: Resilience, resilience_stack: Stack) -> None:
    """The statement ran, then the connection broke: a second try would change the row twice, or find it gone."""
    skip_unless_embedded(
        resilience_stack, "the real Toxiproxy hands over what it holds when it closes a connection: no answer is lost"
    )
    for verb in ("PUT", "DELETE"):
        lose_the_answer(resilience, verb)


def lose_the_answer(resilience: Resilience, verb: str) -> None:
    """Have one kind of change lose its answer, and see how often it happened."""
    VERBS[verb].send(resilience.service, create(resilience)["id"])  # prepares the statement
    made = create(resilience)["id"]
    done = "select 1 where not exists (select 1 from campaigns where id = $1 and version = 1)"
    with ThreadPoolExecutor(1) as thread:
        with resilience.postgres.blackhole(direction="down"):
            write = thread.submit(timed, lambda: VERBS[verb].send(resilience.service, made))
            eventually(lambda: sql(resilience, done, made), within=5.0)
            stopped = resilience.service.pause()  # so that the network is well when it finds its connection broken
            with resilience.postgres.reset():
                pass
        stopped.heal()
        outcome = write.result()
    recovers(lambda: resilience.service.get("/readyz").status_code == 200, within=healthy.POSTGRES_BACK_WITHIN)
    versions = [row["version"] for row in sql(resilience, "select version from campaigns where id = $1", made)]
    wanted = [2] if verb == "PUT" else []
    assert versions == wanted, f"one {verb} was made twice: the row has the versions {versions}, not {wanted}"
    assert outcome.status == 503, (
        f"nobody can know whether the {verb} happened; the answer is 503, not {outcome.status}: it was tried again"
    )


def test_every_read_is_retried_when_its_session_is_terminated(resilience: Resilience) -> None:
    """A failover ends the sessions of statements that run; reads can be asked again, whether for one campaign or a page."""
    create(resilience)
    ids = uncached_campaigns(resilience, 2 * len(READS))
    with resilience.postgres.starve(lock="campaigns") as locked, ThreadPoolExecutor(1) as thread:
        reading = thread.submit(send_every_verb, resilience.service, ids, names=READS * 2)
        eventually(lambda: locked.receipt.touched == len(ids), within=healthy.ACQUIRE_TIMEOUT)
        resilience.postgres.terminate_backends()
        locked.heal()
        answers = reading.result()
    within = healthy.ACQUIRE_TIMEOUT + healthy.COMMAND_TIMEOUT
    assert_all_succeed(answers, during="the sessions of reads were ended", within=within)


def test_every_write_is_acknowledged_only_after_its_wal_is_flushed(resilience: Resilience) -> None:
    safe = "select pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()"
    ids = [create(resilience)["id"] for _ in range(10)]
    with sql_connection(resilience) as ask:
        for verb in WRITES:
            behind = 0
            for i in ids:
                reply = VERBS[verb].send(resilience.service, i)
                behind += not ask(safe)
                assert reply.status_code == VERBS[verb].status, f"{verb} is answered {reply.status_code}"
            assert behind < len(ids) // 2, (
                f"{behind} of {len(ids)} acknowledged {verb}s were not in Postgres' log yet: a crash loses them"
            )


def test_lists_are_never_cached(resilience: Resilience) -> None:
    """Pages are not cached: each shows every write before it, with Redis there and without it, and is refused without Postgres."""

    def page() -> dict[int, str]:
        reply = resilience.service.get("/api/campaigns")
        assert reply.status_code == 200, f"the list is answered {reply.status_code}"
        return {item["id"]: item["message"] for item in reply.json()["items"]}

    def every_write_shows(where: str) -> None:
        made = create(resilience, "made")["id"]
        assert page().get(made) == "made", f"{where}: a campaign that was made is not in the list"
        assert resilience.service.put(f"/api/campaigns/{made}", json={"message": "changed"}).status_code == 200
        assert page().get(made) == "changed", f"{where}: the list shows a campaign as it was before its change"
        assert resilience.service.delete(f"/api/campaigns/{made}").status_code == 204
        assert made not in page(), f"{where}: the list still has a campaign that was deleted"

    every_write_shows("with Redis there")
    with resilience.redis.refuse():
        every_write_shows("without Redis")
    with resilience.postgres.refuse():
        status = resilience.service.get("/api/campaigns").status_code
    assert status == 503, f"without Postgres nobody knows which campaigns there are, and the list is answered {status}"


def test_after_a_refused_write_the_cached_copy_is_served_as_stale(resilience: Resilience) -> None:
    """A write that is refused makes the copy doubtful: from then on it is served as stale, and is not lost."""
    for verb in ("PUT", "DELETE"):
        path = f"/api/campaigns/{create(resilience)['id']}"
        eventually(lambda path=path: served_by(resilience, path) == "redis", within=healthy.REDIS_BACK_WITHIN)
        with resilience.postgres.refuse():
            refused = VERBS[verb].send(resilience.service, int(path.rpartition("/")[2]))
            assert refused.status_code == 503, f"a {verb} without Postgres is answered {refused.status_code}"
            reads = [timed(lambda path=path: resilience.service.get(path)) for _ in range(5)]
            for read in reads:
                assert read.reply is not None, f"a read after a {verb} that was refused got no answer: {read.error!r}"
                assert read.status == 200, f"a {verb} was refused, and with it the copy was lost: {read.status}"
                state = read.reply.headers["X-Cache"]
                assert state == "stale", f"a {verb} may have happened, and the copy from before it is called a {state}"
        recovers(lambda: resilience.service.get("/readyz").status_code == 200, within=healthy.POSTGRES_BACK_WITHIN)
        again = concurrently([lambda path=path: resilience.service.get(path)] * 5)
        states = {read.reply.headers["X-Cache"] for read in again if read.reply is not None}
        assert "stale" not in states, f"Postgres is back, and a copy in doubt is still served after a {verb}: {states}"
        eventually_or_fail(
            lambda path=path: served_by(resilience, path) == "redis",
            within=healthy.REDIS_BACK_WITHIN,
            message=f"a {verb} was in doubt, and its campaign is never read from Redis again",
        )
