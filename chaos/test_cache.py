"""The cache is truthful. Its headers name the layer and mark stale copies, and it never exceeds its limits."""

from __future__ import annotations

import time
from collections import Counter

import pytest

import healthy
from instances import NO_POOL_CHECKS, another_instance
from pytest_resilience import Resilience, eventually
from verbs import uncached_campaigns
from workload import (
    NAME,
    TimedReply,
    concurrently,
    create,
    eventually_or_fail,
    metrics,
    redis_commands,
    redis_key,
    served_by,
    service_sessions,
    timed,
    wait_until_ready,
    wait_until_redis_is,
    wait_until_redis_serves,
    wait_until_unready,
)

LARGEST = "x" * 10_000  # the longest valid message


def test_cache_headers_name_the_layer_that_really_answered(resilience: Resilience) -> None:
    path = f"/api/campaigns/{create(resilience)['id']}"
    never_read = f"/api/campaigns/{create(resilience)['id']}"

    def headers() -> tuple[str, str]:
        reply = resilience.service.get(path)
        assert reply.status_code == 200, reply.text
        return reply.headers["X-Cache"], reply.headers["X-Cache-Source"]

    eventually(lambda: headers() == ("hit", "redis"), within=healthy.REDIS_BACK_WITHIN)
    with redis_commands(resilience) as command:
        command("FLUSHALL")
        assert headers() == ("miss", "postgres"), "Redis is empty, so only Postgres can have answered"
        eventually(lambda: headers() == ("hit", "redis"), within=healthy.REDIS_BACK_WITHIN)
        hits = command("INFO", "stats")["keyspace_hits"]
        assert headers() == ("hit", "redis")
        assert command("INFO", "stats")["keyspace_hits"] > hits, "the headers name Redis, which was not queried"

        with resilience.postgres.refuse(), resilience.redis.refuse():
            eventually(lambda: headers() == ("hit", "memory"), within=healthy.REDIS_BACK_WITHIN)
            command("FLUSHALL")
            # This campaign was created through this instance, so it is in memory although it was never read.
            assert resilience.service.get(never_read).headers["X-Cache-Source"] == "memory"


def test_campaigns_read_before_an_outage_of_redis_and_postgres_are_served_from_memory(resilience: Resilience) -> None:
    """Memory keeps every copy that was served, no matter which layer it came from."""
    with another_instance(resilience) as other:
        from_redis = other.client.post("/api/campaigns", json={"name": NAME, "message": "m"}).headers["Location"]
        eventually(lambda: other.client.get(from_redis).headers["X-Cache-Source"] == "redis", within=5.0)
    (inserted,) = uncached_campaigns(resilience, 1)
    from_postgres = f"/api/campaigns/{inserted}"
    assert served_by(resilience, from_redis) == "redis"
    assert served_by(resilience, from_postgres) == "postgres"
    with resilience.postgres.refuse(), resilience.redis.refuse():
        for path, source in (from_redis, "Redis"), (from_postgres, "Postgres"):
            eventually_or_fail(
                lambda path=path: resilience.service.get(path).headers.get("X-Cache-Source") == "memory",
                within=healthy.REDIS_BACK_WITHIN,
                message=f"a campaign was just served from {source}, and memory has no copy now that both are down",
            )


def test_stale_copies_are_marked_and_expire_after_cache_stale_ttl(resilience: Resilience) -> None:
    fresh, stale = 0.3, 1.0
    with another_instance(resilience, CACHE_TTL=str(fresh), CACHE_STALE_TTL=str(stale)) as instance:
        path = instance.client.post("/api/campaigns", json={"name": NAME, "message": "soon stale"}).headers["Location"]

        counted = Counter[tuple[str, str]]()

        def state() -> str:
            read = timed(lambda: instance.client.get(path))
            if read.reply is None:
                pytest.fail(f"a read hangs, or is cut off, after {read.seconds:.1f} s: {read.error!r}")
            if read.status != 200:
                return str(read.status)
            state = read.reply.headers["X-Cache"]
            counted[read.reply.headers["X-Cache-Source"], state] += 1
            return state

        # While Postgres is up, a copy that is no longer fresh is loaded again.
        message = f"a copy is served as fresh for longer than CACHE_TTL={fresh}"
        eventually_or_fail(lambda: state() == "miss", within=fresh + healthy.SLACK, message=message)
        with resilience.postgres.refuse(), resilience.redis.refuse():
            message = f"a copy older than CACHE_TTL={fresh} is served, and not marked as stale"
            eventually_or_fail(lambda: state() == "stale", within=fresh + healthy.SLACK, message=message)
            message = f"a stale copy is served for longer than CACHE_STALE_TTL={stale}"
            eventually_or_fail(lambda: state() == "503", within=stale + healthy.SLACK, message=message)
        values = metrics(instance.client)
        for (source, kind), count in counted.items():
            reported = values[f'service_cache_reads_total{{source="{source}",state="{kind}"}}']
            assert reported == count, f"{count} reads were a {kind} of {source}, and the metrics report {reported:g}"


def test_a_copy_is_fresh_for_exactly_cache_ttl(resilience: Resilience) -> None:
    """Redis keeps a copy for CACHE_STALE_TTL, so its remaining time there gives its age."""
    fresh, kept = (healthy.DEFAULTS[name][0] for name in ("CACHE_TTL", "CACHE_STALE_TTL"))
    campaign = create(resilience)["id"]
    path = f"/api/campaigns/{campaign}"
    wait_until_redis_serves(resilience, path)
    with redis_commands(resilience) as command:
        key = redis_key(command, campaign)
        for age, expected in ((fresh - 3, ("hit", "redis")), (fresh + 1, ("miss", "postgres"))):
            command("PEXPIRE", key, int((kept - age) * 1000))
            reply = resilience.service.get(path)
            found = (reply.headers["X-Cache"], reply.headers["X-Cache-Source"])
            assert found == expected, (
                f"CACHE_TTL is {fresh:g}, and a copy that is {age:g} s old is a {found}, not {expected}"
            )


def test_a_copy_is_kept_for_the_longer_of_its_two_lifetimes(resilience: Resilience) -> None:
    """A CACHE_STALE_TTL below CACHE_TTL limits nothing. A fresh copy needs no Postgres."""
    fresh, stale = 60, 0.3
    settings = {"CACHE_TTL": str(fresh), "CACHE_STALE_TTL": str(stale), "GC_INTERVAL": "0.1"}
    with another_instance(resilience, **settings) as instance, redis_commands(resilience) as command:
        created = instance.client.post("/api/campaigns", json={"name": NAME, "message": "fresh"})
        path = created.headers["Location"]
        eventually(lambda: instance.client.get(path).headers["X-Cache-Source"] == "redis", within=5.0)
        key = redis_key(command, created.json()["id"])
        left = command("PTTL", key) / 1000
        assert left > fresh - 10, f"CACHE_TTL is {fresh}, and Redis keeps a copy for {left:.1f} s"
        time.sleep(2 * stale)  # an age beyond the shorter lifetime
        with resilience.postgres.refuse(), resilience.redis.refuse():
            reply = instance.client.get(path)
            assert reply.status_code == 200, f"CACHE_TTL is {fresh}, and a copy in memory is gone after {2 * stale} s"
            state = reply.headers["X-Cache"]
            assert state == "hit", f"CACHE_TTL is {fresh}, and a copy that is {2 * stale} s old is served as a {state}"


def test_stale_copies_are_served_without_waiting_while_postgres_hangs(resilience: Resilience) -> None:
    """A copy that is good enough after the wait is good enough before it."""
    with another_instance(resilience, CACHE_TTL="0.1", DB_POOL_CHECK_INTERVAL=NO_POOL_CHECKS) as instance:
        path = instance.client.post("/api/campaigns", json={"name": NAME, "message": "stale"}).headers["Location"]
        with resilience.postgres.blackhole():
            wait_until_unready(instance.client, within=5.0)
            reads = [timed(lambda: instance.client.get(path)) for _ in range(3)]
    states = [each.reply.headers.get("X-Cache") if each.reply is not None else None for each in reads]
    assert states == ["stale"] * 3, f"Postgres hangs, and reads are {states}, not stale: {reads}"
    slowest = max(each.seconds for each in reads)
    assert slowest < healthy.ACQUIRE_TIMEOUT, f"a stale copy is served only after {slowest:.1f} s: {reads}"


def test_errors_and_404s_are_not_cached(resilience: Resilience) -> None:
    last = create(resilience)["id"]
    absent, unknown = f"/api/campaigns/{last + 1}", f"/api/campaigns/{last + 2}"
    assert resilience.service.get(absent).status_code == 404
    uncached_campaigns(resilience, 1)  # as another instance would create it
    message = "another instance created a campaign, and reads still get 404: the 404 is cached"
    eventually_or_fail(lambda: resilience.service.get(absent).status_code == 200, within=2.0, message=message)
    assert resilience.service.delete(absent).status_code == 204
    assert resilience.service.get(absent).status_code == 404, "a deleted campaign is still served"

    with resilience.postgres.refuse():
        status = resilience.service.get(unknown).status_code
        assert status == 503, f"without Postgres it is unknown whether a campaign exists: 503, not {status}"
    uncached_campaigns(resilience, 1)
    message = "Postgres is back, and reads still get its error: the error is cached"
    within = healthy.POSTGRES_BACK_WITHIN
    eventually_or_fail(lambda: resilience.service.get(unknown).status_code == 200, within=within, message=message)


def test_concurrent_misses_cause_a_single_load(resilience: Resilience) -> None:
    """Otherwise a popular campaign that falls out of Redis sends all its readers to Postgres at once."""
    (popular,) = uncached_campaigns(resilience, 1)
    before = len(service_sessions(resilience))
    with resilience.postgres.latency(seconds=0.1):
        reads = concurrently([lambda: resilience.service.get(f"/api/campaigns/{popular}")] * healthy.POOL_MAX)
        opened = len(service_sessions(resilience)) - before
    assert [read.status for read in reads] == [200] * healthy.POOL_MAX
    assert opened <= 1, f"{opened} connections for one uncached campaign: each reader loads it for itself"


def test_the_memory_cache_stays_within_its_limits(resilience: Resilience) -> None:
    """With Redis and Postgres down only copies in memory are served, so they can be counted."""
    entries, megabytes = 40, 0.25
    small = uncached_campaigns(resilience, 70, "small")
    large = uncached_campaigns(resilience, 45, LARGEST)
    with another_instance(resilience, CACHE_MAX_ENTRIES=str(entries), CACHE_MAX_MB=str(megabytes)) as instance:

        def held(ids: list[int]) -> int:
            """Read all campaigns and return how many of them are in memory afterwards."""
            for i in ids:
                assert instance.client.get(f"/api/campaigns/{i}").status_code == 200
            with resilience.postgres.refuse():
                statuses = [instance.client.get(f"/api/campaigns/{i}").status_code for i in ids]
            wait_until_ready(instance.client)
            return statuses.count(200)

        with resilience.redis.refuse():
            count = held(small)
            assert count <= entries, f"the memory cache holds {count} entries; CACHE_MAX_ENTRIES allows {entries}"
            assert count >= entries // 2, f"the memory cache holds only {count} entries of {entries} that it may"
            most = int(megabytes * 2**20) // len(LARGEST)
            count = held(large)
            assert count <= most, (
                f"the memory cache holds {count} times {len(LARGEST)} bytes, over CACHE_MAX_MB={megabytes}"
            )
            assert count >= most // 2, f"the memory cache holds only {count} of the {most} that CACHE_MAX_MB allows"


def test_pending_writes_do_not_overwrite_a_newer_version_in_redis(resilience: Resilience) -> None:
    """This instance is cut off from Redis and changes a campaign. Another one changes it later and updates Redis."""
    path = f"/api/campaigns/{create(resilience)['id']}"
    wait_until_redis_serves(resilience, path)
    with another_instance(resilience, REDIS_URL=resilience.redis.direct_url) as replica:
        wait_until_redis_is(replica.client, "up", within=5.0)
        with resilience.redis.refuse():
            assert resilience.service.put(path, json={"message": "second"}).status_code == 200
            assert replica.client.put(path, json={"message": "third"}).status_code == 200
        for each in (replica.client, resilience.service):
            eventually(lambda each=each: each.get(path).headers["X-Cache-Source"] == "redis", within=5.0)
            message = each.get(path).json()["message"]
            assert message == "third", f"an older version ({message}) has overwritten the newer one of another instance"


def mixed_up(ids: list[int], reads: list[TimedReply]) -> list[tuple[int, int]]:
    """Return the requested and the received id of each read that got another campaign."""
    received = [(i, read.reply.json()["id"]) for i, read in zip(ids, reads, strict=True) if read.reply]
    return [(wanted, got) for wanted, got in received if got != wanted]


def test_a_slow_redis_costs_a_read_at_most_one_budget_and_never_mixes_up_replies(resilience: Resilience) -> None:
    """A read that misses uses Redis twice, to look up and to fill. Both must fit in one budget."""
    ids = uncached_campaigns(resilience, 40, "slowly")

    def read_all() -> list[TimedReply]:
        return concurrently([lambda i=i: resilience.service.get(f"/api/campaigns/{i}") for i in ids])

    with resilience.redis.latency(seconds=0.8 * healthy.REDIS_BUDGET):
        one_by_one = [timed(lambda i=i: resilience.service.get(f"/api/campaigns/{i}")) for i in ids[:5]]
        assert [read.status for read in one_by_one] == [200] * 5
        fastest = min(read.seconds for read in one_by_one)
        bound = 1.4 * healthy.REDIS_BUDGET  # two commands of 0.8 each would be 1.6
        assert fastest < bound, (
            f"each read spends {fastest:.2f} s on Redis, more than its budget, {healthy.REDIS_BUDGET} s"
        )
    with resilience.redis.latency(seconds=healthy.REDIS_BUDGET, jitter=0.8 * healthy.REDIS_BUDGET):
        # Replies arrive around the end of the budget: some commands are given up, and their replies arrive later.
        for _ in range(2):
            mixed = mixed_up(ids, read_all())
            assert not mixed, f"readers got another campaign than they requested (requested, got): {mixed}"
    mixed = mixed_up(ids, read_all())
    assert not mixed, f"readers got another campaign than they requested (requested, got): {mixed}"
