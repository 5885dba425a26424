"""The service starts during an outage, becomes ready without a restart, and shuts down without losing a request."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import healthy
from instances import another_instance
from pytest_resilience import Resilience, eventually
from workload import TimedReply, eventually_or_fail, postgres_session, sessions_waiting_for_lock, sql, timed

STARTED = ("Server LISTENING on http", "Socket.IO initialized", "Cadence Scheduler ready", "Campaign Processor ready")
STOP_MARGIN = 5.0  # seconds after SHUTDOWN_GRACE at which a process ends that has not stopped by itself
NOT_STOPPED = 4  # its exit code
# No loop of the service ends when it is cancelled.
STUBBORN = """
import asyncio
from service import app

async def stay(run, shortages):
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

app._supervised = stay
"""
LOCKED = ("begin", "lock table campaigns in share mode")  # blocks writes, lets reads through
NEW_CONNECTION = {"Connection": "close"}  # kept connections are closed during a shutdown


def test_the_service_starts_without_postgres_and_redis_and_becomes_ready_when_they_come_up(
    resilience: Resilience,
) -> None:
    begin = time.monotonic()
    with another_instance(resilience, ready=False):
        normal = time.monotonic() - begin  # every start is slow on a busy machine
    begin = time.monotonic()
    with (
        resilience.postgres.refuse() as no_postgres,
        resilience.redis.refuse() as no_redis,
        another_instance(resilience, ready=False) as instance,
    ):
        took = time.monotonic() - begin
        assert took < max(healthy.LISTENING_WITHIN, 2 * normal), (
            f"without its dependencies it listens only after {took:.1f} s; with them after {normal:.1f} s"
        )
        assert instance.client.get("/health").status_code == 200
        assert instance.client.get("/livez").status_code == 200
        ready = instance.client.get("/readyz")
        assert ready.status_code == 503, f"without a database /readyz claims to be ready: {ready.text}"
        status = ready.json()["status"]
        assert status == "starting", f"the service waits for Postgres and was never ready, and /readyz reports {status}"
        assert ready.json()["checks"] == {
            "postgres": "down",
            "redis": "down",
            "memory": "ok",
            "jobs": "journal",
            "cadence": "ok",
        }, ready.text
        assert "Retry-After" in ready.headers
        assert instance.client.get("/api/campaigns/1").status_code == 503, "a dependency fault is 503"

        no_postgres.heal()
        message = "Postgres is up, and the service that started without it does not become ready"
        within = healthy.POSTGRES_BACK_WITHIN
        eventually_or_fail(lambda: instance.client.get("/readyz").status_code == 200, within=within, message=message)
        reply = instance.client.post("/api/campaigns", json={"name": "n", "message": "m"})
        assert reply.status_code == 201, f"Postgres is up, and a POST gets {reply.status_code}: {reply.text}"
        path = reply.headers["Location"]
        source = instance.client.get(path).headers["X-Cache-Source"]
        assert source == "memory", f"the service started without Redis, and a read comes from {source}, not memory"

        no_redis.heal()
        message = "Redis is up, and the service that started without it does not use it"
        eventually_or_fail(
            lambda: instance.client.get(path).headers["X-Cache-Source"] == "redis",
            within=healthy.REDIS_BACK_WITHIN,
            message=message,
        )
        for line in STARTED:
            count = instance.log.count(line)
            assert count == 1, f"each part logs once that it has started, and the log has {line!r} {count} times"


def test_sigterm_lets_requests_in_flight_finish(resilience: Resilience) -> None:
    with another_instance(resilience) as instance:

        def write(number: int) -> TimedReply:
            return timed(lambda: instance.client.post("/api/campaigns", json={"name": "late", "message": str(number)}))

        def draining() -> bool:
            ready = timed(lambda: instance.client.get("/readyz", headers=NEW_CONNECTION))
            return ready.status == 503 and ready.reply is not None and ready.reply.json()["status"] == "draining"

        with ThreadPoolExecutor(5) as threads:
            with postgres_session(resilience, "another application", *LOCKED):
                in_flight = [threads.submit(write, number) for number in range(5)]
                eventually(lambda: sessions_waiting_for_lock(resilience) == 5, within=5.0)
                instance.process.signal(signal.SIGTERM)
                sigterm = time.monotonic()
                message = "after SIGTERM /readyz does not report draining, so new requests keep coming"
                eventually_or_fail(draining, within=1.0, message=message)
                alive = timed(lambda: instance.client.get("/livez", headers=NEW_CONNECTION))
                assert alive.status == 200, (
                    f"/livez is {alive.status} while draining: an orchestrator would kill the process now"
                )
                time.sleep(1.0)  # the requests in flight take longer
                assert not instance.has_exited(), "the service exited while requests were in flight"
            replies = [each.result() for each in in_flight]
        statuses = [reply.status for reply in replies]
        assert statuses == [201] * 5, f"requests in flight were lost at SIGTERM: {statuses}"
        rows = len(sql(resilience, "select 1 from campaigns where name = 'late'"))
        assert rows == 5, f"{rows} rows for 5 acknowledged writes"
        within = healthy.SHUTDOWN_GRACE + healthy.SLACK
        message = f"the service has not exited {within:g} s after the last request in flight"
        eventually_or_fail(instance.has_exited, within=within, message=message)
        took = time.monotonic() - sigterm
        assert took < healthy.SHUTDOWN_GRACE + healthy.SLACK, f"the service exited {took:.1f} s after SIGTERM"
        code = instance.process.exit_code()
        assert code in (0, -signal.SIGTERM), f"the service exited with {code} after SIGTERM"


def test_shutdown_grace_bounds_the_shutdown_and_a_second_sigterm_ends_it_at_once(resilience: Resilience) -> None:
    with (
        another_instance(resilience, SHUTDOWN_GRACE="1", DB_COMMAND_TIMEOUT="30") as bounded,
        another_instance(resilience, DB_COMMAND_TIMEOUT="30") as terminated,
        another_instance(resilience, DB_COMMAND_TIMEOUT="30") as interrupted,
        ThreadPoolExecutor(3) as threads,
        postgres_session(resilience, "another application", *LOCKED),
    ):
        for instance in (bounded, terminated, interrupted):
            client = instance.client
            threads.submit(
                timed, lambda client=client: client.post("/api/campaigns", json={"name": "n", "message": "m"})
            )
        eventually(lambda: sessions_waiting_for_lock(resilience) == 3, within=5.0)
        bounded.process.signal(signal.SIGTERM)
        for instance, number in ((terminated, signal.SIGTERM), (interrupted, signal.SIGINT)):
            instance.process.signal(number)
            client = instance.client
            eventually_or_fail(
                lambda client=client: client.get("/readyz", headers=NEW_CONNECTION).json()["status"] == "draining",
                within=1.0,
                message=f"after {number.name}, with a request in flight, /readyz does not report draining",
            )
            instance.process.signal(number)
            message = f"after a second {number.name} the service still does not exit at once"
            eventually_or_fail(instance.has_exited, within=1.0, message=message)
        message = "after SIGTERM the service waits for a hanging request for longer than its SHUTDOWN_GRACE"
        eventually_or_fail(bounded.has_exited, within=1 + 2 * healthy.SLACK, message=message)


def test_a_process_that_does_not_stop_names_its_tasks_and_ends(resilience: Resilience) -> None:
    """Otherwise a task that hangs keeps the process until an operator kills it."""
    grace = 0.1  # seconds
    with another_instance(resilience, ready=False, first=STUBBORN, SHUTDOWN_GRACE=str(grace)) as instance:
        instance.process.signal(signal.SIGTERM)
        message = f"a task does not stop, and {STOP_MARGIN:g} s after SHUTDOWN_GRACE the process still runs"
        eventually_or_fail(instance.has_exited, within=grace + STOP_MARGIN + 4 * healthy.SLACK, message=message)
        code = instance.process.exit_code()
        assert code == NOT_STOPPED, f"a task does not stop, and the process ends with {code}, not {NOT_STOPPED}"
        line = "has not stopped within SHUTDOWN_GRACE and ends now; it waits for: "
        assert line in instance.log, f"the process ends, and the log does not report it: {instance.log}"
        tasks = instance.log.partition(line)[2]
        assert "stay" in tasks, f"a task does not stop, and the log does not name it: {tasks}"
