"""The pool starves and recovers, as in the incident, when 94 % of 20 connections were in use.

A foreign session holds a lock that every statement needs, so the connections of the service wait behind it. Later requests must get
an error quickly, operators must get one alert, the health routes must not be affected, and the whole pool must recover.
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
LONGEST = 2 * healthy.ACQUIRE_TIMEOUT + healthy.COMMAND_TIMEOUT + healthy.SLACK  # seconds that a request may take


def post_campaigns(resilience: Resilience, count: int) -> list[TimedReply]:
    """Create a number of campaigns at the same time and return the outcomes."""
    return concurrently(
        [lambda: resilience.service.post("/api/campaigns", json={"name": NAME, "message": MESSAGE})] * count
    )


def assert_in_time(replies: list[TimedReply]) -> None:
    """Assert that the limit on acquiring ended the requests without a connection, and the limit on statements the others."""
    fastest = sorted(reply.seconds for reply in replies)[:10]
    late = healthy.ACQUIRE_TIMEOUT + healthy.SLACK
    assert fastest[-1] < late, f"a request that finds the pool exhausted gets its 503 after {fastest[-1]:.2f} s"
    slowest = max(reply.seconds for reply in replies)
    assert slowest < LONGEST, f"a request took {slowest:.2f} s, more than {LONGEST:.2f} s"


def test_a_starved_pool_gives_timely_503s_and_one_alert_and_recovers_to_full_capacity(resilience: Resilience) -> None:
    create(resilience)

    with resilience.postgres.starve(lock="campaigns") as starved:
        with ThreadPoolExecutor(1) as thread:
            posts = thread.submit(post_campaigns, resilience, healthy.POOL_MAX + 10)
            eventually(lambda: starved.receipt.touched >= healthy.POOL_MAX, within=healthy.ACQUIRE_TIMEOUT)
            probes = [
                timed(lambda path=path: resilience.service.get(path)) for path in ("/health", "/livez", "/readyz") * 20
            ]
            replies = posts.result()
        slow = [each for each in probes if each.seconds > healthy.ACQUIRE_TIMEOUT / 2 or each.reply is None]
        assert not slow, f"a health route waits for the pool like any request: {slow}"

        assert_unavailable(replies)
        message = "all requests have their replies, and their statements still wait in Postgres"
        eventually_or_fail(lambda: not sessions_waiting_for_lock(resilience), within=healthy.SLACK, message=message)
        most = starved.receipt.touched
        assert most == healthy.POOL_MAX, f"{most} connections at once; the pool has exactly {healthy.POOL_MAX}"
        assert_in_time(replies)

        message = "the pool is full, and no alert was raised"
        within = 3 * healthy.POOL_CHECK_INTERVAL
        eventually_or_fail(lambda: ALERT in resilience.service.log, within=within, message=message)
        assert len(service_sessions(resilience)) <= healthy.POOL_MAX
    values = [float(value) for value in VALUE.findall(resilience.service.log)]
    assert len(values) == resilience.service.log.count(ALERT) == 1, f"one alert for one episode, not {len(values)}"
    assert values[0] <= 100, f"{values[0]} % of a pool: a request that waits for a connection uses none"
    assert values[0] > 90, f"the pool was full, and the alert reports {values[0]} %, not more than 90"

    assert_full_capacity(resilience)


def test_a_server_without_free_connections_is_a_503_and_not_a_hang(resilience: Resilience) -> None:
    """Other clients have taken all connections of the server, so the pool cannot open even its first one."""
    with resilience.postgres.starve(connections=0):
        replies = post_campaigns(resilience, 5)
        assert {reply.status for reply in replies} <= {503, 201}, f"a full server is 503, not {replies}"
        slowest = max(reply.seconds for reply in replies)
        assert slowest < 2 * healthy.ACQUIRE_TIMEOUT + healthy.SLACK, f"a request took {slowest:.2f} s"
    recovers(lambda: post_campaigns(resilience, 1)[0].status == 201, within=healthy.FULL_CAPACITY_WITHIN)


def test_reads_and_writes_succeed_on_a_slow_postgres(resilience: Resilience) -> None:
    path = f"/api/campaigns/{create(resilience)['id']}"
    with resilience.postgres.latency(seconds=0.05):
        reply = resilience.service.put(path, json={"message": "slowly"})
        assert reply.status_code == 200, f"Postgres is slow, and a write gets {reply.status_code}: {reply.text}"
        assert resilience.service.get(path).json()["message"] == "slowly"


def test_a_statement_ends_in_time_while_the_driver_looks_up_its_types(resilience: Resilience) -> None:
    """asyncpg looks up the type of an array on each new connection. Each round trip is in time, and all together are not."""
    path = f"/api/campaigns/{create(resilience)['id']}"  # opens a connection
    with resilience.postgres.latency(seconds=0.53 * healthy.COMMAND_TIMEOUT):
        late = timed(lambda: resilience.service.put(path, json={"message": "late"}))
    assert_unavailable([late])
    assert late.seconds < healthy.COMMAND_TIMEOUT + healthy.SLACK, (
        f"a statement took {late.seconds:.2f} s, and its limit is {healthy.COMMAND_TIMEOUT:g} s"
    )


def test_a_reply_of_postgres_that_never_arrives_is_a_timely_503(resilience: Resilience) -> None:
    """Only one direction is lost. The statement arrives and runs, and its result does not come back."""
    create(resilience)
    with resilience.postgres.blackhole(direction="down"):
        replies = post_campaigns(resilience, 5)
        assert_unavailable(replies)
        slowest = max(reply.seconds for reply in replies)
        assert slowest < LONGEST, f"a request took {slowest:.2f} s, more than {LONGEST:.2f} s"
    assert_full_capacity(resilience)
