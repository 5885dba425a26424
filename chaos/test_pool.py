"""The pool is accurate. Alerts report average use once per episode, idle connections are closed, and no fault leaks a connection."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest

import healthy
from instances import NO_POOL_CHECKS, Instance, another_instance
from pytest_resilience import Resilience, Strike, eventually
from verbs import uncached_campaigns
from workload import (
    MESSAGE,
    NAME,
    TimedReply,
    assert_full_capacity,
    assert_unavailable,
    concurrently,
    create,
    eventually_or_fail,
    metric,
    postgres_session,
    reading,
    service_sessions,
    sessions_waiting_for_lock,
    sql,
    timed,
    writing,
)

ALERT = "ALERT: CRITICAL - database_pool_exhausted"
RAISED = 'service_alerts_raised_total{alert="database_pool_exhausted"}'
SIZE = "service_db_pool_size"
AVERAGE = "service_db_pool_average_ratio"
RESOLVED = "RESOLVED: database_pool_exhausted"
VALUE = re.compile(r"Database connection pool usage has exceeded 90%\. Current value: (\d+\.\d\d), Threshold: 90")
RARE_CHECKS = 1.0  # seconds between two checks of a pool, where the time between log lines counts
LOCKED = ("begin", "lock table campaigns in share mode")  # blocks writes, lets reads through

FAULTS: dict[str, Callable[[Resilience], Strike]] = {
    "refusing": lambda r: r.postgres.refuse(),
    "resetting": lambda r: r.postgres.reset(),
}


def let_episode_end(resilience: Resilience) -> None:
    """Keep use low for more than two checks, which ends an episode."""
    with reading(resilience, "/api/campaigns?limit=1"):
        time.sleep(4 * healthy.POOL_CHECK_INTERVAL)


def alerts_at_low_use(resilience: Resilience) -> int:
    """Open the whole pool, use little of it, and return the number of alerts. It is 0 unless the machine was busy."""
    begin = time.monotonic()
    assert_full_capacity(resilience)
    was_full_briefly = time.monotonic() - begin < 0.8 * healthy.POOL_CHECK_INTERVAL
    with writing(resilience, writers=1) as writers:
        writers.wait_for_acknowledgements(60, within=10.0)
    alerts = resilience.service.log.count(ALERT)
    assert not (was_full_briefly and alerts), (
        "the alert was raised although average use was low: it counts open connections, or one moment"
    )
    if alerts:  # on a busy machine the pool may really have been full for a whole check
        let_episode_end(resilience)
    return alerts


def raise_alert(resilience: Resilience, *, episode: int, alerts: int) -> None:
    """Use more than 90 % of the pool on average until there are `alerts` alerts in the log.

    All connections but one are blocked, and the last one is used sometimes. So average use is no multiple of one connection.
    """

    def post() -> object:
        return resilience.service.post("/api/campaigns", json={"name": NAME, "message": MESSAGE})

    with postgres_session(resilience, "another application", *LOCKED), ThreadPoolExecutor(1) as thread:
        blocked = thread.submit(concurrently, [post] * (healthy.POOL_MAX - 1))
        eventually(
            lambda: sessions_waiting_for_lock(resilience) == healthy.POOL_MAX - 1, within=healthy.ACQUIRE_TIMEOUT
        )
        while not blocked.done() and resilience.service.log.count(ALERT) < alerts:
            resilience.service.get("/api/campaigns?limit=200")
        eventually_or_fail(
            lambda: resilience.service.log.count(ALERT) >= alerts,
            within=2 * healthy.POOL_CHECK_INTERVAL,
            message=f"the pool was full, and no alert was raised (episode {episode})",
        )
        if episode == 1:  # the next check in one episode must not raise a second alert
            time.sleep(healthy.POOL_CHECK_INTERVAL)


def test_the_pool_alert_reports_average_use_once_per_episode(resilience: Resilience) -> None:
    before = alerts_at_low_use(resilience)
    uncounted = before - metric(resilience.service, RAISED)
    for episode in (1, 2):
        raise_alert(resilience, episode=episode, alerts=before + episode)
        alerts = resilience.service.log.count(ALERT) - before
        assert alerts == episode, f"{alerts} alerts for {episode} episodes"
        counted = metric(resilience.service, RAISED) + uncounted - before
        assert counted == episode, f"{episode} episodes of the alert, and the metrics count {counted:g}"
        if episode == 1:
            let_episode_end(resilience)
    values = [float(value) for value in VALUE.findall(resilience.service.log)][before:]
    assert len(values) == 2, f"each alert has a second line with its value: 2, not {values}"
    assert all(90 < value <= 100 for value in values), f"an alert above 90 % reports {values}"
    step = 100 / healthy.POOL_MAX
    assert any(value % step > 0.005 for value in values), (
        f"{values} are multiples of one connection: the use of one moment, and not an average"
    )


def test_the_pool_alert_uses_the_configured_percentage(resilience: Resilience) -> None:
    settings = {"DB_POOL_MAX": "4", "DB_POOL_ALERT_PERCENT": "50", "DB_POOL_CHECK_INTERVAL": str(RARE_CHECKS)}
    with another_instance(resilience, **settings) as instance, ThreadPoolExecutor(1) as thread:

        def post() -> object:
            return instance.client.post("/api/campaigns", json={"name": NAME, "message": MESSAGE})

        with postgres_session(resilience, "another application", *LOCKED):
            thread.submit(concurrently, [post] * 3)
            message = "three of four connections are in use, DB_POOL_ALERT_PERCENT is 50, and no alert was raised"
            eventually_or_fail(lambda: ALERT in instance.log, within=3 * RARE_CHECKS, message=message)
            average = metric(instance.client, AVERAGE)
            assert 0.5 < average <= 0.75, f"three of four connections are in use, and the metrics report {average:g}"
        line = r"usage has exceeded 50%\. Current value: \d\d\.\d\d, Threshold: 50"
        message = "the alert does not name the threshold that was configured"
        eventually_or_fail(lambda: re.search(line, instance.log), within=healthy.SLACK, message=message)
        assert_resolved_once(instance)
        average = metric(instance.client, AVERAGE)
        assert average < 0.5, f"the pool is idle again, and the metrics report an average of {average:g}"


def assert_resolved_once(instance: Instance) -> None:
    """Assert that one line reports the end of the episode, which takes two checks below 50 %."""
    message = "the pool is idle again, and the log does not report the alert as resolved"
    eventually_or_fail(lambda: RESOLVED in instance.log, within=5 * RARE_CHECKS, message=message)
    value = re.search(RESOLVED + r" - Current value: (\d+\.\d\d),", instance.log)
    assert value, f"the line that ends an episode has no value: {instance.log}"
    assert float(value[1]) < 50, f"resolved at {value[1]} %, and DB_POOL_ALERT_PERCENT is 50"
    checks = instance.log.count("[Memory Stats]")
    more = int(3 * RARE_CHECKS / healthy.MEMORY_STATS_INTERVAL)
    eventually_or_fail(
        lambda: instance.log.count("[Memory Stats]") >= checks + more, within=8.0, message="the statistics stopped"
    )
    count = instance.log.count(RESOLVED)
    assert count == 1, f"one line for the end of an episode, not {count}"
    seconds = logged_at(instance, RESOLVED) - logged_at(instance, ALERT)
    # The pool is idle just after the alert, so the next two checks are low. A busy machine may log the alert late.
    assert seconds > 1.2 * RARE_CHECKS, (
        f"the alert is over {seconds:.2f} s after it was raised, after one low check: two are needed, {RARE_CHECKS:g} s apart"
    )


def logged_at(instance: Instance, text: str) -> float:
    """Return the time of the first line of the log with a text, in seconds since 1970."""
    line = next(line for line in instance.log.splitlines() if text in line)
    return datetime.fromisoformat(line.split()[0]).timestamp()


def test_requests_get_connections_in_the_order_in_which_they_came(resilience: Resilience) -> None:
    """Otherwise those that wait longest are refused, while those that have just come are served."""
    first, *later = uncached_campaigns(resilience, 7)
    long = {"DB_POOL_ACQUIRE_TIMEOUT": "30", "DB_COMMAND_TIMEOUT": "60", "DB_POOL_CHECK_INTERVAL": NO_POOL_CHECKS}
    with (
        another_instance(resilience, DB_POOL_MAX="1", **long) as instance,
        ThreadPoolExecutor(len(later) + 1) as threads,
    ):

        def put(campaign: int) -> TimedReply:
            return timed(lambda: instance.client.put(f"/api/campaigns/{campaign}", json={"message": "changed"}))

        with postgres_session(resilience, "another application", *LOCKED):
            replies = [threads.submit(put, first)]
            eventually(lambda: sessions_waiting_for_lock(resilience) == 1, within=5.0)
            for number, campaign in enumerate(later, 1):
                replies.append(threads.submit(put, campaign))
                eventually(
                    lambda number=number: metric(instance.client, "service_db_pool_waiting") == number, within=5.0
                )
        statuses = [each.result().status for each in replies]
    assert statuses == [200] * len(replies), f"one connection serves {len(replies)} requests, and they get {statuses}"
    query = "select id from campaigns where id = any($1) order by updated_at"
    served = [row["id"] for row in sql(resilience, query, [first, *later])]
    assert served == [first, *later], (
        f"requests came in the order {[first, *later]}, and were served in the order {served}"
    )


def test_idle_connections_are_closed_and_reopened_when_needed(resilience: Resilience) -> None:
    post = [lambda: resilience.service.post("/api/campaigns", json={"name": NAME, "message": MESSAGE})]
    with resilience.postgres.latency(seconds=0.05):  # long enough for all connections to be needed at once
        concurrently(post * healthy.POOL_MAX)
    opened = len(service_sessions(resilience))
    assert opened > healthy.POOL_MAX // 2, f"only {opened} connections for {healthy.POOL_MAX} concurrent requests"
    size = metric(resilience.service, SIZE)
    assert size == opened, f"{opened} connections of the pool are open, and the metrics report {size:g}"
    within = healthy.POOL_IDLE_TIMEOUT + 2 * healthy.SLACK
    message = f"connections idle for longer than DB_POOL_IDLE_TIMEOUT={healthy.POOL_IDLE_TIMEOUT:g} are not closed"
    eventually_or_fail(lambda: not service_sessions(resilience), within=within, message=message)
    size = metric(resilience.service, SIZE)
    assert size == 0, f"no connection of the pool is open, and the metrics report {size:g}"
    assert_full_capacity(resilience)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_failed_requests_leak_no_pool_connection(resilience: Resilience, fault: Callable[[Resilience], Strike]) -> None:
    """A request may fail while it waits, connects or receives its result. It must return its connection in each case."""
    create(resilience)
    with fault(resilience):
        post = [lambda: resilience.service.post("/api/campaigns", json={"name": NAME, "message": MESSAGE})]
        replies = concurrently(post * (2 * healthy.POOL_MAX))
        assert_unavailable(replies)
        slowest = max(reply.seconds for reply in replies)
        bound = healthy.ACQUIRE_TIMEOUT + healthy.COMMAND_TIMEOUT + healthy.ACQUIRE_TIMEOUT + healthy.SLACK
        assert slowest < bound, f"a request took {slowest:.2f} s, more than {bound:.2f} s"
    assert_full_capacity(resilience)


# A bug: the connection of some requests is never returned. It counts as leaked after 1 s, and not after 2 s.
LEAK = """
import asyncio
from service.postgres import pool
from service.postgres.campaigns import Campaigns

pool.RELEASE_TIMEOUT = pool.SWEEP_MARGIN = 0.5

async def create(self, fields, create=Campaigns.create):
    if fields["name"] == "leak":
        async with self._database._checkout():
            await asyncio.Event().wait()
    return await create(self, fields)

Campaigns.create = create
"""


def test_a_leaked_connection_is_closed_by_a_check_of_the_pool(resilience: Resilience) -> None:
    settings = {"DB_POOL_MAX": "1", "DB_COMMAND_TIMEOUT": "0.1", "DB_POOL_ACQUIRE_TIMEOUT": "0.2"}
    with another_instance(resilience, first=LEAK, **settings) as instance:

        def create_named(name: str) -> int | None:
            body = {"name": name, "message": "m"}
            return timed(lambda: instance.client.post("/api/campaigns", json=body, timeout=0.5)).status

        assert create_named("leak") is None, "a request that waits for ever gets a response"
        status = create_named("n")
        assert status == 503, f"the only connection of the pool is leaked, and a request gets {status}, not 503"
        message = "a connection is leaked, and the checks of the pool do not give it back"
        eventually_or_fail(lambda: create_named("n") == 201, within=10.0, message=message)
        line = "Closed 1 leaked connections"
        message = "a check of the pool has closed a leaked connection, and no line of the log reports it"
        eventually_or_fail(lambda: instance.log.count(line) == 1, within=2.0, message=message)
