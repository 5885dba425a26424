"""The pool keeps its books: use is an average, an alert is an episode, idle connections go, and no fault costs it a connection."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

import healthy
from instances import another_instance
from pytest_resilience import Resilience, Strike, eventually
from workload import (
    MESSAGE,
    NAME,
    assert_full_capacity,
    assert_unavailable,
    concurrently,
    create,
    eventually_or_fail,
    postgres_session,
    reading,
    service_sessions,
    sessions_waiting_for_lock,
    writing,
)

ALERT = "ALERT: CRITICAL - database_pool_exhausted"
RESOLVED = "RESOLVED: database_pool_exhausted"
VALUE = re.compile(r"Database connection pool usage has exceeded 90%\. Current value: (\d+\.\d\d), Threshold: 90")
BLOCKS_WRITES = ("begin", "lock table campaigns in share mode")  # reads go on

FAULTS: dict[str, Callable[[Resilience], Strike]] = {
    "refusing": lambda r: r.postgres.refuse(),
    "resetting": lambda r: r.postgres.reset(),
}


def test_the_pool_alert_reports_average_use_once_per_episode(resilience: Resilience) -> None:
    def new_campaign() -> object:
        return resilience.service.post("/api/campaigns", json={"name": NAME, "message": MESSAGE})

    def calm() -> None:
        """Quiet for two checks and more: an episode is over after that."""
        with reading(resilience, "/api/campaigns?limit=1"):
            time.sleep(4 * healthy.POOL_CHECK_INTERVAL)

    # Many connections are open after this, and none is in use.
    begin = time.monotonic()
    assert_full_capacity(resilience)
    short = time.monotonic() - begin < 0.8 * healthy.POOL_CHECK_INTERVAL
    with writing(resilience, writers=1) as crew:
        crew.until(lambda writer: len(writer.acknowledged), every_one=True, grow_by=60, within=10.0)
    cried = resilience.service.log.count(ALERT)
    message = "the alert was raised although average use was low: it counts open connections, or one moment"
    assert not (short and cried), message
    if cried:  # on a busy machine the pool may really have been full for a whole check
        calm()

    # One connection less than all is held up, the last one is used now and then: the average is no multiple of one connection.
    for episode in (1, 2):
        wanted = cried + episode
        with postgres_session(resilience, "somebody else", *BLOCKS_WRITES), ThreadPoolExecutor(1) as thread:
            held = thread.submit(concurrently, [new_campaign] * (healthy.POOL_MAX - 1))
            eventually(
                lambda: sessions_waiting_for_lock(resilience) == healthy.POOL_MAX - 1, within=healthy.ACQUIRE_TIMEOUT
            )
            while not held.done() and resilience.service.log.count(ALERT) < wanted:
                resilience.service.get("/api/campaigns?limit=200")
            message = f"the pool was full, and no alert was raised (episode {episode})"
            within = 2 * healthy.POOL_CHECK_INTERVAL
            eventually_or_fail(
                lambda wanted=wanted: resilience.service.log.count(ALERT) >= wanted, within=within, message=message
            )
            if episode == 1:  # another check sees the same
                time.sleep(healthy.POOL_CHECK_INTERVAL)
        alerts = resilience.service.log.count(ALERT) - cried
        assert alerts == episode, f"{alerts} alerts for {episode} episodes"
        if episode == 1:
            calm()
    values = [float(value) for value in VALUE.findall(resilience.service.log)][cried:]
    assert len(values) == 2, f"an alert has its second line, with the value: {values}"
    assert all(90 < value <= 100 for value in values), f"the alert must tell the truth: {values}"
    step = 100 / healthy.POOL_MAX
    assert any(value % step > 0.005 for value in values), (
        f"{values} are whole connections: use of one moment, and no average"
    )


def test_the_pool_alert_uses_the_configured_percentage(resilience: Resilience) -> None:
    settings = {"DB_POOL_MAX": "4", "DB_POOL_ALERT_PERCENT": "50"}
    with (
        another_instance(resilience, **settings) as instance,
        postgres_session(resilience, "somebody else", *BLOCKS_WRITES),
    ):

        def new_campaign() -> object:
            return instance.client.post("/api/campaigns", json={"name": NAME, "message": MESSAGE})

        with ThreadPoolExecutor(1) as thread:
            thread.submit(concurrently, [new_campaign] * 3)
            message = "three of four connections are in use, DB_POOL_ALERT_PERCENT is 50, and no alert was raised"
            within = 3 * healthy.POOL_CHECK_INTERVAL
            eventually_or_fail(lambda: ALERT in instance.log, within=within, message=message)
            told = r"usage has exceeded 50%\. Current value: \d\d\.\d\d, Threshold: 50"
            message = "the alert does not tell the threshold that was set"
            eventually_or_fail(lambda: re.search(told, instance.log), within=healthy.SLACK, message=message)
            assert RESOLVED not in instance.log, "the alert's episode lasts, and the log says that it is resolved"
            thread.shutdown()
        # Those requests are over; two checks below 50 % end the episode.
        message = "the pool is idle again, and the log does not say that the alert is resolved"
        within = healthy.COMMAND_TIMEOUT + 5 * healthy.POOL_CHECK_INTERVAL
        eventually_or_fail(lambda: RESOLVED in instance.log, within=within, message=message)
        value = re.search(RESOLVED + r" - Current value: (\d+\.\d\d),", instance.log)
        assert value, f"the line that ends an episode tells the value: {instance.log}"
        assert float(value[1]) < 50, f"resolved at {value[1]} %, and DB_POOL_ALERT_PERCENT is 50"
        checks = instance.log.count("[Memory Stats]")
        eventually_or_fail(
            lambda: instance.log.count("[Memory Stats]") >= checks + 3, within=5.0, message="the statistics stopped"
        )
        told_times = instance.log.count(RESOLVED)
        assert told_times == 1, f"one line for the end of an episode, not {told_times}"


def test_idle_connections_are_closed_and_reopened_when_needed(resilience: Resilience) -> None:
    with resilience.postgres.latency(seconds=0.05):  # long enough for all of them to be needed at once
        concurrently(
            [lambda: resilience.service.post("/api/campaigns", json={"name": NAME, "message": MESSAGE})]
            * healthy.POOL_MAX
        )
    opened = len(service_sessions(resilience))
    assert opened > healthy.POOL_MAX // 2, f"only {opened} connections for {healthy.POOL_MAX} requests at once"
    within = healthy.POOL_IDLE_TIMEOUT + 2 * healthy.SLACK
    message = f"connections idle for longer than DB_POOL_IDLE_TIMEOUT={healthy.POOL_IDLE_TIMEOUT:g} are not closed"
    eventually_or_fail(lambda: not service_sessions(resilience), within=within, message=message)
    assert_full_capacity(resilience)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_failed_requests_leak_no_pool_connection(resilience: Resilience, fault: Callable[[Resilience], Strike]) -> None:
    """Each request that fails while it waits, connects or is answered must give back what it took."""
    create(resilience)
    with fault(resilience):
        replies = concurrently(
            [lambda: resilience.service.post("/api/campaigns", json={"name": NAME, "message": MESSAGE})]
            * (2 * healthy.POOL_MAX)
        )
        assert_unavailable(replies)
        slowest = max(reply.seconds for reply in replies)
        bound = healthy.ACQUIRE_TIMEOUT + healthy.COMMAND_TIMEOUT + healthy.ACQUIRE_TIMEOUT + healthy.SLACK
        assert slowest < bound, f"a request took {slowest:.2f} s"
    assert_full_capacity(resilience)
