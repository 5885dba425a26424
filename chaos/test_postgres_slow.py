"""The pool starves and recovers: the whole story of the night when 20 connections were 94 % used.

Somebody holds a lock that every statement needs. The service's own connections pile up behind it. Whoever comes later must be told
quickly that there is none left; the operators must be told once; the health endpoint must not notice; and afterwards the pool must be
as good as before, all of it.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import healthy
from pytest_resilience import Resilience, eventually, recovers
from workload import (
    MESSAGE,
    NAME,
    TimedReply,
    assert_full_capacity,
    assert_unavailable,
    concurrently,
    create,
    eventually_or_fail,
    service_sessions,
    sessions_waiting_for_lock,
    timed,
)

ALERT = "ALERT: CRITICAL - database_pool_exhausted"
VALUE = re.compile(r"Database connection pool usage has exceeded 90%\. Current value: (\d+\.\d\d), Threshold: 90")


def writes(resilience: Resilience, how_many: int) -> list[TimedReply]:
    """So many new campaigns at once."""
    return concurrently(
        [lambda: resilience.service.post("/api/campaigns", json={"name": NAME, "message": MESSAGE})] * how_many
    )


def test_a_starved_pool_gives_timely_503s_and_one_alert_and_recovers_to_full_capacity(resilience: Resilience) -> None:
    create(resilience)

    with resilience.postgres.starve(lock="campaigns") as starved:
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(writes, resilience, healthy.POOL_MAX + 10)
            eventually(lambda: starved.receipt.touched >= healthy.POOL_MAX, within=healthy.ACQUIRE_TIMEOUT)
            asked = [
                timed(lambda path=path: resilience.service.get(path)) for path in ("/health", "/livez", "/readyz") * 20
            ]
            replies = waiting.result()
        slow = [
            f"{each.seconds:.2f}" for each in asked if each.seconds > healthy.ACQUIRE_TIMEOUT / 2 or each.reply is None
        ]
        assert not slow, f"a health route waits for the pool, like everybody: {slow} s"

        # Those that got a connection are ended by the command's limit, the others by the limit on waiting for a connection.
        assert_unavailable(replies)
        message = "requests were answered long ago, and their statements still wait in Postgres"
        eventually_or_fail(lambda: not sessions_waiting_for_lock(resilience), within=healthy.SLACK, message=message)
        most = starved.receipt.touched
        assert most == healthy.POOL_MAX, (
            f"{most} connections at once; the pool has {healthy.POOL_MAX}, and not one more or less"
        )
        quickest = sorted(r.seconds for r in replies)[:10]
        late = healthy.ACQUIRE_TIMEOUT + healthy.SLACK
        assert quickest[-1] < late, f"who finds the pool exhausted hears it after {quickest[-1]:.2f} s"
        slowest = max(r.seconds for r in replies)
        bound = healthy.ACQUIRE_TIMEOUT + healthy.COMMAND_TIMEOUT + healthy.ACQUIRE_TIMEOUT + healthy.SLACK
        assert slowest < bound, f"a request took {slowest:.2f} s"

        message = "the pool is full, and no alert was raised"
        eventually_or_fail(
            lambda: ALERT in resilience.service.log, within=3 * healthy.POOL_CHECK_INTERVAL, message=message
        )
        assert len(service_sessions(resilience)) <= healthy.POOL_MAX
    values = [float(value) for value in VALUE.findall(resilience.service.log)]
    assert len(values) == resilience.service.log.count(ALERT) == 1, f"one alert for one episode, not {len(values)}"
    assert values[0] <= 100, f"{values[0]} % of a pool: who waits for a connection uses none"
    assert 90 < values[0] <= 100, "the alert must tell the truth"

    assert_full_capacity(resilience)


def test_a_server_without_free_connections_is_a_503_and_not_a_hang(resilience: Resilience) -> None:
    """Somebody else has taken the server's connections: the pool may not even grow to its first one."""
    with resilience.postgres.starve(connections=0):
        replies = writes(resilience, 5)
        assert {r.status for r in replies} <= {503, 201}, [r.status for r in replies]
        assert max(r.seconds for r in replies) < 2 * healthy.ACQUIRE_TIMEOUT + healthy.SLACK
    recovers(lambda: writes(resilience, 1)[0].status == 201, within=healthy.FULL_CAPACITY_WITHIN)


def test_reads_and_writes_succeed_on_a_slow_postgres(resilience: Resilience) -> None:
    path = f"/api/campaigns/{create(resilience)['id']}"
    with resilience.postgres.latency(seconds=0.05):
        reply = resilience.service.put(path, json={"message": "slowly"})
        assert reply.status_code == 200
        assert resilience.service.get(path).json()["message"] == "slowly"


def test_a_reply_of_postgres_that_never_arrives_is_a_timely_503(resilience: Resilience) -> None:
    """One direction is lost: the statement arrives and runs, its answer does not come back."""
    create(resilience)
    with resilience.postgres.blackhole(direction="down"):
        replies = writes(resilience, 5)
        assert_unavailable(replies)
        slowest = max(r.seconds for r in replies)
        bound = healthy.ACQUIRE_TIMEOUT + healthy.COMMAND_TIMEOUT + healthy.ACQUIRE_TIMEOUT + healthy.SLACK
        assert slowest < bound, f"a request took {slowest:.2f} s"
    assert_full_capacity(resilience)
