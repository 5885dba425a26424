"""A shutdown sends no request to a closed port. It is announced first, and requests in flight get the whole grace period."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

import healthy
from instances import Instance, another_instance
from pytest_resilience import Resilience, eventually
from verbs import VERBS, send_every_verb, uncached_campaigns
from workload import NAME, TimedReply, eventually_or_fail, postgres_session, sessions_waiting_for_lock, sql, timed

GRACE = 4.0  # seconds: SHUTDOWN_GRACE here
ANNOUNCED = GRACE / 4  # seconds that an idle service reports draining before it closes
LONGEST_NOTICE = 2.0  # seconds that an idle service reports draining, at most
CLOSING = 2.0  # seconds, at most, in which it then closes its connections
IN_FLIGHT = GRACE * 3 / 4  # seconds that requests in flight have
# An instance whose clock is faster, so that a long grace is over sooner. An import in flight has 28 of 30 seconds, and not 22.5.
PACE = 10
LONG_GRACE = 30.0  # seconds of that clock
FAST_CLOCK = f"""
import selectors, time
real, select = time.monotonic, selectors.DefaultSelector.select
time.monotonic = lambda: {PACE} * real()
selectors.DefaultSelector.select = lambda self, timeout=None: select(self, timeout and timeout / {PACE})
"""
LOCKED = ("begin", "lock table campaigns in share mode")  # blocks writes, lets reads through
BATCH = 500  # rows that an import writes at once
IMPORT, CSV = "/api/contacts/import", {"Content-Type": "text/csv"}
CAMPAIGN = {"name": NAME, "message": "slow"}
PROBE_PAUSE = 0.01  # seconds between two probes; more of them would measure the client
NEW_CONNECTION = {"Connection": "close"}  # as from a load balancer's probe: one connection for each request


def probe(instance: Instance, path: str = "/readyz") -> TimedReply:
    """Send a request on a new connection."""
    return timed(lambda: instance.client.get(path, headers=NEW_CONNECTION))


def is_refused(reply: TimedReply) -> bool:
    """True if the connection was refused."""
    return isinstance(reply.error, httpx.ConnectError)


def is_draining(ready: TimedReply) -> bool:
    """True if a reply of /readyz reports draining."""
    return ready.reply is not None and ready.status == 503 and ready.reply.json()["status"] == "draining"


def test_an_idle_service_reports_draining_before_it_refuses_connections(resilience: Resilience) -> None:
    """A load balancer that probes every second sends requests until it sees draining, and they must be served."""
    with (
        another_instance(resilience, SHUTDOWN_GRACE=str(GRACE)) as instance,
        another_instance(resilience, SHUTDOWN_GRACE="60") as patient,
    ):
        patient.process.signal(signal.SIGTERM)
        path = instance.client.post("/api/campaigns", json={"name": NAME, "message": "m"}).headers["Location"]
        campaigns = uncached_campaigns(resilience, len(VERBS) + 1)
        sigterm = time.monotonic()
        instance.process.signal(signal.SIGTERM)
        read: TimedReply | None = None
        number = 0
        while not is_refused(ready := probe(instance)):
            assert time.monotonic() - sigterm < GRACE + healthy.SLACK, (
                "after SIGTERM an idle service keeps accepting connections"
            )
            number += 1
            # The signal may arrive after the first replies, and a connection accepted at the very end may get no reply.
            assert number <= 3 or ready.reply is None or is_draining(ready), (
                f"after SIGTERM an idle service reports ready until it refuses connections: {ready.reply and ready.reply.text}"
            )
            if is_draining(ready) and read is None:
                read = probe(instance, path)
                replies = send_all_kinds(instance, campaigns)
                metrics, health = probe(instance, "/metrics"), probe(instance, "/health")
                assert metrics.reply is None or "\nservice_draining 1.0\n" in metrics.reply.text, (
                    "the service drains, and the metrics do not report that"
                )
                assert health.reply is None or health.reply.json()["nextReady"] is False, (
                    f"the service drains, and /health does not report that: {health.reply and health.reply.text}"
                )
            time.sleep(PROBE_PAUSE)
        accepted = time.monotonic() - sigterm
        assert accepted > 0.9 * ANNOUNCED, (
            f"an idle service refuses connections {accepted:.2f} s after SIGTERM; a load balancer has {ANNOUNCED:g} s to see"
            " it drain"
        )
        assert read is not None, "after SIGTERM /readyz of an idle service never reports draining"
        assert read.status == 200, f"a request that is sent while the service drains gets {read}, not 200"
        refused = {kind: reply for kind, reply in replies.items() if reply.status not in (200, 201, 202, 204)}
        assert not refused, f"requests that are sent while the service drains are not served: {refused}"
        message = "after SIGTERM an idle service does not exit"
        eventually_or_fail(instance.has_exited, within=GRACE + healthy.SLACK, message=message)
        within = LONGEST_NOTICE + CLOSING + healthy.SLACK
        message = f"SHUTDOWN_GRACE is 60, and an idle service takes more than {within:g} s to end"
        eventually_or_fail(patient.has_exited, within=within, message=message)


def send_all_kinds(instance: Instance, campaigns: list[int]) -> dict[str, TimedReply]:
    """Send requests of all kinds, and return their replies."""
    *changed, sent = campaigns
    client, content = instance.client, "name,email,phone\nAda,ada@example.com,7\n"
    cadence = {"every_seconds": 3600, "repeat": 1}
    return dict(send_every_verb(client, changed)) | {
        "an import": timed(lambda: client.post(IMPORT, content=content, headers=CSV)),
        "a cadence": timed(lambda: client.put(f"/api/campaigns/{sent}/cadence", json=cadence)),
        "a send": timed(lambda: client.post(f"/api/campaigns/{sent}/send")),
    }


def import_slowly(instance: Instance, released: threading.Event) -> httpx.Response:
    """Import contacts, whose last line is sent after an event."""

    def content() -> Iterator[bytes]:
        yield b"name,email,phone\n" + b"".join(b"Ada,%d@example.com,7\n" % number for number in range(BATCH))
        released.wait(timeout=10.0)
        yield b"Ada,ada@example.com,7\n"

    return instance.client.post(IMPORT, content=content(), headers=CSV)


def drain_with_requests_in_flight(
    resilience: Resilience,
) -> tuple[list[tuple[TimedReply, TimedReply, float]], list[TimedReply], float]:
    """Send SIGTERM while three writes wait for a lock, probe the service, and release the lock before the grace ends.

    An import lasts as long as the writes, in the instance with the fast clock.

    Returns:
        Probes of /readyz and /livez with the seconds since SIGTERM, the replies to the writes and to the import, and the seconds
        in all.
    """
    long = {"SHUTDOWN_GRACE": str(LONG_GRACE), "BODY_TIMEOUT": "60", "DB_POOL_ACQUIRE_TIMEOUT": "60"}
    released = threading.Event()
    with (
        another_instance(resilience, SHUTDOWN_GRACE=str(GRACE), DB_COMMAND_TIMEOUT="60") as instance,
        another_instance(resilience, first=FAST_CLOCK, **long) as fast,
        ThreadPoolExecutor(4) as threads,
    ):
        with postgres_session(resilience, "another application", *LOCKED):
            requests = [
                threads.submit(timed, lambda: instance.client.post("/api/campaigns", json=CAMPAIGN)) for _ in range(3)
            ]
            requests.append(threads.submit(timed, lambda: import_slowly(fast, released)))
            eventually(lambda: sessions_waiting_for_lock(resilience) == 3, within=5.0)
            eventually(lambda: sql(resilience, "select 1 from contacts limit 1"), within=5.0)  # the import is under way
            sigterm = time.monotonic()
            for each in (instance, fast):
                each.process.signal(signal.SIGTERM)
            message = "after SIGTERM /readyz does not report draining"
            eventually_or_fail(lambda: is_draining(probe(instance)), within=1.0, message=message)
            probes = []
            while time.monotonic() - sigterm < 0.8 * IN_FLIGHT:
                probes.append((probe(instance), probe(instance, "/livez"), time.monotonic() - sigterm))
                time.sleep(PROBE_PAUSE)
        released.set()
        replies = [each.result() for each in requests]
    return probes, replies, time.monotonic() - sigterm


def test_requests_in_flight_get_the_shutdown_grace_while_readyz_reports_draining(resilience: Resilience) -> None:
    for _ in range(3):  # on a busy machine the test itself may be late
        probes, replies, took = drain_with_requests_in_flight(resilience)
        if took < min(IN_FLIGHT, (LONG_GRACE - CLOSING) / PACE):
            break
    else:
        pytest.skip("this machine is too busy to hold a request for an exact time")
    for ready, alive, seconds in probes:
        when = f"{seconds:.1f} s after SIGTERM, with requests in flight and {GRACE:g} s of grace"
        # A connection in the backlog of a listener that closes is reset and not refused, so the status counts.
        assert ready.status is not None, f"{when}, the service refuses connections: {ready}"
        assert alive.status is not None, f"{when}, the service refuses connections: {alive}"
        assert is_draining(ready), f"{when}, /readyz is {ready.status} and does not report draining: {ready.error!r}"
        assert alive.status == 200, f"{when}, /livez is {alive.status}: an orchestrator would kill the process now"
    *statuses, of_import = (reply.status for reply in replies)
    assert statuses == [201] * 3, (
        f"requests that took {0.8 * IN_FLIGHT:.1f} s were given up, with {GRACE:g} s of grace: {statuses}"
    )
    assert of_import == 200, (
        f"an import that took {0.8 * IN_FLIGHT * PACE:.0f} s was given up, with {LONG_GRACE:g} s of grace: it gets {of_import}"
    )
