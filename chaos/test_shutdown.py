"""It stops so that nobody is sent to it in vain: seen to be unready first, and all of its grace for what is under way."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

import healthy
from instances import Instance, another_instance
from pytest_resilience import Resilience, eventually
from workload import NAME, TimedReply, eventually_or_fail, postgres_session, sessions_waiting_for_lock, timed

GRACE = 4.0  # SHUTDOWN_GRACE here, in seconds
SEEN = GRACE / 4  # that a service which is idle is seen to be unready
SERVES = GRACE * 3 / 4  # that requests under way have
HOLDS_WRITES = ("begin", "lock table campaigns in share mode")
WRITE = {"name": NAME, "message": "takes its time"}
ONE_REQUEST = {"Connection": "close"}  # as a balancer's probe: a connection of its own each time


def probe(instance: Instance, path: str = "/readyz") -> TimedReply:
    return timed(lambda: instance.client.get(path, headers=ONE_REQUEST))


def refused(answer: TimedReply) -> bool:
    """True if no connection was to be had."""
    return isinstance(answer.error, httpx.ConnectError)


def says_draining(answer: TimedReply) -> bool:
    return answer.reply is not None and answer.status == 503 and answer.reply.json()["status"] == "draining"


def test_an_idle_service_reports_draining_before_it_refuses_connections(resilience: Resilience) -> None:
    """Whoever asks every second which instances are ready sends requests until then, and they must be served."""
    with another_instance(resilience, SHUTDOWN_GRACE=str(GRACE)) as instance:
        path = instance.client.post("/api/campaigns", json={"name": NAME, "message": "m"}).headers["Location"]
        told = time.monotonic()
        instance.process.send_signal(signal.SIGTERM)
        served: list[TimedReply] = []
        number = 0
        while not refused(answer := probe(instance)):
            assert time.monotonic() - told < GRACE + healthy.SLACK, (
                "told to stop while idle, it goes on accepting connections"
            )
            number += 1
            # The signal may be seen after the first answers; a connection that was accepted in the last moment may get none.
            assert number <= 3 or answer.reply is None or says_draining(answer), (
                f"told to stop while idle, it says ready until it refuses connections: {answer.reply and answer.reply.text}"
            )
            if says_draining(answer) and not served:
                served.append(probe(instance, path))
        accepted = time.monotonic() - told
        assert accepted > 0.9 * SEEN, (
            f"told to stop while idle, it refuses connections after {accepted:.2f} s; a balancer has {SEEN:g} s to see it drain"
        )
        assert served, "told to stop while idle, /readyz never says draining"
        assert served[0].status == 200, (
            f"it drains, and answers a request that was sent before anybody saw that with {served[0].status}: {served[0].error!r}"
        )
        eventually_or_fail(
            instance.has_exited, within=GRACE + healthy.SLACK, message="told to stop while idle, it does not end"
        )


def test_requests_in_flight_get_the_shutdown_grace_while_readyz_reports_draining(resilience: Resilience) -> None:
    for _ in range(3):  # on a machine that is busy with something else the test itself may be late
        with (
            another_instance(resilience, SHUTDOWN_GRACE=str(GRACE), DB_COMMAND_TIMEOUT="60") as instance,
            ThreadPoolExecutor(3) as threads,
        ):
            with postgres_session(resilience, "somebody else", *HOLDS_WRITES):
                under_way = [
                    threads.submit(timed, lambda: instance.client.post("/api/campaigns", json=WRITE)) for _ in range(3)
                ]
                eventually(lambda: sessions_waiting_for_lock(resilience) == 3, within=5.0)
                told = time.monotonic()
                instance.process.send_signal(signal.SIGTERM)
                eventually_or_fail(
                    lambda: says_draining(probe(instance)),
                    within=1.0,
                    message="told to stop, it does not say draining",
                )
                probes = []
                while time.monotonic() - told < 0.8 * SERVES:
                    probes.append((probe(instance), probe(instance, "/livez"), time.monotonic() - told))
            answers = [each.result() for each in under_way]
        if time.monotonic() - told < SERVES:
            break
    else:
        pytest.skip("this machine is too busy to hold a request for just so long")
    for ready, alive, at in probes:
        # A connection that waits in the backlog as the listener closes is reset in place of refused.
        assert ready.status is not None, (
            f"with requests under way and {GRACE:g} s of grace, it refuses connections after {at:.1f} s"
        )
        assert alive.status is not None, (
            f"with requests under way and {GRACE:g} s of grace, it refuses connections after {at:.1f} s"
        )
        assert says_draining(ready), (
            f"{at:.1f} s after it was told to stop, with requests under way and {GRACE:g} s of grace, /readyz is"
            f" {ready.status}: {ready.error!r}"
        )
        assert alive.status == 200, (
            f"/livez is {alive.status} after {at:.1f} s of draining: an orchestrator would kill it now"
        )
    statuses = [answer.status for answer in answers]
    assert statuses == [201] * 3, (
        f"requests that took {0.8 * SERVES:.1f} s were given up, with {GRACE:g} s of grace: {statuses}"
    )
