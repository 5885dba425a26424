"""The pool keeps its books: use is an average, an alert is an episode, idle connections go, and no fault costs it a connection."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

import healthy
from pytest_resilience import Resilience, Strike, eventually
from workload import (
    MESSAGE,
    NAME,
    at_once,
    create,
    full_capacity,
    session,
    sessions_of_the_service,
    waiting_sessions,
    writing,
)

ALERT = "ALERT: CRITICAL - database_pool_exhausted"
VALUE = re.compile(r"Database connection pool usage has exceeded 90%\. Current value: (\d+\.\d\d), Threshold: 90")
BLOCKS_WRITES = ("begin", "lock table campaigns in share mode")  # reads go on

FAULTS: dict[str, Callable[[Resilience], Strike]] = {
    "refusing": lambda r: r.postgres.refuse(),
    "resetting": lambda r: r.postgres.reset(),
    "hanging": lambda r: r.postgres.blackhole(),
}


def test_the_alert_tells_average_use_once_for_each_episode(resilience: Resilience) -> None:
    def new_campaign() -> object:
        return resilience.service.post("/api/campaigns", json={"name": NAME, "message": MESSAGE})

    # Many connections are open after this, and none is in use.
    at_once([new_campaign] * 3 * healthy.POOL_MAX)
    with writing(resilience, writers=1) as crew:
        crew.until(lambda writer: len(writer.acknowledged), every_one=True, grow_by=60, within=10.0)
    assert ALERT not in resilience.service.log, (
        "the pool's alert was raised for connections that are open, but not in use"
    )

    # One connection less than all is held up, the last one is used now and then: the average is no multiple of one connection.
    for episode in (1, 2):
        with (
            session(resilience, "somebody else", *BLOCKS_WRITES),
            ThreadPoolExecutor(1) as thread,
        ):
            held = thread.submit(at_once, [new_campaign] * (healthy.POOL_MAX - 1))
            eventually(lambda: waiting_sessions(resilience) == healthy.POOL_MAX - 1, within=healthy.ACQUIRE_TIMEOUT)
            while not held.done():
                resilience.service.get("/api/campaigns?limit=200")
        eventually(
            lambda episode=episode: resilience.service.log.count(ALERT) >= episode,
            within=2 * healthy.POOL_CHECK_INTERVAL + healthy.SLACK,
        )
        # Calm again for two checks and more: the episode is over.
        with writing(resilience, writers=1) as crew:
            crew.until(lambda writer: len(writer.acknowledged), every_one=True, grow_by=100, within=10.0)
        alerts = resilience.service.log.count(ALERT)
        assert alerts == episode, f"{alerts} alerts for {episode} episodes"
    values = [float(value) for value in VALUE.findall(resilience.service.log)]
    assert len(values) == 2, f"an alert has its second line, with the value: {values}"
    assert all(90 < value <= 100 for value in values), f"the alert must tell the truth: {values}"
    step = 100 / healthy.POOL_MAX
    assert any(value % step > 0.005 for value in values), (
        f"{values} are whole connections: of one moment, and no average"
    )


def test_idle_connections_are_closed_and_come_back_when_needed(resilience: Resilience) -> None:
    with resilience.postgres.latency(seconds=0.05):  # long enough for all of them to be needed at once
        at_once(
            [lambda: resilience.service.post("/api/campaigns", json={"name": NAME, "message": MESSAGE})]
            * healthy.POOL_MAX
        )
    opened = len(sessions_of_the_service(resilience))
    assert opened > healthy.POOL_MAX // 2, f"only {opened} connections for {healthy.POOL_MAX} requests at once"
    within = healthy.POOL_IDLE_TIMEOUT + 2 * healthy.SLACK
    eventually(lambda: not sessions_of_the_service(resilience), within=within)
    full_capacity(resilience)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_no_fault_costs_the_pool_a_connection(resilience: Resilience, fault: Callable[[Resilience], Strike]) -> None:
    """Each request that fails while it waits, connects or is answered must give back what it took."""
    create(resilience)
    with fault(resilience):
        replies = at_once(
            [lambda: resilience.service.post("/api/campaigns", json={"name": NAME, "message": MESSAGE})]
            * (2 * healthy.POOL_MAX)
        )
        statuses = sorted({str(reply.status) for reply in replies})
        assert statuses == ["503"], f"a dependency fault is 503, never {statuses}"
        assert all(r.reply is not None and "Retry-After" in r.reply.headers for r in replies), (
            "a 503 says when to try again"
        )
        slowest = max(reply.seconds for reply in replies)
        bound = healthy.ACQUIRE_TIMEOUT + healthy.COMMAND_TIMEOUT + healthy.ACQUIRE_TIMEOUT + healthy.SLACK
        assert slowest < bound, f"a request took {slowest:.2f} s"
    full_capacity(resilience)


def test_malformed_requests_cost_the_pool_no_connection(resilience: Resilience) -> None:
    wrong = [
        {"name": NAME},
        {"name": NAME, "message": ""},
        {"name": NAME, "message": "\0"},
        {"name": 1, "message": MESSAGE},
    ]
    replies = at_once([lambda w=w: resilience.service.post("/api/campaigns", json=w) for w in wrong * healthy.POOL_MAX])
    assert {reply.status for reply in replies} == {422}
    full_capacity(resilience)
