"""Redis comes back: what it missed reaches it once, in order and with the time it has left, whatever else happens on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

import healthy
from instances import another_instance
from pytest_resilience import Resilience, eventually
from verbs import uncached_campaigns
from workload import FELL_BACK, NAME, create, eventually_or_fail, redis_commands, redis_key

LARGE = "x" * 9_000  # a message that takes a slow network some time
SLOW = 100_000  # bytes per second
LIFETIME = healthy.DEFAULTS["CACHE_STALE_TTL"][0]  # seconds that Redis keeps an entry


def id_of(path: str) -> int:
    return int(path.rpartition("/")[2])


def cached(resilience: Resilience, count: int) -> list[str]:
    """Make campaigns whose first version Redis holds. Return their paths."""
    wait_until_redis_is_used(resilience)
    return [f"/api/campaigns/{create(resilience, 'before')['id']}" for _ in range(count)]


def all_from_redis(client: Any, paths: Iterable[str], wanted: str, *, message: str) -> None:
    """Wait until Redis answers for each path; until then and from then on nothing but what is wanted may be read."""
    for path in paths:
        read: list[str] = []

        def by_redis(path: str = path, read: list[str] = read) -> bool:
            reply = client.get(path)
            read.append(reply.json()["message"] if reply.status_code == 200 else str(reply.status_code))
            return reply.headers.get("X-Cache-Source") == "redis"

        within = healthy.REDIS_BACK_WITHIN
        eventually_or_fail(
            by_redis, within=within, message=f"Redis is back, and after {within:g} s it does not serve {path}"
        )
        wrong = {text[:20] for text in read if text != wanted}
        assert not wrong, f"{message}: {wrong} is read"


def redis_is_up(client: Any) -> bool:
    """True if the service says that it uses Redis, and is as well as before."""
    told = client.get("/readyz").json()
    return bool((told["status"], told["checks"]["redis"]) == ("ready", "up"))


def change(resilience: Resilience, paths: Iterable[str], message: str) -> None:
    for path in paths:
        reply = resilience.service.put(path, json={"message": message})
        assert reply.status_code == 200, f"a write failed because Redis was away: {reply.status_code}"


def test_an_outage_during_the_delivery_of_pending_writes_loses_none_of_them(resilience: Resilience) -> None:
    """Redis is back and goes away again in the middle of what it is told: the rest must be told again."""
    paths = cached(resilience, 24)
    after = f"after {LARGE}"
    with resilience.redis.bandwidth(bytes_per_s=SLOW) as slow:
        with resilience.redis.refuse():
            change(resilience, paths, after)
        told = slow.receipt.touched or 0
        eventually_or_fail(
            lambda: (slow.receipt.touched or 0) > told + len(LARGE),
            within=5.0,
            message="Redis is back, and is told nothing of what it missed",
        )
        with resilience.redis.refuse() as again:
            eventually(lambda: again.receipt.touched, within=healthy.REDIS_BACK_WITHIN)
    all_from_redis(
        resilience.service,
        paths,
        after,
        message="Redis went away while it was told what it had missed, and it was lost",
    )


def test_a_write_during_the_delivery_of_pending_writes_is_delivered_too(resilience: Resilience) -> None:
    """A batch is on its way, and one of its campaigns changes again: what is settled then is the older write, not the newer."""
    paths = cached(resilience, 6)
    with resilience.redis.bandwidth(bytes_per_s=SLOW) as slow:
        with resilience.redis.refuse():
            change(resilience, paths, LARGE)
        told = slow.receipt.touched or 0
        eventually_or_fail(
            lambda: (slow.receipt.touched or 0) > told + len(LARGE) // 4,
            within=5.0,
            message="Redis is back, and is told nothing of what it missed",
        )
        change(resilience, paths, "the newest")
    all_from_redis(
        resilience.service,
        paths,
        "the newest",
        message="a write that came during the delivery was taken for delivered",
    )


def test_a_delivered_copy_expires_as_if_redis_had_been_up(resilience: Resilience) -> None:
    """Copies grow old from the moment in which they were true, not from the moment in which Redis heard of them."""
    changed, deleted = cached(resilience, 2)
    with redis_commands(resilience) as ask:

        def left(path: str) -> float:
            """Seconds that Redis will keep its entry for a campaign."""
            milliseconds: int = ask("PTTL", redis_key(ask, id_of(path)))
            assert milliseconds > 0, f"Redis keeps {path} for ever, or has nothing about it: PTTL {milliseconds}"
            return milliseconds / 1000

        assert left(changed) > LIFETIME - 30, f"Redis forgets a new copy in {left(changed):.1f} s, not in {LIFETIME:g}"
        with resilience.redis.refuse():
            before = time.monotonic()
            change(resilience, [changed], "after")
            written = time.monotonic()
            assert resilience.service.delete(deleted).status_code == 204
            eventually(lambda: time.monotonic() - written > 0.7, within=5.0)
        all_from_redis(resilience.service, [changed], "after", message="Redis was not told what it missed")
        now = time.monotonic()
        lives, most = left(changed), LIFETIME - (now - written)
        assert lives < most + 0.1, (
            f"a copy that is {now - written:.1f} s old is delivered to Redis to live for {lives:.1f} s from now, not"
            f" {most:.1f}: it is as good as new again"
        )
        least = LIFETIME - (time.monotonic() - before) - 1
        assert lives > least, f"what was delivered to Redis lives for {lives:.1f} s, and should for {least:.1f}"
        mark = left(deleted)
        assert LIFETIME - 30 < mark <= LIFETIME, (
            f"Redis keeps the mark of a deleted campaign for {mark:.1f} s; an older copy may come for {LIFETIME:g} s"
        )


def test_pending_writes_of_one_instance_do_not_undo_deletes_of_another(resilience: Resilience) -> None:
    """This instance is cut off from Redis, the other one is not; each deletes what the other has changed."""
    deleted_there, deleted_here, both = cached(resilience, 3)
    with another_instance(resilience, REDIS_URL=resilience.redis.direct_url) as replica:
        eventually(lambda: redis_is_up(replica.client), within=5.0)
        for path in (deleted_there, deleted_here, both):
            assert replica.client.get(path).status_code == 200
        with resilience.redis.refuse():
            change(resilience, [deleted_there], "changed here")
            assert replica.client.delete(deleted_there).status_code == 204
            assert replica.client.put(deleted_here, json={"message": "changed there"}).status_code == 200
            assert resilience.service.delete(deleted_here).status_code == 204
            assert resilience.service.delete(both).status_code == 204
            assert replica.client.delete(both).status_code == 404
        wait_until_redis_is_used(resilience)
        instances: dict[str, Any] = {
            "the instance that was cut off": resilience.service,
            "the other one": replica.client,
        }
        for path, where in (deleted_there, "by the other instance"), (deleted_here, "by the one that was cut off"):
            for who, client in instances.items():
                for _ in range(3):  # the first may ask Postgres, and what it caches is seen by the next
                    reply = client.get(path)
                    assert reply.status_code == 404, (
                        f"a campaign was deleted {where} while Redis was away for one of them, and {who} serves it"
                        f" from {reply.headers.get('X-Cache-Source')}"
                    )


def wait_until_redis_is_used(resilience: Resilience) -> None:
    """Wait until the service uses Redis again, as /readyz tells it."""
    within = healthy.REDIS_BACK_WITHIN
    message = f"Redis is back, and after {within:g} s the service still does not use it"
    eventually_or_fail(lambda: redis_is_up(resilience.service), within=within, message=message)


def test_overflowing_pending_writes_invalidate_every_copy_in_redis(resilience: Resilience) -> None:
    """Beyond its bound the list of what Redis missed is worth nothing: every copy in Redis must go then, even if that fails at first,
    and wherever it is among the keys of others."""
    with another_instance(resilience, CACHE_MAX_PENDING_WRITES="3") as instance, redis_commands(resilience) as ask:
        eventually(lambda: redis_is_up(instance.client), within=5.0)
        made = [instance.client.post("/api/campaigns", json={"name": NAME, "message": "before"}) for _ in range(12)]
        *changed, deleted = [reply.headers["Location"] for reply in made]
        ask("EVAL", "for i = 1, 3000 do redis.call('SET', 'another application:' .. i, 'kept') end", 0)
        with resilience.redis.limit_data(bytes=30) as limited:
            with resilience.redis.refuse():
                for path in changed:
                    assert instance.client.put(path, json={"message": "after"}).status_code == 200
                assert instance.client.delete(deleted).status_code == 204
            # A probe's answer passes, and the name of a copy to delete does not.
            eventually(lambda: limited.receipt.touched or redis_is_up(instance.client), within=5.0)
        all_from_redis(
            instance.client,
            changed,
            "after",
            message="more was written than can be remembered, and an old copy came back",
        )
        reply = instance.client.get(deleted)
        assert reply.status_code == 404, "more was written than can be remembered, and a deleted campaign came back"
        kept = len(ask("KEYS", "another application:*"))
        assert kept == 3000, (
            f"the copies of campaigns were deleted from Redis, and with them {3000 - kept} keys of others"
        )


def test_pending_writes_evicted_from_memory_invalidate_the_old_copies_in_redis(resilience: Resilience) -> None:
    """More was changed during the outage than memory holds, and than one batch: Redis cannot be told what is new, but must not
    tell what is old."""
    with another_instance(resilience, CACHE_MAX_ENTRIES="2") as instance, redis_commands(resilience) as ask:
        eventually(lambda: redis_is_up(instance.client), within=5.0)
        paths = [f"/api/campaigns/{i}" for i in uncached_campaigns(resilience, 110)]
        every(instance.client.get, paths)  # into Redis
        assert all(redis_key(ask, id_of(path)) for path in paths[::10])
        with resilience.redis.refuse():
            every(lambda path: instance.client.put(path, json={"message": "after"}), paths)
        eventually(lambda: redis_is_up(instance.client), within=healthy.REDIS_BACK_WITHIN)
        old = {reply.json()["message"] for reply in every(instance.client.get, paths)} - {"after"}
        assert not old, f"a change that memory had let go of was never told to Redis: {old} is read"


def every(ask: Callable[[str], httpx.Response], paths: list[str]) -> list[httpx.Response]:
    """Ask for each path, a few at once; each must succeed."""
    with ThreadPoolExecutor(4) as threads:
        replies = list(threads.map(ask, paths))
    assert {reply.status_code for reply in replies} == {200}
    return replies


def test_redis_connections_closed_while_idle_are_not_an_outage(resilience: Resilience) -> None:
    """A firewall or a failover resets them; the next command notices, connects again, and nobody hears of it."""
    (path,) = cached(resilience, 1)
    fell = told = 0
    for _ in range(3):  # a probe that comes just then finds Redis away, and is right
        told = resilience.service.log.count(FELL_BACK)
        with resilience.redis.reset():
            pass
        source = resilience.service.get(path).headers["X-Cache-Source"]
        fell = resilience.service.log.count(FELL_BACK) - told
        if not fell and source == "redis":
            break
        wait_until_redis_is_used(resilience)
    assert not fell, "connections were cut while nobody used them, and the next request takes it for an outage of Redis"
    assert source == "redis", f"connections were cut while nobody used them, and {source} serves the next request"


def test_a_foreign_value_under_a_campaign_key_disables_caching_of_that_campaign_only(
    resilience: Resilience,
) -> None:
    """Neither a read nor the delivery may give up on Redis for it, or one bad key keeps the service off Redis for ever."""
    values: dict[str, Callable[[Any, bytes], object]] = {
        "a list": lambda ask, name: ask("LPUSH", name, "not a campaign"),
        "a text": lambda ask, name: ask("SET", name, "not a campaign", "PX", 600_000),
        "numbers": lambda ask, name: ask("SET", name, "1 2", "PX", 600_000),
    }
    *paths, well = cached(resilience, len(values) + 1)
    down = resilience.service.log.count(FELL_BACK)
    with redis_commands(resilience) as ask:
        names = [redis_key(ask, id_of(path)) for path in paths]

        def spoil_all() -> None:
            for name, spoil in zip(names, values.values(), strict=True):
                ask("DEL", name)
                spoil(ask, name)

        spoil_all()
        for what, path in zip(values, paths, strict=True):
            reply = resilience.service.get(path)
            assert reply.status_code == 200, (
                f"Redis holds {what} under a campaign's name, and a read gets {reply.status_code}"
            )
            assert reply.json()["message"] == "before"
        fell = resilience.service.log.count(FELL_BACK) - down
        assert not fell, "a value of others under one of our names was taken for an outage of Redis"
        with resilience.redis.refuse():
            change(resilience, [*paths, well], "after")
            spoil_all()
        wait_until_redis_is_used(resilience)
        all_from_redis(resilience.service, [well], "after", message="Redis was not told what it missed")
        for path in paths:
            assert resilience.service.get(path).json()["message"] == "after"


def test_pending_writes_lost_at_shutdown_leave_old_copies_for_at_most_cache_ttl(
    resilience: Resilience,
) -> None:
    """Nobody is left who knows what Redis missed; but each copy there knows its age. What the next process writes is told."""
    fresh = 1.5  # seconds
    with another_instance(resilience, CACHE_TTL=str(fresh)) as first:
        eventually(lambda: redis_is_up(first.client), within=5.0)
        made = [first.client.post("/api/campaigns", json={"name": NAME, "message": "before"}) for _ in range(2)]
        by_first, by_second = (reply.headers["Location"] for reply in made)
        outage = resilience.redis.refuse()
        assert first.client.put(by_first, json={"message": "after"}).status_code == 200
        first.process.terminate()
        within = healthy.SHUTDOWN_GRACE + healthy.SLACK
        eventually_or_fail(
            first.has_exited, within=within, message=f"told to stop while Redis is away, it runs on for {within:g} s"
        )
    with another_instance(resilience, CACHE_TTL=str(fresh)) as second, outage, redis_commands(resilience) as ask:
        assert second.client.put(by_second, json={"message": "after"}).status_code == 200
        ask("PEXPIRE", redis_key(ask, id_of(by_second)), int(1000 * LIFETIME))  # as good as new, however long it took
        outage.heal()
        eventually(lambda: redis_is_up(second.client), within=healthy.REDIS_BACK_WITHIN)
        text = second.client.get(by_second).json()["message"]
        assert text == "after", f"written before Redis was there for the first time, and not told to it: {text} is read"
        eventually_or_fail(
            lambda: second.client.get(by_first).json()["message"] == "after",
            within=fresh + healthy.SLACK,
            message=f"the instance that wrote is gone, and Redis' old copy is served for longer than CACHE_TTL={fresh:g}",
        )
