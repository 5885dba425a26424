"""The cache keeps its promises while Redis or Postgres is down. It loads once for many readers and serves no old value."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import httpx

import healthy
from instances import NO_POOL_CHECKS, another_instance
from pytest_resilience import Resilience, eventually
from verbs import VERBS, uncached_campaigns
from workload import (
    NAME,
    concurrently,
    create,
    eventually_or_fail,
    postgres_session,
    reading,
    redis_commands,
    redis_key,
    served_by,
    service_sessions,
    sql,
    timed,
    wait_until_ready,
    wait_until_redis_is,
    wait_until_redis_serves,
    wait_until_unready,
)

LARGEST = "x" * 10_000  # the longest valid message
FRESH = healthy.DEFAULTS["CACHE_TTL"][0]  # seconds
LIFETIME = healthy.DEFAULTS["CACHE_STALE_TTL"][0]  # seconds

REDIS: dict[str, Callable[[Resilience], AbstractContextManager[object]]] = {
    "Redis is slow": lambda r: r.redis.latency(seconds=0.6 * healthy.REDIS_BUDGET),
    "Redis hangs": lambda r: r.redis.blackhole(),
    "Redis is down": lambda r: r.redis.refuse(),
}


def test_concurrent_misses_cause_a_single_load_while_redis_is_slow_hanging_or_down(resilience: Resilience) -> None:
    """Without Redis every reader misses at first, and that is when Postgres can bear it least."""
    create(resilience)
    wait_until_redis_is(resilience.service, "up")
    for kind, fault in REDIS.items():
        with fault(resilience), resilience.postgres.latency(seconds=0.1):
            for moment in ("before the outage is noticed", "after the outage is noticed"):
                (popular,) = uncached_campaigns(resilience, 1)
                before = len(service_sessions(resilience))
                get = [lambda i=popular: resilience.service.get(f"/api/campaigns/{i}")]
                reads = concurrently(get * healthy.POOL_MAX)
                opened = len(service_sessions(resilience)) - before
                assert [read.status for read in reads] == [200] * healthy.POOL_MAX, f"{kind}: reads fail: {reads}"
                assert opened <= 1, (
                    f"{kind} ({moment}): {opened} connections for one uncached campaign: each reader loads it"
                )
        wait_until_redis_is(resilience.service, "up")


def test_a_failed_shared_load_fails_all_its_waiters_and_is_retried_by_the_next_read(resilience: Resilience) -> None:
    (campaign,) = uncached_campaigns(resilience, 1)
    path = f"/api/campaigns/{campaign}"
    for number in (1, 2):
        with resilience.postgres.refuse():
            reads = concurrently([lambda: resilience.service.get(path)] * healthy.POOL_MAX)
            statuses = {read.status for read in reads}
            assert statuses == {503}, (
                f"no layer has this campaign (outage {number}), and the readers that share its load get {statuses}, not 503"
            )
            slowest = max(read.seconds for read in reads)
            assert slowest < healthy.ACQUIRE_TIMEOUT + healthy.SLACK, (
                f"the load failed at once, and one of its readers waits {slowest:.1f} s"
            )
    eventually_or_fail(
        lambda: resilience.service.get(path).status_code == 200,
        within=healthy.POSTGRES_BACK_WITHIN,
        message="Postgres is back, and a failed load is never retried",
    )


def test_garbage_collection_keeps_stale_copies_while_postgres_is_down(resilience: Resilience) -> None:
    """GC_INTERVAL drops copies older than CACHE_STALE_TTL, and none that is only older than CACHE_TTL."""
    interval = 0.1  # seconds between two collections
    with another_instance(
        resilience, GC_INTERVAL=str(interval), CACHE_TTL="0.05", DB_POOL_CHECK_INTERVAL=NO_POOL_CHECKS
    ) as instance:
        path = instance.client.post("/api/campaigns", json={"name": NAME, "message": "stale"}).headers["Location"]
        with resilience.redis.refuse(), resilience.postgres.refuse():
            begin = time.monotonic()
            while time.monotonic() - begin < 6 * interval:
                reply = instance.client.get(path)
                assert reply.status_code == 200, (
                    f"{time.monotonic() - begin:.1f} s into an outage a stale copy is gone: it was collected too early"
                )


def test_replaced_and_deleted_entries_free_their_room_and_the_least_recently_read_are_evicted(
    resilience: Resilience,
) -> None:
    """With Redis and Postgres down only copies in memory are served, so they can be counted."""
    limits = {"CACHE_MAX_MB": "0.06", "CACHE_MAX_ENTRIES": "20"}  # room for five or six of the largest
    ids = uncached_campaigns(resilience, 24)
    with another_instance(resilience, **limits) as instance, resilience.redis.refuse():
        client = instance.client

        def post(message: str) -> str:
            reply = client.post("/api/campaigns", json={"name": NAME, "message": message})
            assert reply.status_code == 201
            path: str = reply.headers["Location"]
            return path

        def evicted(paths: list[str]) -> int:
            """Return how many of the campaigns memory has lost."""
            with resilience.postgres.refuse():
                count = sum(client.get(path).status_code != 200 for path in paths)
            wait_until_ready(client)
            return count

        others = [post("cached") for _ in range(5)]
        replaced = post(LARGEST)
        for number in range(12):
            assert client.put(replaced, json={"message": f"{number}{LARGEST}"[: len(LARGEST)]}).status_code == 200
        lost = evicted(others)
        assert not lost, (
            f"one campaign was changed 12 times, and {lost} of {len(others)} others are no longer in memory:"
            " replaced entries still count"
        )
        for _ in range(12):
            assert client.delete(post(LARGEST)).status_code == 204
        lost = evicted(others)
        assert not lost, (
            f"12 campaigns were created and deleted, and {lost} of {len(others)} others are no longer in memory:"
            " deleted entries still count"
        )
        # From now on a campaign that has to be loaded again has another message.
        sql(resilience, "update campaigns set message = 'loaded again' where message = 'cached'")
        for number, i in enumerate(ids):
            assert client.get(f"/api/campaigns/{i}").status_code == 200
            assert client.get(others[number % len(others)]).status_code == 200
        messages = {client.get(path).json()["message"] for path in others}
        assert messages == {"cached"}, (
            "campaigns that are read all the time were evicted for others that were read once"
        )


def test_a_campaign_created_after_a_404_is_served_by_the_next_read(resilience: Resilience) -> None:
    """A 404 holds for no later request. The id may be new, or be used again after a delete."""
    for redis_is_up in (True, False):
        create_delete_and_reuse_an_id(resilience, redis_is_up)


def create_delete_and_reuse_an_id(resilience: Resilience, redis_is_up: bool) -> None:
    """Read an id before its campaign is created, afterwards, after its delete, and after another campaign gets the id."""
    next_id = create(resilience)["id"] + 1
    path = f"/api/campaigns/{next_id}"
    wait_until_redis_is(resilience.service, "up")
    where, source = ("with Redis", "redis") if redis_is_up else ("without Redis", "memory")
    with nullcontext() if redis_is_up else resilience.redis.refuse():
        for _ in range(3):
            assert resilience.service.get(path).status_code == 404
        assert create(resilience, "created")["id"] == next_id
        reply = resilience.service.get(path)
        assert reply.status_code == 200, f"{where}: a campaign was created, and the next read gets {reply.status_code}"
        assert resilience.service.delete(path).status_code == 204
        for _ in range(3):
            status = resilience.service.get(path).status_code
            assert status == 404, f"{where}: a campaign was deleted, and a read gets {status}"
        sql(resilience, "insert into campaigns (id, name, message) values ($1, $2, 'used again')", next_id, NAME)
        reply = resilience.service.get(path)
        assert reply.status_code == 200, f"{where}: an id is used again, and the next read gets {reply.status_code}"
        assert reply.json()["message"] == "used again"
        message = f"{where}: an id is used again, and its campaign is never cached because one was deleted"
        eventually_or_fail(
            lambda: served_by(resilience, path) == source, within=healthy.REDIS_BACK_WITHIN, message=message
        )


def test_a_campaign_known_to_be_deleted_is_not_served_as_stale(resilience: Resilience) -> None:
    """Another program deletes campaigns, the service learns that from Postgres, and then Postgres goes down."""
    with redis_commands(resilience) as command:
        wait_until_redis_is(resilience.service, "up")
        in_memory, in_redis = (create(resilience)["id"] for _ in range(2))
        for i in (in_memory, in_redis):
            wait_until_redis_serves(resilience, f"/api/campaigns/{i}")
        sql(resilience, "delete from campaigns where id = any($1)", [in_memory, in_redis])
        command("DEL", redis_key(command, in_memory))
        key = redis_key(command, in_redis)
        command("PEXPIRE", key, int(1000 * (LIFETIME - FRESH - 10)))  # ten seconds older than a fresh copy
        for i in (in_memory, in_redis):
            status = resilience.service.get(f"/api/campaigns/{i}").status_code
            assert status == 404, f"Postgres has no such campaign, and a read gets {status}"
        with resilience.postgres.refuse():
            for where, i in ("memory", in_memory), ("Redis", in_redis):
                status = resilience.service.get(f"/api/campaigns/{i}").status_code
                assert status == 503, f"a campaign is known to be deleted, and its copy in {where} is served: {status}"
            eventually_or_fail(
                lambda: not command("EXISTS", key),
                within=healthy.REDIS_BACK_WITHIN,
                message="a campaign is known to be deleted, and its copy stays in Redis",
            )


def test_a_copy_keeps_its_age_when_it_moves_from_redis_to_memory(resilience: Resilience) -> None:
    """Otherwise a copy becomes fresh again with each layer that it passes."""
    with another_instance(resilience) as other:
        wait_until_redis_is(other.client, "up", within=5.0)
        nearly_stale, stale = (
            other.client.post("/api/campaigns", json={"name": NAME, "message": "m"}).headers["Location"]
            for _ in range(2)
        )
    wait_until_redis_is(resilience.service, "up")
    with redis_commands(resilience) as command:
        for path, age in (nearly_stale, FRESH - 1.0), (stale, FRESH + 10):
            assert command("PEXPIRE", redis_key(command, int(path.rpartition("/")[2])), int(1000 * (LIFETIME - age)))
    first = resilience.service.get(nearly_stale).headers
    assert (first["X-Cache"], first["X-Cache-Source"]) == ("hit", "redis")
    with resilience.redis.refuse(), resilience.postgres.refuse():
        eventually_or_fail(
            lambda: resilience.service.get(nearly_stale).headers.get("X-Cache") == "stale",
            within=1.0 + 2 * healthy.SLACK,
            message=f"a copy that was {FRESH - 1:g} s old in Redis is fresh in memory for longer than CACHE_TTL={FRESH:g}",
        )
    wait_until_ready(resilience.service)
    wait_until_redis_is(resilience.service, "up")
    with resilience.postgres.refuse():
        for moment in ("before the outage is noticed", "after the outage is noticed"):
            reply = resilience.service.get(stale)
            assert reply.status_code == 200, (
                f"Postgres is down ({moment}), Redis has a stale copy, and a read gets {reply.status_code}"
            )
            state = reply.headers["X-Cache"]
            assert state == "stale", (
                f"Postgres is down ({moment}), and a copy older than CACHE_TTL is served as {state}"
            )
            wait_until_unready(resilience.service)


def test_a_load_in_flight_during_a_write_is_neither_joined_nor_cached(resilience: Resilience) -> None:
    """A slow load begins before a write and ends after it, so its result is older than the write."""
    wait_until_redis_is(resilience.service, "up")
    with resilience.postgres.latency(seconds=0.1):  # opens enough connections for all the requests below
        concurrently([lambda: resilience.service.get("/api/campaigns?limit=1")] * 3)
    for where, fault in (("with Redis", nullcontext), ("without Redis", resilience.redis.refuse)):
        with fault():
            if where == "without Redis":
                wait_until_redis_is(resilience.service, "down")
            for verb, expected in (("PUT", (200, "changed")), ("DELETE", (404, None))):
                write_during_a_load(resilience, verb, expected, where)


def write_during_a_load(resilience: Resilience, verb: str, expected: tuple[int, str | None], where: str) -> None:
    """Change or delete a campaign while it is being loaded, and assert that reads see the write during and after the load."""
    insert = "insert into campaigns (name, message) values ($1, repeat('x', 300000)) returning id"
    campaign = sql(resilience, insert, NAME)[0]["id"]

    def get() -> httpx.Response:
        return resilience.service.get(f"/api/campaigns/{campaign}")

    def read() -> tuple[int, str | None]:
        reply = get()
        return reply.status_code, reply.json()["message"][:20] if reply.status_code == 200 else None

    with ThreadPoolExecutor(1) as thread, resilience.postgres.bandwidth(bytes_per_s=110_000) as slow:
        load = thread.submit(timed, get)
        eventually(lambda: (slow.receipt.touched or 0) > 10_000, within=5.0)
        assert VERBS[verb].send(resilience.service, campaign).is_success
        during = read()
        slow.heal()
        load.result()
        after = read()
    assert during == expected, f"{where}: a reader after the {verb} joined a load from before it, and got {during}"
    assert after == expected, (
        f"{where}: a load that began before the {verb} ended after it, and its result was cached: {after}"
    )


def test_a_load_in_flight_during_a_refused_write_is_not_cached(resilience: Resilience) -> None:
    """A write that gets a 503 may have happened, so a load from before it may be old as well."""
    wait_until_redis_is(resilience.service, "up")
    with resilience.postgres.latency(seconds=0.1):  # opens enough connections for the requests below
        concurrently([lambda: resilience.service.get("/api/campaigns?limit=1")] * 3)
    insert = "insert into campaigns (name, message) values ($1, repeat('x', 300000)) returning id"
    campaign = sql(resilience, insert, NAME)[0]["id"]
    path = f"/api/campaigns/{campaign}"
    lock = f"select 1 from campaigns where id = {campaign} for update"
    with ThreadPoolExecutor(1) as thread, resilience.postgres.bandwidth(bytes_per_s=110_000) as slow:
        load = thread.submit(timed, lambda: resilience.service.get(path))
        eventually(lambda: (slow.receipt.touched or 0) > 10_000, within=5.0)
        with postgres_session(resilience, "another application", "begin", lock):
            status = VERBS["PUT"].send(resilience.service, campaign).status_code
            assert status == 503, f"the row is locked, and a PUT gets {status}, not 503"
        sql(resilience, "update campaigns set message = 'after', version = version + 1 where id = $1", campaign)
        slow.heal()
        load.result()
        reply = resilience.service.get(path)
    source = reply.headers.get("X-Cache-Source")
    assert reply.json()["message"] == "after", (
        f"a load began before a PUT that got a 503 and ended after it, and its old result is served from {source}"
    )


def test_every_cache_layer_returns_the_same_body_and_etag(resilience: Resilience) -> None:
    """A client compares two responses without knowing which layers they came from."""
    wait_until_redis_is(resilience.service, "up")
    created = resilience.service.post("/api/campaigns", json={"name": "Größe", "message": "zwölf % ≤ 12 €"})
    path = created.headers["Location"]
    responses: dict[tuple[str, str], tuple[bytes, str, str]] = {}

    def read(expected: tuple[str, str]) -> None:
        reply = resilience.service.get(path)
        layer = (reply.headers.get("X-Cache"), reply.headers.get("X-Cache-Source"))
        assert (reply.status_code, layer) == (200, expected), (
            f"{expected} should serve, not {reply.status_code} {layer}"
        )
        responses[expected] = (reply.content, reply.headers["ETag"], reply.headers["Content-Type"])

    read(("hit", "redis"))
    with redis_commands(resilience) as command:
        command("DEL", redis_key(command, created.json()["id"]))
    read(("miss", "postgres"))
    with resilience.postgres.refuse(), resilience.redis.blackhole():
        read(("hit", "memory"))  # this read is the first to notice that Redis is down
        assert resilience.service.put(path, json={"message": "lost"}).status_code == 503
        read(("stale", "memory"))
    expected = (created.content, created.headers["ETag"], created.headers["Content-Type"])
    for layer, response in responses.items():
        assert response == expected, f"{layer} returns {response}, and the creator got {expected}"
    wait_until_ready(resilience.service)
    seen = {"If-Match": responses["stale", "memory"][1]}
    assert resilience.service.put(path, json={"message": "new"}, headers=seen).status_code == 200
    status = resilience.service.put(path, json={"message": "newer"}, headers=seen).status_code
    assert status == 412, f"If-Match names an older version of the campaign, and the PUT gets {status}, not 412"


def test_a_write_after_an_outage_replaces_the_stale_copy(resilience: Resilience) -> None:
    """Readers get stale copies while Postgres is down, and never an older version after a change."""
    path = f"/api/campaigns/{create(resilience, 'before')['id']}"
    with reading(resilience, path) as reads:
        for message in ("first", "second"):
            with resilience.postgres.refuse():
                assert resilience.service.put(path, json={"message": "refused"}).status_code == 503
                eventually(
                    lambda: reads[-1].reply is not None and reads[-1].reply.headers["X-Cache"] == "stale", within=2.0
                )
            wait_until_ready(resilience.service)
            assert resilience.service.put(path, json={"message": message}).status_code == 200
            reply = resilience.service.get(path)
            assert reply.json()["message"] == message, (
                f"changed after the outage, and {reply.headers['X-Cache-Source']} still has the old version"
            )
            assert reply.headers["X-Cache"] != "stale", "changed just now, and the copy is marked as stale"
    versions = [read.reply.json()["version"] for read in reads if read.reply is not None and read.status == 200]
    assert versions == sorted(versions), f"a reader saw an older version after a newer one: {versions}"
