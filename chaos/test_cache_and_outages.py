"""The cache keeps its promises while Redis or Postgres is away, too: one load for many, nothing from the past, nothing lost early."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import healthy
from instances import NO_POOL_CHECKS, another_instance
from pytest_resilience import Resilience, eventually, recovers
from verbs import VERBS, uncached_campaigns
from workload import (
    NAME,
    concurrently,
    create,
    eventually_or_fail,
    reading,
    redis_commands,
    redis_key,
    served_by,
    service_sessions,
    sql,
    timed,
)

LARGEST = "x" * 10_000  # the longest message there may be
FRESH = healthy.DEFAULTS["CACHE_TTL"][0]  # seconds
LIFETIME = healthy.DEFAULTS["CACHE_STALE_TTL"][0]  # seconds

REDIS: dict[str, Callable[[Resilience], AbstractContextManager[object]]] = {
    "Redis is slow": lambda r: r.redis.latency(seconds=0.6 * healthy.REDIS_BUDGET),
    "Redis hangs": lambda r: r.redis.blackhole(),
    "Redis is away": lambda r: r.redis.refuse(),
}


def redis_is(resilience: Resilience, state: str) -> None:
    """Wait until the service knows how Redis is."""
    eventually_or_fail(
        lambda: resilience.service.get("/readyz").json()["checks"]["redis"] == state,
        within=healthy.REDIS_BACK_WITHIN,
        message=f"/readyz does not tell that Redis is {state}",
    )


def test_concurrent_misses_cause_a_single_load_while_redis_is_slow_hanging_or_down(resilience: Resilience) -> None:
    """Without Redis every campaign is missed first by everybody: that is when Postgres can stand it least."""
    create(resilience)
    redis_is(resilience, "up")
    for kind, fault in REDIS.items():
        with fault(resilience), resilience.postgres.latency(seconds=0.1):
            for moment in ("nobody knows it yet", "it is known by now"):
                (wanted,) = uncached_campaigns(resilience, 1)
                before = len(service_sessions(resilience))
                reads = concurrently(
                    [lambda i=wanted: resilience.service.get(f"/api/campaigns/{i}")] * healthy.POOL_MAX
                )
                opened = len(service_sessions(resilience)) - before
                assert [read.status for read in reads] == [200] * healthy.POOL_MAX, f"{kind}: reads fail"
                assert opened <= 1, (
                    f"{kind} ({moment}): {opened} connections for one campaign that was not cached: each reader loads it"
                )
        redis_is(resilience, "up")


def test_a_failed_shared_load_fails_all_its_waiters_and_is_retried_by_the_next_read(resilience: Resilience) -> None:
    (wanted,) = uncached_campaigns(resilience, 1)
    for number in (1, 2):
        with resilience.postgres.refuse():
            reads = concurrently([lambda: resilience.service.get(f"/api/campaigns/{wanted}")] * healthy.POOL_MAX)
            told = {read.status for read in reads}
            assert told == {503}, (
                f"nobody can know this campaign (outage {number}), and who waits for its load gets {told}"
            )
            slowest = max(read.seconds for read in reads)
            assert slowest < healthy.ACQUIRE_TIMEOUT + healthy.SLACK, (
                f"the load failed at once, and one waits {slowest:.1f} s"
            )
    eventually_or_fail(
        lambda: resilience.service.get(f"/api/campaigns/{wanted}").status_code == 200,
        within=healthy.POSTGRES_BACK_WITHIN,
        message="Postgres is back, and a load that failed is never tried again",
    )


def test_garbage_collection_keeps_stale_copies_while_postgres_is_down(resilience: Resilience) -> None:
    """GC_INTERVAL drops what has outlived CACHE_STALE_TTL, and nothing that only outlived CACHE_TTL."""
    collected = 0.1  # seconds between two collections
    with another_instance(
        resilience, GC_INTERVAL=str(collected), CACHE_TTL="0.05", DB_POOL_CHECK_INTERVAL=NO_POOL_CHECKS
    ) as instance:
        path = instance.client.post("/api/campaigns", json={"name": NAME, "message": "stale"}).headers["Location"]
        with resilience.redis.refuse(), resilience.postgres.refuse():
            begin = time.monotonic()
            while time.monotonic() - begin < 6 * collected:
                reply = instance.client.get(path)
                assert reply.status_code == 200, (
                    f"{time.monotonic() - begin:.1f} s into an outage its copy is gone: it was stale, and was collected"
                )


def test_replaced_and_deleted_entries_free_their_room_and_the_least_recently_read_are_evicted(
    resilience: Resilience,
) -> None:
    """With Redis and Postgres away, what is still answered is just what memory holds."""
    bounds = {"CACHE_MAX_MB": "0.06", "CACHE_MAX_ENTRIES": "20"}  # room for five or six of the largest
    ids = uncached_campaigns(resilience, 24)
    with another_instance(resilience, **bounds) as instance, resilience.redis.refuse():
        client = instance.client

        def made(message: str) -> str:
            reply = client.post("/api/campaigns", json={"name": NAME, "message": message})
            assert reply.status_code == 201
            path: str = reply.headers["Location"]
            return path

        def held(paths: list[str]) -> int:
            """How many of them memory has, with Postgres away."""
            with resilience.postgres.refuse():
                count = sum(client.get(path).status_code == 200 for path in paths)
            recovers(lambda: client.get("/readyz").status_code == 200, within=healthy.POSTGRES_BACK_WITHIN)
            return count

        kept = [made("kept") for _ in range(5)]
        replaced = made(LARGEST)
        for number in range(12):
            assert client.put(replaced, json={"message": f"{number}{LARGEST}"[: len(LARGEST)]}).status_code == 200
        count = held(kept)
        assert count == len(kept), (
            f"one campaign was changed 12 times, and {len(kept) - count} of {len(kept)} others are no longer in memory:"
            " what was replaced still counts"
        )
        for _ in range(12):
            assert client.delete(made(LARGEST)).status_code == 204
        count = held(kept)
        assert count == len(kept), (
            f"12 campaigns were made and deleted, and {len(kept) - count} of {len(kept)} others are no longer in memory:"
            " what was deleted still counts"
        )
        # Who has to be loaded again shows it from now on.
        sql(resilience, "update campaigns set message = 'loaded again' where message = 'kept'")
        for number, i in enumerate(ids):
            assert client.get(f"/api/campaigns/{i}").status_code == 200
            assert client.get(kept[number % len(kept)]).status_code == 200
        told = {client.get(path).json()["message"] for path in kept}
        assert told == {"kept"}, (
            "campaigns that were read all the time fell out of memory for others that were read once"
        )


def test_a_campaign_created_after_a_404_is_served_by_the_next_read(resilience: Resilience) -> None:
    """A 404 says nothing about the next request: neither when the number is new, nor when it is used again after a delete."""
    for redis_is_there in (True, False):
        comes_and_goes(resilience, redis_is_there)


def comes_and_goes(resilience: Resilience, redis_is_there: bool) -> None:
    """Read a number before it is made, after it is made, after it is deleted, and after it is used again."""
    next_id = create(resilience)["id"] + 1
    path = f"/api/campaigns/{next_id}"
    redis_is(resilience, "up")
    where = "with Redis there" if redis_is_there else "without Redis"
    source = "redis" if redis_is_there else "memory"
    again = "insert into campaigns (id, name, message) values ($1, $2, 'used again')"
    with nullcontext() if redis_is_there else resilience.redis.refuse():
        for _ in range(3):
            assert resilience.service.get(path).status_code == 404
        assert create(resilience, "made")["id"] == next_id
        reply = resilience.service.get(path)
        assert reply.status_code == 200, f"{where}: a campaign was made and acknowledged, and the next read says 404"
        assert resilience.service.delete(path).status_code == 204
        for _ in range(3):
            status = resilience.service.get(path).status_code
            assert status == 404, f"{where}: a campaign was deleted, and a read gets {status}"
        sql(resilience, again, next_id, NAME)
        reply = resilience.service.get(path)
        assert reply.status_code == 200, f"{where}: a number is used again, and the read after that says 404"
        assert reply.json()["message"] == "used again"
        message = f"{where}: a number is used again, and its campaign is never cached: it was deleted once"
        eventually_or_fail(
            lambda: served_by(resilience, path) == source, within=healthy.REDIS_BACK_WITHIN, message=message
        )


def test_a_campaign_known_to_be_deleted_is_not_served_as_stale(resilience: Resilience) -> None:
    """Another program deleted campaigns, and Postgres said so; then Postgres goes away."""
    with redis_commands(resilience) as ask:
        redis_is(resilience, "up")
        in_memory, in_redis = (create(resilience)["id"] for _ in range(2))
        for i in (in_memory, in_redis):
            eventually(lambda i=i: served_by(resilience, f"/api/campaigns/{i}") == "redis", within=5.0)
        sql(resilience, "delete from campaigns where id = any($1)", [in_memory, in_redis])
        ask("DEL", redis_key(ask, in_memory))
        old = int(1000 * (LIFETIME - FRESH - 10))  # ten seconds older than a fresh copy is
        name = redis_key(ask, in_redis)
        ask("PEXPIRE", name, old)
        for i in (in_memory, in_redis):
            status = resilience.service.get(f"/api/campaigns/{i}").status_code
            assert status == 404, f"Postgres has no such campaign, and the read gets {status}"
        with resilience.postgres.refuse():
            for where, i in ("memory", in_memory), ("Redis", in_redis):
                status = resilience.service.get(f"/api/campaigns/{i}").status_code
                assert status == 503, f"a campaign is known to be gone, and the copy in {where} is served: {status}"
            eventually_or_fail(
                lambda: not ask("EXISTS", name),
                within=healthy.REDIS_BACK_WITHIN,
                message="a campaign is known to be gone, and its copy stays in Redis",
            )


def test_a_copy_keeps_its_age_when_it_moves_from_redis_to_memory(resilience: Resilience) -> None:
    """Else a copy grows young again with each layer that it passes."""
    with another_instance(resilience) as other:
        eventually(lambda: other.client.get("/readyz").json()["checks"]["redis"] == "up", within=5.0)
        nearly_old, old = (
            other.client.post("/api/campaigns", json={"name": NAME, "message": "m"}).headers["Location"]
            for _ in range(2)
        )
    redis_is(resilience, "up")
    with redis_commands(resilience) as ask:
        for path, age in (nearly_old, FRESH - 1.0), (old, FRESH + 10):
            assert ask("PEXPIRE", redis_key(ask, int(path.rpartition("/")[2])), int(1000 * (LIFETIME - age)))
    first = resilience.service.get(nearly_old).headers
    assert (first["X-Cache"], first["X-Cache-Source"]) == ("hit", "redis")
    with resilience.redis.refuse(), resilience.postgres.refuse():
        eventually_or_fail(
            lambda: resilience.service.get(nearly_old).headers.get("X-Cache") == "stale",
            within=1.0 + 2 * healthy.SLACK,
            message=f"a copy that was {FRESH - 1:g} s old in Redis is fresh in memory for longer than CACHE_TTL={FRESH:g}",
        )
    recovers(lambda: resilience.service.get("/readyz").status_code == 200, within=healthy.POSTGRES_BACK_WITHIN)
    redis_is(resilience, "up")
    with resilience.postgres.refuse():
        for moment in ("nobody knows it yet", "it is known by now"):
            reply = resilience.service.get(old)
            assert reply.status_code == 200, (
                f"Postgres is away ({moment}), Redis has an old copy, and a read gets {reply.status_code}"
            )
            told = reply.headers["X-Cache"]
            assert told == "stale", f"Postgres is away ({moment}), and a copy older than CACHE_TTL is called a {told}"
            eventually(lambda: resilience.service.get("/readyz").status_code == 503, within=2.0)


def test_a_load_in_flight_during_a_write_is_neither_joined_nor_cached(resilience: Resilience) -> None:
    """A slow load began before the write and ends after it: nobody may join it then, and what it brings must not be cached."""
    make = "insert into campaigns (name, message) values ($1, repeat('x', 300000)) returning id"
    wanted = {"PUT": (200, "changed"), "DELETE": (404, None)}
    redis_is(resilience, "up")
    with resilience.postgres.latency(seconds=0.1):  # so that connections are there for all who come
        concurrently([lambda: resilience.service.get("/api/campaigns?limit=1")] * 3)
    for where, fault in (("with Redis there", nullcontext), ("without Redis", resilience.redis.refuse)):
        with fault():
            if where == "without Redis":
                redis_is(resilience, "down")
            for verb, (status, message) in wanted.items():
                made = sql(resilience, make, NAME)[0]["id"]

                def now(made: int = made) -> tuple[int, str | None]:
                    reply = resilience.service.get(f"/api/campaigns/{made}")
                    return reply.status_code, reply.json()["message"][:20] if reply.status_code == 200 else None

                with ThreadPoolExecutor(1) as thread, resilience.postgres.bandwidth(bytes_per_s=110_000) as slow:
                    loading = thread.submit(timed, lambda made=made: resilience.service.get(f"/api/campaigns/{made}"))
                    eventually(lambda slow=slow: (slow.receipt.touched or 0) > 10_000, within=5.0)
                    assert VERBS[verb].send(resilience.service, made).is_success
                    joined = now()
                    slow.heal()
                    loading.result()
                    after = now()
                assert joined == (status, message), (
                    f"{where}: a reader who came after the {verb} joined a load from before it, and got {joined}"
                )
                assert after == (status, message), (
                    f"{where}: a load that began before the {verb} ended after it, and what it brought was cached: {after}"
                )


def test_every_cache_layer_returns_the_same_body_and_etag(resilience: Resilience) -> None:
    """A client compares what it got a minute ago; it does not know which layer answered."""
    redis_is(resilience, "up")
    made = resilience.service.post("/api/campaigns", json={"name": "Größe", "message": "zwölf % ≤ 12 €"})
    path, told = made.headers["Location"], {}

    def ask(layer: tuple[str, str]) -> None:
        reply = resilience.service.get(path)
        got = (reply.headers.get("X-Cache"), reply.headers.get("X-Cache-Source"))
        assert (reply.status_code, got) == (200, layer), f"{layer} should answer, and {reply.status_code} {got} did"
        told[layer] = (reply.content, reply.headers["ETag"], reply.headers["Content-Type"])

    ask(("hit", "redis"))
    with redis_commands(resilience) as command:
        command("DEL", redis_key(command, made.json()["id"]))
    ask(("miss", "postgres"))
    with resilience.postgres.refuse(), resilience.redis.blackhole():
        ask(("hit", "memory"))  # at the first read, which finds out that Redis is away
        assert resilience.service.put(path, json={"message": "lost"}).status_code == 503
        ask(("stale", "memory"))
    wanted = (made.content, made.headers["ETag"], made.headers["Content-Type"])
    for layer, got in told.items():
        assert got == wanted, f"{layer} tells {got}, and who made the campaign was told {wanted}"
    recovers(lambda: resilience.service.get("/readyz").status_code == 200, within=healthy.POSTGRES_BACK_WITHIN)
    seen = {"If-Match": told["stale", "memory"][1]}
    assert resilience.service.put(path, json={"message": "new"}, headers=seen).status_code == 200
    status = resilience.service.put(path, json={"message": "newer"}, headers=seen).status_code
    assert status == 412, f"the campaign has another version by now, and a change of the old one is answered {status}"


def test_a_write_after_an_outage_replaces_the_stale_copy(resilience: Resilience) -> None:
    """Readers go on all the time: stale while Postgres is away, and never again what was before once it has changed."""
    path = f"/api/campaigns/{create(resilience, 'before')['id']}"
    with reading(resilience, path) as reads:
        for text in ("first", "second"):
            with resilience.postgres.refuse():
                assert resilience.service.put(path, json={"message": "refused"}).status_code == 503
                eventually(
                    lambda: reads[-1].reply is not None and reads[-1].reply.headers["X-Cache"] == "stale", within=2.0
                )
            recovers(lambda: resilience.service.get("/readyz").status_code == 200, within=healthy.POSTGRES_BACK_WITHIN)
            assert resilience.service.put(path, json={"message": text}).status_code == 200
            reply = resilience.service.get(path)
            assert reply.json()["message"] == text, (
                f"changed after the outage, and {reply.headers['X-Cache-Source']} has the old"
            )
            assert reply.headers["X-Cache"] != "stale", "changed a moment ago, and its copy is called stale"
    versions = [read.reply.json()["version"] for read in reads if read.reply is not None and read.status == 200]
    assert versions == sorted(versions), "a reader saw an older version after a newer one"
