"""It starts in bad weather, becomes ready by itself, and stops without losing a request."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import healthy
from instances import another_instance
from pytest_resilience import Resilience, eventually
from workload import TimedReply, eventually_or_fail, postgres_session, sessions_waiting_for_lock, sql, timed

HOLDS_WRITES = ("begin", "lock table campaigns in share mode")


def test_it_starts_without_postgres_and_redis_and_becomes_ready_when_they_come_up(resilience: Resilience) -> None:
    begin = time.monotonic()
    with another_instance(resilience, ready=False):
        usual = time.monotonic() - begin  # on a machine that is busy with something else every start is slow
    begin = time.monotonic()
    with (
        resilience.postgres.refuse() as no_postgres,
        resilience.redis.refuse() as no_redis,
        another_instance(resilience, ready=False) as instance,
    ):
        took = time.monotonic() - begin
        assert took < max(healthy.LISTENING_WITHIN, 2 * usual), (
            f"without its dependencies it listens only after {took:.1f} s; with them after {usual:.1f} s"
        )
        assert instance.client.get("/health").status_code == 200
        assert instance.client.get("/livez").status_code == 200
        ready = instance.client.get("/readyz")
        assert ready.status_code == 503, f"it claims to be ready without a database: {ready.text}"
        assert ready.json()["checks"] == {"postgres": "down", "redis": "down", "memory": "ok"}, ready.text
        assert "Retry-After" in ready.headers
        assert instance.client.get("/api/campaigns/1").status_code == 503, "a dependency fault is 503"

        no_postgres.heal()
        message = "Postgres is there by now, and the service that started without it does not become ready"
        within = healthy.POSTGRES_BACK_WITHIN
        eventually_or_fail(lambda: instance.client.get("/readyz").status_code == 200, within=within, message=message)
        reply = instance.client.post("/api/campaigns", json={"name": "n", "message": "m"})
        assert reply.status_code == 201, f"with Postgres there it can work: {reply.text}"
        path = reply.headers["Location"]
        assert instance.client.get(path).headers["X-Cache-Source"] == "memory", (
            "it started without Redis: memory serves"
        )

        no_redis.heal()
        message = "Redis is there by now, and the service that started without it does not use it"
        within = healthy.REDIS_BACK_WITHIN
        eventually_or_fail(
            lambda: instance.client.get(path).headers["X-Cache-Source"] == "redis", within=within, message=message
        )


def test_sigterm_lets_requests_in_flight_finish(resilience: Resilience) -> None:
    with another_instance(resilience) as instance:

        def write(number: int) -> TimedReply:
            return timed(lambda: instance.client.post("/api/campaigns", json={"name": "late", "message": str(number)}))

        with ThreadPoolExecutor(5) as threads:
            with postgres_session(resilience, "somebody else", *HOLDS_WRITES):
                under_way = [threads.submit(write, number) for number in range(5)]
                eventually(lambda: sessions_waiting_for_lock(resilience) == 5, within=5.0)
                instance.process.send_signal(signal.SIGTERM)
                told = time.monotonic()

                def draining() -> bool:
                    # A client of its own each time: connections that are open already are being shut.
                    reply = timed(lambda: instance.client.get("/readyz", headers={"Connection": "close"}))
                    return (
                        reply.status == 503 and reply.reply is not None and reply.reply.json()["status"] == "draining"
                    )

                message = "told to stop, it does not tell that it is no longer ready: requests keep coming"
                eventually_or_fail(draining, within=1.0, message=message)
                alive = timed(lambda: instance.client.get("/livez", headers={"Connection": "close"}))
                assert alive.status == 200, (
                    f"/livez is {alive.status} while it drains: an orchestrator would kill it now"
                )
                time.sleep(1.0)  # the requests take their time
                assert not instance.has_exited(), "it stopped while requests were under way"
            answers = [each.result() for each in under_way]
        statuses = [answer.status for answer in answers]
        assert statuses == [201] * 5, f"requests that were under way were lost when it was told to stop: {statuses}"
        rows = len(sql(resilience, "select 1 from campaigns where name = 'late'"))
        assert rows == 5, f"{rows} rows for 5 acknowledged writes"
        within = healthy.SHUTDOWN_GRACE + healthy.SLACK
        eventually_or_fail(
            instance.has_exited, within=within, message=f"told to stop, it still runs after {within:g} s"
        )
        took = time.monotonic() - told
        assert took < healthy.SHUTDOWN_GRACE + healthy.SLACK, f"it ended {took:.1f} s after SIGTERM"
        assert instance.process.returncode in (0, -signal.SIGTERM), f"it ended with {instance.process.returncode}"


def test_shutdown_grace_bounds_the_shutdown_and_a_second_sigterm_ends_it_at_once(resilience: Resilience) -> None:
    with (
        another_instance(resilience, SHUTDOWN_GRACE="1", DB_COMMAND_TIMEOUT="30") as patient,
        another_instance(resilience, DB_COMMAND_TIMEOUT="30") as hasty,
        ThreadPoolExecutor(2) as threads,
        postgres_session(resilience, "somebody else", *HOLDS_WRITES),
    ):
        for instance in (patient, hasty):
            client = instance.client
            threads.submit(
                timed, lambda client=client: client.post("/api/campaigns", json={"name": "n", "message": "m"})
            )
        eventually(lambda: sessions_waiting_for_lock(resilience) == 2, within=5.0)
        hasty.process.send_signal(signal.SIGTERM)
        patient.process.send_signal(signal.SIGTERM)
        eventually_or_fail(
            lambda: hasty.client.get("/readyz", headers={"Connection": "close"}).json()["status"] == "draining",
            within=1.0,
            message="told to stop with a request under way, it does not say draining",
        )
        hasty.process.send_signal(signal.SIGTERM)
        eventually_or_fail(hasty.has_exited, within=1.0, message="told to stop twice, it still does not end at once")
        message = "told to stop, it waits for a request that hangs for longer than its SHUTDOWN_GRACE"
        eventually_or_fail(patient.has_exited, within=1 + 2 * healthy.SLACK, message=message)
