"""Redis goes down and comes back. No request fails or waits, no old value is served, and Redis is used again."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from statistics import median

import pytest

import healthy
from pytest_resilience import Resilience, Stack, Strike, eventually
from workload import (
    CONNECTED,
    FELL_BACK,
    REFUSALS_NOT_COUNTED,
    TimedReply,
    assert_one_log_line_per_change,
    concurrently,
    create,
    metric,
    reading,
    redis_commands,
    served_by,
    skip_unless_embedded,
    timed,
    wait_until_redis_serves,
)

REASONS = {"refusing": "Error", "hanging": "no answer"}  # in the log, a part of each
OUTAGES_TOTAL = "service_redis_outages_total"
STATS = "[Memory Stats]"  # a line each MEMORY_STATS_INTERVAL

OUTAGES: dict[str, Callable[[Resilience], Strike]] = {
    "refusing": lambda r: r.redis.refuse(),
    "resetting": lambda r: r.redis.reset(),
    "hanging": lambda r: r.redis.blackhole(),
    "frozen": lambda r: r.redis.pause(),
    "killed": lambda r: r.redis.kill(),
}


def assert_reads_unaffected(reads: list[TimedReply]) -> None:
    """Assert that no read failed or exceeded the Redis budget, and that reads stopped waiting once the outage was noticed."""
    failed = [read.status for read in reads if read.status != 200]
    assert not failed, (
        f"{len(failed)} of {len(reads)} reads failed while Redis was down: {sorted(map(str, set(failed)))}"
    )
    slowest = max(read.seconds for read in reads)
    assert slowest < healthy.REDIS_BUDGET + healthy.SLACK, f"a read took {slowest:.2f} s while Redis was down"
    typical = median(read.seconds for read in reads[len(reads) // 2 :])
    assert typical < healthy.FALLBACK_READ_MEDIAN, (
        f"reads still wait for Redis long after it went down: {typical:.3f} s each"
    )


@pytest.mark.parametrize("kind", ["refusing", "hanging"])
def test_reads_survive_two_outages_of_redis_in_a_row(resilience: Resilience, kind: str) -> None:
    """A client that gives up Redis for good after one outage fails only in the second one."""
    path = f"/api/campaigns/{create(resilience)['id']}"
    wait_until_redis_serves(resilience, path)
    uncounted = resilience.service.log.count(FELL_BACK) - metric(resilience.service, OUTAGES_TOTAL)

    for number in (1, 2):
        with OUTAGES[kind](resilience):
            reads = [timed(lambda: resilience.service.get(path)) for _ in range(30)]
            assert_reads_unaffected(reads)
            source = reads[-1].reply.headers["X-Cache-Source"] if reads[-1].reply is not None else None
            assert source == "memory", f"while Redis is down, reads come from {source}, not from the memory cache"
            ready = resilience.service.get("/readyz")
            assert ready.status_code == 200, (
                f"the service can serve without Redis, and /readyz denies that: {ready.text}"
            )
            state = ready.json()["checks"]["redis"]
            assert state == "down", f"Redis is down, and /readyz reports it as {state}: {ready.text}"
        wait_until_redis_serves(resilience, path)
        assert_one_log_line_per_change(resilience, outages=number)
        counted = metric(resilience.service, OUTAGES_TOTAL)
        logged = resilience.service.log.count(FELL_BACK) - uncounted
        for reason in re.findall(f"{FELL_BACK} (.*)", resilience.service.log)[-number:]:
            assert REASONS[kind] in reason, f"Redis was {kind}, and the log names the reason {reason!r}"
        assert counted == logged, f"the log reports {logged:g} outages of Redis, and the metrics count {counted:g}"


def test_a_long_outage_of_redis_costs_one_log_line_and_one_prober(
    resilience: Resilience, resilience_stack: Stack
) -> None:
    """Only one prober may reconnect. If each request tried, an outage would cause a connection and a log line for each."""
    skip_unless_embedded(resilience_stack, REFUSALS_NOT_COUNTED)
    path = f"/api/campaigns/{create(resilience)['id']}"
    wait_until_redis_serves(resilience, path)
    with resilience.redis.refuse() as outage, reading(resilience, path, threads=8) as reads:
        eventually(lambda: outage.receipt.last is not None and outage.receipt.last > 1.0, within=5.0)
        assert outage.receipt.touched is not None
        attempts, seconds = outage.receipt.touched, outage.receipt.last or 0.0
    allowed = healthy.MAX_CONNECTS_PER_SECOND * seconds
    assert attempts < allowed, (
        f"{attempts} connection attempts to Redis in {seconds:.1f} s, more than {allowed:.0f}: requests retry themselves"
    )
    assert_reads_unaffected(reads)
    assert_one_log_line_per_change(resilience, outages=1)

    # When Redis is back, the first requests must not all open connections.
    with redis_commands(resilience) as command:
        before = command("INFO", "stats")["total_connections_received"]
        with reading(resilience, path, threads=8) as reads:
            wait_until_redis_serves(resilience, path)
            eventually(lambda: len(reads) > 100, within=5.0)
            # The prober checks a healthy Redis a few times in this period, and must log nothing.
            lines = resilience.service.log.count(STATS)
            within = 10 * healthy.MEMORY_STATS_INTERVAL
            eventually(lambda: resilience.service.log.count(STATS) >= lines + 3, within=within)
        connects = command("INFO", "stats")["total_connections_received"] - before
    assert connects <= healthy.MAX_CONNECTS_ON_RECOVERY, (
        f"{connects} connections when Redis came back: a thundering herd"
    )
    assert_one_log_line_per_change(resilience, outages=1)


def test_successive_outages_of_redis_of_every_kind_are_survived_without_leaks(resilience: Resilience) -> None:
    """A prober may survive one kind of error and end with the next, and connections lost in each outage add up."""
    paths = [f"/api/campaigns/{create(resilience)['id']}" for _ in range(12)]
    path = paths[0]
    wait_until_redis_serves(resilience, path)
    concurrently([lambda: resilience.service.get("/health")] * len(paths))  # opens the connections of the HTTP client
    before = resilience.service.process.num_fds()
    kinds = ("resetting", "frozen", "killed")
    for kind in kinds:
        with resilience.redis.latency(seconds=0.2 * healthy.REDIS_BUDGET):  # so that each read needs its own connection
            concurrently([lambda p=p: resilience.service.get(p) for p in paths])
        with OUTAGES[kind](resilience):
            assert_reads_unaffected([timed(lambda: resilience.service.get(path)) for _ in range(30)])
            eventually(lambda: served_by(resilience, path) == "memory", within=healthy.REDIS_BACK_WITHIN)
            message = f"written while Redis was {kind}"
            assert resilience.service.put(path, json={"message": message}).status_code == 200
        wait_until_redis_serves(resilience, path)
        assert resilience.service.get(path).json()["message"] == message, (
            f"Redis serves the value from before it was {kind}"
        )
    assert_one_log_line_per_change(resilience, outages=len(kinds))
    left = resilience.service.process.num_fds() - before
    assert left <= 8, f"{left} more open files than before {len(kinds)} outages: connections are left open"


def test_writes_during_an_outage_are_not_undone_by_old_values_in_redis(resilience: Resilience) -> None:
    """Redis still holds the old values when it comes back, and not even the first read may get them."""
    changed, deleted = (f"/api/campaigns/{create(resilience)['id']}" for _ in range(2))
    for path in (changed, deleted):
        wait_until_redis_serves(resilience, path)
    with resilience.redis.refuse():
        reply = resilience.service.put(changed, json={"message": "the new text"})
        assert reply.status_code == 200, f"a write failed because Redis was down: {reply.status_code} {reply.text}"
        text = resilience.service.get(changed).json()["message"]
        assert text == "the new text", f"a read missed the write before it: {text!r}"
        assert resilience.service.delete(deleted).status_code == 204
        status = resilience.service.get(deleted).status_code
        assert status == 404, f"a read missed the delete before it: {status}, not 404"

    def source_of_new_text() -> str:
        reply = resilience.service.get(changed)
        assert reply.json()["message"] == "the new text", "an old value came back out of Redis"
        assert resilience.service.get(deleted).status_code == 404, "a deleted campaign came back out of Redis"
        return reply.headers["X-Cache-Source"]

    sources = [source_of_new_text()]
    while sources[-1] != "redis" and len(sources) < 500:
        sources.append(source_of_new_text())
    wait_until_redis_serves(resilience, changed)
    assert source_of_new_text() == "redis"


def test_a_flapping_redis_fails_no_request(resilience: Resilience, resilience_stack: Stack) -> None:
    skip_unless_embedded(resilience_stack, REFUSALS_NOT_COUNTED)
    path = f"/api/campaigns/{create(resilience)['id']}"
    wait_until_redis_serves(resilience, path)
    for number in range(4):
        with resilience.redis.refuse() as flap:
            write = resilience.service.put(path, json={"message": f"text {number}"})
            assert write.status_code == 200
            down = concurrently([lambda: resilience.service.get(path)] * 8)
            # A request or the prober has met the outage.
            eventually(lambda: flap.receipt.touched, within=healthy.REDIS_BACK_WITHIN)
        up = concurrently([lambda: resilience.service.get(path)] * 8)
        for read in down + up:
            assert read.reply is not None, f"a read got no reply: {read}"
            assert read.status == 200, f"a read failed while Redis was flapping: {read}"
            assert read.reply.json()["message"] == f"text {number}", "a read missed the write before it"
    wait_until_redis_serves(resilience, path)
    assert resilience.service.get(path).json()["message"] == "text 3"


def test_flapping_redis_is_used_again_only_after_a_trial(resilience: Resilience) -> None:
    """Using a Redis that restarts over and over at once costs a log line, new connections and cold reads each time."""
    path = f"/api/campaigns/{create(resilience)['id']}"
    wait_until_redis_serves(resilience, path)
    before = len(re.findall(CONNECTED, resilience.service.log))
    with resilience.redis.flap(down=0.2, up=0.3), reading(resilience, path) as reads:
        begin = time.monotonic()
        eventually(lambda: time.monotonic() - begin > 3.0 and len(reads) > 30, within=10.0)
        seconds = time.monotonic() - begin
    recoveries = len(re.findall(CONNECTED, resilience.service.log)) - before
    allowed = seconds / 1.0  # one each second
    assert recoveries <= allowed, (
        f"Redis was used again {recoveries} times in {seconds:.1f} s, more than {allowed:.0f}: the service flaps with it"
    )
    assert_reads_unaffected(reads)
    wait_until_redis_serves(resilience, path)


def test_concurrent_reads_do_not_queue_behind_a_hanging_redis(resilience: Resilience) -> None:
    path = f"/api/campaigns/{create(resilience)['id']}"
    wait_until_redis_serves(resilience, path)
    with resilience.redis.blackhole():
        reads = concurrently([lambda: resilience.service.get(path)] * 40)
        assert [read.status for read in reads] == [200] * 40, f"reads failed while Redis was hanging: {reads}"
        slowest = max(read.seconds for read in reads)
        assert slowest < healthy.REDIS_BUDGET + healthy.SLACK, f"the last of 40 readers waited {slowest:.2f} s"
