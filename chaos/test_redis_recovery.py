"""Redis recovers. It gets the pending writes once, in order and with their remaining lifetime, whatever happens in between."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

import healthy
from instances import another_instance
from pytest_resilience import Resilience, Strike, eventually
from verbs import uncached_campaigns
from workload import FELL_BACK, NAME, create, eventually_or_fail, redis_commands, redis_key

LARGE = "x" * 9_000  # a message that takes a slow network some time
SLOW = 100_000  # bytes per second
LIFETIME = healthy.DEFAULTS["CACHE_STALE_TTL"][0]  # seconds that Redis keeps an entry


def id_of(path: str) -> int:
    """Return the id in the path of a campaign."""
    return int(path.rpartition("/")[2])


def redis_is_used(client: Any) -> bool:
    """True if /readyz reports that the service is ready and uses Redis."""
    body = client.get("/readyz").json()
    return bool((body["status"], body["checks"]["redis"]) == ("ready", "up"))


def wait_until_redis_is_used(resilience: Resilience) -> None:
    """Wait until the service uses Redis again, as promised after an outage."""
    within = healthy.REDIS_BACK_WITHIN
    message = f"Redis is back, and after {within:g} s the service still does not use it"
    eventually_or_fail(lambda: redis_is_used(resilience.service), within=within, message=message)


def campaigns_in_redis(resilience: Resilience, count: int) -> list[str]:
    """Create campaigns whose first version Redis holds, and return their paths."""
    wait_until_redis_is_used(resilience)
    return [f"/api/campaigns/{create(resilience, 'before')['id']}" for _ in range(count)]


def put_all(client: Any, paths: Iterable[str], message: str) -> None:
    """Change the message of campaigns, one after the other, while Redis is down."""
    for path in paths:
        status = client.put(path, json={"message": message}).status_code
        assert status == 200, f"Redis is down, and a write gets {status}, not 200"


def assert_redis_serves(client: Any, paths: Iterable[str], expected: str, *, message: str) -> None:
    """Wait until Redis serves each path, and assert that all reads until then get the expected text.

    Args:
        client: an `httpx.Client` of an instance, or `resilience.service`.
        paths: of campaigns.
        expected: the text of each campaign.
        message: the meaning of any other text.
    """
    for path in paths:
        texts: list[str] = []

        def served_by_redis(path: str = path, texts: list[str] = texts) -> bool:
            reply = client.get(path)
            texts.append(reply.json()["message"] if reply.status_code == 200 else str(reply.status_code))
            return reply.headers.get("X-Cache-Source") == "redis"

        within = healthy.REDIS_BACK_WITHIN
        unused = f"Redis is back, and after {within:g} s it does not serve {path}"
        eventually_or_fail(served_by_redis, within=within, message=unused)
        wrong = {text[:20] for text in texts if text != expected}
        assert not wrong, f"{message}: reads get {wrong}, not {expected[:20]!r}"


def wait_for_delivery(slow: Strike, *, more_bytes: int) -> None:
    """Wait until a slow Redis has received a part of the pending writes."""
    before = slow.receipt.touched or 0
    eventually_or_fail(
        lambda: (slow.receipt.touched or 0) > before + more_bytes,
        within=5.0,
        message="Redis is back, and gets none of the pending writes",
    )


def test_an_outage_during_the_delivery_of_pending_writes_loses_none_of_them(resilience: Resilience) -> None:
    """Redis goes down again in the middle of the delivery, so the rest must be delivered later.

    Redis itself must have it: this instance compares a copy with its own last write, and other instances do not.
    """
    paths = campaigns_in_redis(resilience, 24)
    after = f"after {LARGE}"
    message = "Redis went down during the delivery of a pending write, and the write was lost"
    with redis_commands(resilience) as command:
        keys = [redis_key(command, id_of(path)) for path in paths]
        with resilience.redis.bandwidth(bytes_per_s=SLOW // 2) as slow:  # 4 s, so that a busy machine cuts them off too
            with resilience.redis.refuse():
                put_all(resilience.service, paths, after)
            wait_for_delivery(slow, more_bytes=len(LARGE))
            with resilience.redis.refuse() as again:
                eventually(lambda: again.receipt.touched, within=healthy.REDIS_BACK_WITHIN)
        eventually_or_fail(
            lambda: all(after.encode() in value for value in command("MGET", *keys)),
            within=healthy.REDIS_BACK_WITHIN,
            message=message,
        )
    assert_redis_serves(resilience.service, paths, after, message=message)


def test_a_write_during_the_delivery_of_pending_writes_is_delivered_too(resilience: Resilience) -> None:
    """A campaign changes again while a batch with its older version is sent. The newer version must remain pending."""
    paths = campaigns_in_redis(resilience, 6)
    with resilience.redis.bandwidth(bytes_per_s=SLOW) as slow:
        with resilience.redis.refuse():
            put_all(resilience.service, paths, LARGE)
        wait_for_delivery(slow, more_bytes=len(LARGE) // 4)
        put_all(resilience.service, paths, "the newest")
    message = "a write during the delivery was taken for delivered"
    assert_redis_serves(resilience.service, paths, "the newest", message=message)


def test_a_delivered_copy_expires_as_if_redis_had_been_up(resilience: Resilience) -> None:
    """The age of a copy counts from its write in Postgres, not from its delivery."""
    changed, deleted = campaigns_in_redis(resilience, 2)
    with redis_commands(resilience) as command:

        def lifetime(path: str) -> float:
            """Return the seconds that Redis will keep its entry for a campaign."""
            milliseconds: int = command("PTTL", redis_key(command, id_of(path)))
            assert milliseconds > 0, f"Redis keeps {path} without expiry, or not at all: PTTL {milliseconds}"
            return milliseconds / 1000

        new = lifetime(changed)
        assert new > LIFETIME - 30, f"Redis drops a new copy after {new:.1f} s, not after {LIFETIME:g}"
        with resilience.redis.refuse():
            before = time.monotonic()
            put_all(resilience.service, [changed], "after")
            written = time.monotonic()
            assert resilience.service.delete(deleted).status_code == 204
            time.sleep(0.7)  # an age that shows in the lifetime
        message = "Redis did not get a pending write"
        assert_redis_serves(resilience.service, [changed], "after", message=message)
        age = time.monotonic() - written
        left = lifetime(changed)
        assert left < LIFETIME - age + 0.1, (
            f"a copy that is {age:.1f} s old is delivered to Redis with a lifetime of {left:.1f} s, not"
            f" {LIFETIME - age:.1f}: it counts as new again"
        )
        least = LIFETIME - (time.monotonic() - before) - 1
        assert left > least, f"a delivered copy has a lifetime of {left:.1f} s, not {least:.1f} or more"
        tombstone = lifetime(deleted)
        assert LIFETIME - 30 < tombstone <= LIFETIME, (
            f"Redis keeps the tombstone of a deleted campaign for {tombstone:.1f} s; an older copy may arrive for"
            f" {LIFETIME:g} s"
        )


def test_pending_writes_of_one_instance_do_not_undo_deletes_of_another(resilience: Resilience) -> None:
    """One instance is cut off from Redis, the other is not, and each deletes a campaign that the other has changed."""
    deleted_by_other, deleted_by_cut_off, by_both = campaigns_in_redis(resilience, 3)
    with another_instance(resilience, REDIS_URL=resilience.redis.direct_url) as replica:
        eventually(lambda: redis_is_used(replica.client), within=5.0)
        for path in (deleted_by_other, deleted_by_cut_off, by_both):
            assert replica.client.get(path).status_code == 200
        with resilience.redis.refuse():
            put_all(resilience.service, [deleted_by_other], "changed by the instance that is cut off")
            assert replica.client.delete(deleted_by_other).status_code == 204
            put_all(replica.client, [deleted_by_cut_off], "changed by the other instance")
            assert resilience.service.delete(deleted_by_cut_off).status_code == 204
            assert resilience.service.delete(by_both).status_code == 204
            assert replica.client.delete(by_both).status_code == 404
        wait_until_redis_is_used(resilience)
        cut_off, other = "the instance that was cut off", "the other instance"
        clients: dict[str, Any] = {cut_off: resilience.service, other: replica.client}
        for path, deleter in (deleted_by_other, other), (deleted_by_cut_off, cut_off):
            for name, client in clients.items():
                for _ in range(3):  # the first read may load from Postgres, and its cached result shows in the next
                    reply = client.get(path)
                    assert reply.status_code == 404, (
                        f"{deleter} deleted a campaign while Redis was down for one of them, and {name} serves it from"
                        f" {reply.headers.get('X-Cache-Source')}"
                    )


def test_overflowing_pending_writes_invalidate_every_copy_in_redis(resilience: Resilience) -> None:
    """Every copy in Redis is doubtful and must be deleted once the list of pending writes overflows.

    The deletion is retried if it fails at first, and finds the copies among the keys of other applications.
    """
    with another_instance(resilience, CACHE_MAX_PENDING_WRITES="3") as instance, redis_commands(resilience) as command:
        eventually(lambda: redis_is_used(instance.client), within=5.0)
        created = [instance.client.post("/api/campaigns", json={"name": NAME, "message": "before"}) for _ in range(12)]
        *changed, deleted = [reply.headers["Location"] for reply in created]
        other = changed[3]
        eventually(lambda: instance.client.get(other).headers["X-Cache-Source"] == "redis", within=5.0)
        kept = redis_key(command, id_of(other))
        with resilience.redis.refuse():
            put_all(instance.client, changed[:3], "just as many as are remembered")
        eventually(lambda: redis_is_used(instance.client), within=healthy.REDIS_BACK_WITHIN)
        assert command("EXISTS", kept), (
            "CACHE_MAX_PENDING_WRITES is 3, three campaigns were changed, and the copy of another one was deleted"
        )
        command("EVAL", "for i = 1, 3000 do redis.call('SET', 'another application:' .. i, 'kept') end", 0)
        with resilience.redis.limit_data(bytes=30) as limited:
            with resilience.redis.refuse():
                put_all(instance.client, changed, "after")
                assert instance.client.delete(deleted).status_code == 204
            # 30 bytes are enough for the reply to a probe, and not for the key of a copy.
            eventually(lambda: limited.receipt.touched or redis_is_used(instance.client), within=5.0)
        message = "the list of pending writes overflowed, and an old copy came back"
        assert_redis_serves(instance.client, changed, "after", message=message)
        status = instance.client.get(deleted).status_code
        assert status == 404, f"the list of pending writes overflowed, and a deleted campaign came back: {status}"
        others = len(command("KEYS", "another application:*"))
        assert others == 3000, (
            f"the copies in Redis were deleted, and with them {3000 - others} keys of other applications"
        )


def test_pending_writes_evicted_from_memory_invalidate_the_old_copies_in_redis(resilience: Resilience) -> None:
    """More campaigns change during an outage than memory holds, and more than one batch delivers.

    Redis cannot get their new versions, but must not serve the old ones.
    """
    with another_instance(resilience, CACHE_MAX_ENTRIES="2") as instance, redis_commands(resilience) as command:
        eventually(lambda: redis_is_used(instance.client), within=5.0)
        paths = [f"/api/campaigns/{i}" for i in uncached_campaigns(resilience, 110)]
        first_and_last = [*paths[:15], *paths[-15:]]  # in the first batch of 100 and in the second, in either order

        def all_in_redis() -> bool:
            send_all(
                instance.client.get, first_and_last
            )  # a busy machine may exceed the budget of a read's write to Redis
            keys = b"\n".join(command("KEYS", "*"))
            return all(re.search(rb"\D%d$" % id_of(path), keys, re.MULTILINE) for path in first_and_last)

        eventually_or_fail(all_in_redis, within=5.0, message="Redis is up, and reads do not fill it")
        with resilience.redis.refuse():
            send_all(lambda path: instance.client.put(path, json={"message": "after"}), paths)
        eventually(lambda: redis_is_used(instance.client), within=healthy.REDIS_BACK_WITHIN)
        old = {reply.json()["message"] for reply in send_all(instance.client.get, first_and_last)} - {"after"}
        assert not old, f"a pending write that memory had evicted never invalidated its copy in Redis: reads get {old}"


def send_all(send: Callable[[str], httpx.Response], paths: list[str]) -> list[httpx.Response]:
    """Send a request for each path, four at a time, and assert that each succeeds."""
    with ThreadPoolExecutor(4) as threads:
        replies = list(threads.map(send, paths))
    statuses = {reply.status_code for reply in replies}
    assert statuses == {200}, f"requests for {len(paths)} campaigns get {statuses}, not 200"
    return replies


def test_redis_connections_closed_while_idle_are_not_an_outage(resilience: Resilience) -> None:
    """A firewall or a failover resets idle connections. The next command notices that and reconnects without an error."""
    (path,) = campaigns_in_redis(resilience, 1)
    fallbacks, source = 0, ""
    for _ in range(3):  # a probe during the reset finds Redis down, and is right
        before = resilience.service.log.count(FELL_BACK)
        with resilience.redis.reset():
            pass
        source = resilience.service.get(path).headers["X-Cache-Source"]
        fallbacks = resilience.service.log.count(FELL_BACK) - before
        if not fallbacks and source == "redis":
            break
        wait_until_redis_is_used(resilience)
    assert not fallbacks, "idle connections to Redis were closed, and the next request treats that as an outage"
    assert source == "redis", f"idle connections to Redis were closed, and {source} serves the next request, not redis"


FOREIGN_VALUES: dict[str, Callable[[Any, bytes], object]] = {
    "a list": lambda command, key: command("LPUSH", key, "not a campaign"),
    "a text": lambda command, key: command("SET", key, "not a campaign", "PX", 600_000),
    "numbers": lambda command, key: command("SET", key, "1 2", "PX", 600_000),
}


def test_a_foreign_value_under_a_campaign_key_disables_caching_of_that_campaign_only(resilience: Resilience) -> None:
    """Neither a read nor a delivery may give up Redis for one bad key. Otherwise the service would never use Redis again."""
    *paths, intact = campaigns_in_redis(resilience, len(FOREIGN_VALUES) + 1)
    before = resilience.service.log.count(FELL_BACK)
    with redis_commands(resilience) as command:
        keys = [redis_key(command, id_of(path)) for path in paths]

        def replace_values() -> None:
            for key, replace in zip(keys, FOREIGN_VALUES.values(), strict=True):
                command("DEL", key)
                replace(command, key)

        replace_values()
        for value, path in zip(FOREIGN_VALUES, paths, strict=True):
            reply = resilience.service.get(path)
            assert reply.status_code == 200, (
                f"Redis holds {value} under a campaign's key, and a read gets {reply.status_code}, not 200"
            )
            assert reply.json()["message"] == "before"
        fallbacks = resilience.service.log.count(FELL_BACK) - before
        assert not fallbacks, "a foreign value under a campaign's key was treated as an outage of Redis"
        with resilience.redis.refuse():
            put_all(resilience.service, [*paths, intact], "after")
            replace_values()
        wait_until_redis_is_used(resilience)
        message = "one key has a foreign value, and Redis did not get the pending write of another one"
        assert_redis_serves(resilience.service, [intact], "after", message=message)
        for path in paths:
            assert resilience.service.get(path).json()["message"] == "after"


def test_pending_writes_lost_at_shutdown_leave_old_copies_for_at_most_cache_ttl(resilience: Resilience) -> None:
    """The list of pending writes ends with its process, but each copy in Redis has an age. The next process has its own list."""
    fresh, grace = 1.5, 2.0  # seconds
    with another_instance(resilience, CACHE_TTL=str(fresh), SHUTDOWN_GRACE=str(grace)) as first:
        eventually(lambda: redis_is_used(first.client), within=5.0)
        created = [first.client.post("/api/campaigns", json={"name": NAME, "message": "before"}) for _ in range(2)]
        by_first, by_second = (reply.headers["Location"] for reply in created)
        outage = resilience.redis.refuse()
        put_all(first.client, [by_first], "after")
        first.process.signal(signal.SIGTERM)
        within = grace + healthy.SLACK
        message = f"SIGTERM while Redis is down: the service still runs after {within:g} s"
        eventually_or_fail(first.has_exited, within=within, message=message)
    with another_instance(resilience, CACHE_TTL=str(fresh)) as second, outage, redis_commands(resilience) as command:
        put_all(second.client, [by_second], "after")
        # The copy counts as new, no matter how long the steps before took.
        command("PEXPIRE", redis_key(command, id_of(by_second)), int(1000 * LIFETIME))
        outage.heal()
        eventually(lambda: redis_is_used(second.client), within=healthy.REDIS_BACK_WITHIN)
        text = second.client.get(by_second).json()["message"]
        assert text == "after", f"a write before Redis was first up was not delivered to it: a read gets {text!r}"
        eventually_or_fail(
            lambda: second.client.get(by_first).json()["message"] == "after",
            within=fresh + healthy.SLACK,
            message=f"the instance that wrote is gone, and Redis' old copy is served for longer than CACHE_TTL={fresh:g}",
        )


def test_a_redis_that_restarts_from_an_older_snapshot_undoes_no_write(resilience: Resilience) -> None:
    """Redis takes writes and acknowledges them, and comes back without them."""
    changed, deleted = campaigns_in_redis(resilience, 2)
    with redis_commands(resilience) as command:
        keys = [redis_key(command, id_of(path)) for path in (changed, deleted)]
        values = {key: command("GET", key) for key in keys}
        put_all(resilience.service, [changed], "after")
        assert resilience.service.delete(deleted).status_code == 204
        for key, value in values.items():
            command("SET", key, value, "EX", int(float(LIFETIME)))
    message = resilience.service.get(changed).json()["message"]
    assert message == "after", (
        f"Redis has lost an acknowledged write, and a read gets {message!r}: older than the write"
    )
    status = resilience.service.get(deleted).status_code
    assert status == 404, f"Redis has lost a deletion, and a read gets {status}: the campaign is back"
    assert_redis_serves(resilience.service, [changed], "after", message="Redis does not get the lost write again")
