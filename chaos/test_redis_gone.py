"""Redis refuses, hangs or flaps, and comes back: no request fails, none waits, nothing stale stays, and Redis is used again."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import pytest

import healthy
from pytest_resilience import Resilience, Stack, Strike, eventually
from workload import (
    CONNECTED,
    REFUSALS_NOT_COUNTED,
    TimedReply,
    assert_one_log_line_per_change,
    concurrently,
    create,
    eventually_or_fail,
    reading,
    redis_commands,
    served_by,
    skip_unless_embedded,
    timed,
)

STATS = "[Memory Stats]"  # a line each MEMORY_STATS_INTERVAL

OUTAGES: dict[str, Callable[[Resilience], Strike]] = {
    "refusing": lambda r: r.redis.refuse(),
    "resetting": lambda r: r.redis.reset(),
    "hanging": lambda r: r.redis.blackhole(),
    "frozen": lambda r: r.redis.pause(),
    "killed": lambda r: r.redis.kill(),
}


def wait_until_redis_serves(resilience: Resilience, path: str) -> None:
    """Wait until a read is answered by Redis again, as promised."""
    within = healthy.REDIS_BACK_WITHIN
    message = f"Redis is back, and after {within:g} s the service still does not use it"
    eventually_or_fail(lambda: served_by(resilience, path) == "redis", within=within, message=message)


def assert_reads_unaffected(reads: list[TimedReply]) -> None:
    """No read fails, none waits longer than the budget; and once Redis is known to be away, none waits at all."""
    failed = [read.status for read in reads if read.status != 200]
    assert not failed, (
        f"{len(failed)} of {len(reads)} reads failed while Redis was away: {sorted(map(str, set(failed)))}"
    )
    slowest = max(read.seconds for read in reads)
    assert slowest < healthy.REDIS_BUDGET + healthy.SLACK, f"a read took {slowest:.2f} s while Redis was away"
    typical = median(read.seconds for read in reads[len(reads) // 2 :])
    assert typical < healthy.FALLBACK_READ_MEDIAN, (
        f"reads still wait for Redis long after it went away: {typical:.3f} s each"
    )


@pytest.mark.parametrize("kind", ["refusing", "hanging"])
def test_reads_survive_two_outages_of_redis_in_a_row(resilience: Resilience, kind: str) -> None:
    """The second outage tells: a client that gave up after the first one looks healthy until then."""
    path = f"/api/campaigns/{create(resilience)['id']}"
    wait_until_redis_serves(resilience, path)

    for number in (1, 2):
        with OUTAGES[kind](resilience):
            reads = [timed(lambda: resilience.service.get(path)) for _ in range(30)]
            assert_reads_unaffected(reads)
            source = reads[-1].reply.headers["X-Cache-Source"] if reads[-1].reply is not None else None
            assert source == "memory", f"the fallback cache does not serve while Redis is away, but {source}"
            ready = resilience.service.get("/readyz")
            assert ready.status_code == 200, (
                f"without Redis the service can serve, but says that it is not ready: {ready.text}"
            )
            assert ready.json()["checks"]["redis"] == "down", f"/readyz does not tell that Redis is away: {ready.text}"
        wait_until_redis_serves(resilience, path)
        assert_one_log_line_per_change(resilience, outages=number)


def test_a_long_outage_of_redis_costs_one_log_line_and_one_prober(
    resilience: Resilience, resilience_stack: Stack
) -> None:
    """Every request that tries Redis for itself adds a connection attempt and a line in the log; only one prober may."""
    skip_unless_embedded(resilience_stack, REFUSALS_NOT_COUNTED)
    path = f"/api/campaigns/{create(resilience)['id']}"
    wait_until_redis_serves(resilience, path)
    with resilience.redis.refuse() as outage, reading(resilience, path, threads=8) as reads:
        eventually(lambda: outage.receipt.last is not None and outage.receipt.last > 1.0, within=5.0)
        assert outage.receipt.touched is not None
        attempts, seconds = outage.receipt.touched, outage.receipt.last or 0.0
    allowed = healthy.MAX_CONNECTS_PER_SECOND * seconds
    assert attempts < allowed, f"{attempts} attempts to reach Redis in {seconds:.1f} s: requests retry for themselves"
    assert_reads_unaffected(reads)
    assert_one_log_line_per_change(resilience, outages=1)

    # Back again: those who come first must not all connect at once, and again and again.
    with redis_commands(resilience) as ask:
        before = ask("INFO", "stats")["total_connections_received"]
        with reading(resilience, path, threads=8) as reads:
            wait_until_redis_serves(resilience, path)
            eventually(lambda: len(reads) > 100, within=5.0)
            # Being well is no news: it is probed a few times meanwhile.
            told = resilience.service.log.count(STATS)
            eventually(
                lambda: resilience.service.log.count(STATS) >= told + 3, within=10 * healthy.MEMORY_STATS_INTERVAL
            )
        connects = ask("INFO", "stats")["total_connections_received"] - before
    assert connects <= healthy.MAX_CONNECTS_ON_RECOVERY, f"a herd of {connects} connections when Redis came back"
    assert_one_log_line_per_change(resilience, outages=1)


def test_successive_outages_of_redis_of_every_kind_are_survived_without_leaks(resilience: Resilience) -> None:
    """A prober that survived one kind of error may die of the next; what each outage leaves behind may add up."""
    paths = [f"/api/campaigns/{create(resilience)['id']}" for _ in range(12)]
    path = paths[0]
    wait_until_redis_serves(resilience, path)
    concurrently([lambda: resilience.service.get("/health")] * len(paths))  # the client keeps its connections open, too
    files = resilience.service.process.num_fds()
    others = ("resetting", "frozen", "killed")
    for kind in others:
        with resilience.redis.latency(seconds=0.2 * healthy.REDIS_BUDGET):  # so that each needs a connection of its own
            concurrently([lambda p=p: resilience.service.get(p) for p in paths])
        with OUTAGES[kind](resilience):
            assert_reads_unaffected([timed(lambda: resilience.service.get(path)) for _ in range(30)])
            eventually(lambda: served_by(resilience, path) == "memory", within=healthy.REDIS_BACK_WITHIN)
            message = f"written while Redis was {kind}"
            assert resilience.service.put(path, json={"message": message}).status_code == 200
        wait_until_redis_serves(resilience, path)
        assert resilience.service.get(path).json()["message"] == message, (
            f"Redis remembers what was before it was {kind}"
        )
    assert_one_log_line_per_change(resilience, outages=len(others))
    left = resilience.service.process.num_fds() - files
    assert left <= 8, f"{left} more open files than before {len(others)} outages: connections are left behind"


def test_writes_during_an_outage_are_not_undone_by_old_values_in_redis(resilience: Resilience) -> None:
    """Redis still holds the old values when it comes back; nobody may be served them, from the first moment on."""
    changed, deleted = (f"/api/campaigns/{create(resilience)['id']}" for _ in range(2))
    for path in (changed, deleted):
        wait_until_redis_serves(resilience, path)
    with resilience.redis.refuse():
        reply = resilience.service.put(changed, json={"message": "the new text"})
        assert reply.status_code == 200, f"a write failed because Redis was away: {reply.status_code} {reply.text}"
        assert resilience.service.get(changed).json()["message"] == "the new text", "a read missed the write before it"
        assert resilience.service.delete(deleted).status_code == 204
        assert resilience.service.get(deleted).status_code == 404, "a deleted campaign is still served"

    def new_text() -> str:
        reply = resilience.service.get(changed)
        assert reply.json()["message"] == "the new text", "an old value came back out of Redis"
        assert resilience.service.get(deleted).status_code == 404, "a deleted campaign came back out of Redis"
        return reply.headers["X-Cache-Source"]

    sources = [new_text()]
    while sources[-1] != "redis" and len(sources) < 500:
        sources.append(new_text())
    wait_until_redis_serves(resilience, changed)
    assert new_text() == "redis"


def test_a_flapping_redis_fails_no_request(resilience: Resilience, resilience_stack: Stack) -> None:
    skip_unless_embedded(resilience_stack, REFUSALS_NOT_COUNTED)
    path = f"/api/campaigns/{create(resilience)['id']}"
    wait_until_redis_serves(resilience, path)
    for number in range(4):
        with resilience.redis.refuse() as flap:
            written = resilience.service.put(path, json={"message": f"text {number}"})
            assert written.status_code == 200
            down = concurrently([lambda: resilience.service.get(path)] * 8)
            eventually(lambda: flap.receipt.touched, within=healthy.REDIS_BACK_WITHIN)  # by a request or by the prober
        up = concurrently([lambda: resilience.service.get(path)] * 8)
        for read in down + up:
            assert read.reply is not None, f"a read got no answer after {read.seconds:.3f} s: {read.error!r}"
            assert read.status == 200
            assert read.reply.json()["message"] == f"text {number}", "a read missed the write before it"
    wait_until_redis_serves(resilience, path)
    assert resilience.service.get(path).json()["message"] == "text 3"


def test_flapping_redis_is_used_again_only_after_a_trial(resilience: Resilience) -> None:
    """A Redis that restarts over and over: to go back to it each time costs a line, a herd and cold reads each time."""
    path = f"/api/campaigns/{create(resilience)['id']}"
    wait_until_redis_serves(resilience, path)
    before = resilience.service.log.count(CONNECTED)
    with resilience.redis.flap(down=0.2, up=0.3), reading(resilience, path) as reads:
        begin = time.monotonic()
        eventually(lambda: time.monotonic() - begin > 3.0 and len(reads) > 30, within=10.0)
        seconds = time.monotonic() - begin
    back = resilience.service.log.count(CONNECTED) - before
    allowed = seconds / 1.0
    assert back <= allowed, f"{back} times back on Redis in {seconds:.1f} s: the service flaps along with it"
    assert_reads_unaffected(reads)
    wait_until_redis_serves(resilience, path)


def test_concurrent_reads_do_not_queue_behind_a_hanging_redis(resilience: Resilience) -> None:
    path = f"/api/campaigns/{create(resilience)['id']}"
    wait_until_redis_serves(resilience, path)
    with resilience.redis.blackhole():
        reads = concurrently([lambda: resilience.service.get(path)] * 40)
        assert [r.status for r in reads] == [200] * 40
        slowest = max(r.seconds for r in reads)
        assert slowest < healthy.REDIS_BUDGET + healthy.SLACK, f"the last of 40 readers waited {slowest:.2f} s"
