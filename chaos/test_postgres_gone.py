"""Postgres goes down and comes back. Acknowledged writes are there, refused ones are not, and the service recovers unaided."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

import healthy
from instances import NO_POOL_CHECKS, another_instance
from pytest_resilience import Resilience, Stack, eventually, recovers
from workload import (
    assert_full_capacity,
    concurrently,
    create,
    eventually_or_fail,
    postgres_session,
    service_sessions,
    sessions_waiting_for_lock,
    skip_unless_embedded,
    sql,
    sql_connection,
    timed,
    wait_until_ready,
    writing,
)


def test_no_acknowledged_write_is_lost_when_postgres_is_killed_twice(resilience: Resilience) -> None:
    with writing(resilience, writers=4) as writers:
        for _ in range(2):
            writers.wait_for_acknowledgements(5, within=10.0)
            with resilience.postgres.kill():
                writers.wait_for_failure(within=10.0)
            writers.wait_for_acknowledgements(1, within=healthy.POSTGRES_BACK_WITHIN)
    assert_full_capacity(resilience)

    query = "select id, message from campaigns where name like 'writer %'"
    rows = {row["id"]: row["message"] for row in sql(resilience, query)}
    acknowledged = writers.acknowledged
    lost = {i: message for i, message in acknowledged.items() if rows.get(i) != message}
    assert not lost, (
        f"{len(lost)} of {len(acknowledged)} acknowledged campaigns are not in Postgres: {sorted(lost.items())[:5]}"
    )
    statuses = set(writers.refused)
    assert statuses <= {503}, f"a dependency fault is 503, never {statuses - {503}}"
    # A message that is there twice is a write that was retried although it had happened.
    assert len(set(rows.values())) == len(rows), f"{len(rows) - len(set(rows.values()))} writes happened twice"
    unacknowledged = len(rows) - len(acknowledged)
    assert unacknowledged <= writers.failed, (
        f"{unacknowledged} rows were not acknowledged, and only {writers.failed} writes failed"
    )


def test_cached_reads_continue_and_writes_get_503_while_postgres_is_down(resilience: Resilience) -> None:
    cached, other = create(resilience), create(resilience)
    path, other_path = f"/api/campaigns/{cached['id']}", f"/api/campaigns/{other['id']}"
    eventually(lambda: resilience.service.get(path).headers["X-Cache"] == "hit", within=2.0)
    with resilience.postgres.refuse():
        assert resilience.service.get(path).json()["id"] == cached["id"]
        refused = timed(lambda: resilience.service.put(other_path, json={"message": "lost?"}))
        assert refused.status == 503
        assert refused.reply is not None
        assert int(refused.reply.headers["Retry-After"]) >= 1
        assert refused.seconds < healthy.ACQUIRE_TIMEOUT + healthy.SLACK, (
            f"Postgres refuses connections, and a write fails only after {refused.seconds:.2f} s"
        )
        message = "Postgres is down, and /readyz still reports ready"
        eventually_or_fail(
            lambda: resilience.service.get("/readyz").status_code == 503, within=healthy.UNREADY_WITHIN, message=message
        )
        status = resilience.service.get("/readyz").json()["status"]
        assert status == "unavailable", f"the service was ready, Postgres is down, and /readyz reports {status}"
    wait_until_ready(resilience.service)
    recovers(
        lambda: resilience.service.put(other_path, json={"message": "kept"}).status_code == 200,
        within=healthy.POSTGRES_BACK_WITHIN,
    )


def test_readyz_is_at_most_one_second_old_even_without_traffic(resilience: Resilience) -> None:
    """A load balancer relies on /readyz alone. A hanging server causes no error, and on a quiet night no request meets it."""
    within = healthy.READINESS_MAX_AGE + 2 * healthy.SLACK
    with another_instance(resilience, DB_POOL_CHECK_INTERVAL=NO_POOL_CHECKS) as instance:

        def ready() -> bool:
            return instance.client.get("/readyz").status_code == 200

        with resilience.postgres.blackhole():
            message = f"Postgres hangs, and after {healthy.READINESS_MAX_AGE:g} s /readyz still reports ready"
            eventually_or_fail(lambda: not ready(), within=within, message=message)
            state = instance.client.get("/readyz").json()["checks"]["postgres"]
            assert state == "down", f"Postgres hangs, and /readyz reports it as {state}, not down"
        eventually_or_fail(ready, within=within, message="Postgres is back, and /readyz does not report ready")


def test_connections_closed_while_idle_fail_no_request(resilience: Resilience) -> None:
    """A failover closes all idle connections. The pool must notice that before it sends a request."""
    campaigns = [create(resilience) for _ in range(5)]
    concurrently([lambda: resilience.service.post("/api/campaigns", json={"name": "n", "message": "m"})] * 10)
    with resilience.postgres.refuse():
        pass
    for campaign in campaigns:
        reply = resilience.service.put(f"/api/campaigns/{campaign['id']}", json={"message": "after the failover"})
        assert reply.status_code == 200, (
            f"idle connections were closed, and a write gets {reply.status_code}: {reply.text}"
        )


def test_a_read_is_retried_when_its_session_is_terminated(resilience: Resilience) -> None:
    """A failover terminates the sessions of running statements. A read can be repeated, so its client needs no error."""
    create(resilience)
    read = [lambda: resilience.service.get("/api/campaigns?limit=1")] * 3
    with resilience.postgres.starve(lock="campaigns") as locked, ThreadPoolExecutor(1) as thread:
        reads = thread.submit(concurrently, read)
        eventually(lambda: sessions_waiting_for_lock(resilience) == len(read), within=healthy.ACQUIRE_TIMEOUT)
        resilience.postgres.terminate_backends()
        locked.heal()
        statuses = [reply.status for reply in reads.result()]
    assert statuses == [200] * len(read), f"a read fails when its session is terminated, and is not retried: {statuses}"


def test_a_pool_of_silent_connections_costs_one_statement_timeout_in_all(
    resilience: Resilience, resilience_stack: Stack
) -> None:
    """A NAT drops idle connections silently. The pool is full of such connections, while new ones would work."""
    skip_unless_embedded(resilience_stack, "the toxics of toxiproxy-server strike new connections too")
    settings = {
        "DB_COMMAND_TIMEOUT": "1",
        "DB_POOL_ACQUIRE_TIMEOUT": "1",
        "DB_POOL_IDLE_TIMEOUT": "60",  # longer than the NAT's, as in production
        "DB_POOL_CHECK_INTERVAL": NO_POOL_CHECKS,
    }
    with another_instance(resilience, **settings) as instance:
        post = [lambda: instance.client.post("/api/campaigns", json={"name": "n", "message": "m"})]
        path = post[0]().headers["Location"]
        before = service_sessions(resilience)
        with resilience.postgres.latency(seconds=0.05):  # long enough for many connections to be needed at once
            concurrently(post * 8)
        silent = len(service_sessions(resilience) - before)
        assert silent > 3, f"only {silent} idle connections are in the pool"
        with resilience.postgres.half_open():
            first, *others = [
                timed(lambda: instance.client.put(path, json={"message": "into the void"})) for _ in range(4)
            ]
    assert first.status == 503, f"the first write uses a silent connection, and gets {first}, not 503"
    assert first.seconds < 1 + 1 + healthy.SLACK, f"a write took {first.seconds:.1f} s; its limits are 1 s each"
    assert all(each.status == 200 for each in others), (
        f"one connection was found silent, and its {silent} neighbours were trusted nevertheless: {others}"
    )


def test_no_old_value_is_served_after_a_write_with_unknown_outcome(resilience: Resilience) -> None:
    """The write happens and its reply is lost, so copies in the caches may be old and must not be trusted."""
    with another_instance(resilience, DB_COMMAND_TIMEOUT="0.5", DB_POOL_ACQUIRE_TIMEOUT="0.5") as instance:
        path = instance.client.post("/api/campaigns", json={"name": "n", "message": "new"}).headers["Location"]
        assert instance.client.put(path, json={"message": "before"}).status_code == 200  # prepares the statement
        eventually(lambda: instance.client.get(path).headers["X-Cache-Source"] == "redis", within=5.0)
        with resilience.postgres.blackhole(direction="down"):
            status = instance.client.put(path, json={"message": "after"}).status_code
            assert status == 503, f"the outcome of the write is unknown, and it gets {status}, not 503"
            query = "select 1 from campaigns where message = 'after'"
            eventually(lambda: sql(resilience, query), within=healthy.POSTGRES_BACK_WITHIN)
        wait_until_ready(instance.client)
        reply = instance.client.get(path)
        source = reply.headers["X-Cache-Source"]
        assert reply.json()["message"] == "after", f"the write happened, and {source} still serves the old value"


@pytest.mark.parametrize(
    "statement", ["new", "prepared"]
)  # asyncpg raises the error in the event loop, or in the statement
def test_an_answer_that_is_no_message_of_postgres_is_a_timely_503(resilience: Resilience, statement: str) -> None:
    campaign = create(resilience)
    path = f"/api/campaigns/{campaign['id']}"
    if statement == "prepared":
        assert resilience.service.put(path, json={"message": "before"}).status_code == 200
    with resilience.postgres.protocol_violation():
        write = timed(lambda: resilience.service.put(path, json={"message": "lost?"}))
    assert write.status == 503, (
        f"a driver that cannot read an answer is a dependency fault, so 503, never {write.status}"
    )
    assert write.seconds < healthy.ACQUIRE_TIMEOUT + healthy.COMMAND_TIMEOUT + healthy.SLACK
    wait_until_ready(resilience.service)
    # The statement was executed or not. A value from the cache could be the one before it.
    (row,) = sql(resilience, f"select message from campaigns where id = {campaign['id']}")
    message = resilience.service.get(path).json()["message"]
    assert message == row["message"], f"the outcome of the write was unknown, and its old value {message!r} is served"
    assert_full_capacity(resilience)


def test_an_insert_whose_reply_was_lost_is_not_retried(resilience: Resilience, resilience_stack: Stack) -> None:
    """The statement ran, then the connection broke. A retry would insert the row a second time."""
    skip_unless_embedded(
        resilience_stack, "toxiproxy-server sends what it holds when it closes a connection, so no reply is lost"
    )
    create(resilience)
    campaign = {"name": "once", "message": "this may be in the table once, and not twice"}
    query = "select 1 from campaigns where name = 'once'"
    with ThreadPoolExecutor(1) as thread:
        with resilience.postgres.blackhole(direction="down"):
            write = thread.submit(timed, lambda: resilience.service.post("/api/campaigns", json=campaign))
            eventually(lambda: sql(resilience, query), within=5.0)
            paused = (
                resilience.service.pause()
            )  # so that the network is healed when the service sees the broken connection
            with resilience.postgres.reset():
                pass
        paused.heal()
        outcome = write.result()
    wait_until_ready(resilience.service)
    rows = len(sql(resilience, query))
    assert rows == 1, f"the write happened {rows} times: an INSERT was retried although it had happened"
    assert outcome.status == 503, f"the outcome of the write is unknown, and it gets {outcome}, not 503"


def test_writes_are_acknowledged_only_after_they_are_durable(resilience: Resilience) -> None:
    """No write is acknowledged while Postgres is locked, and an acknowledged write is in Postgres' WAL."""
    changed, deleted = (f"/api/campaigns/{create(resilience)['id']}" for _ in range(2))
    lock = ("begin", "lock table campaigns in share mode")  # blocks writes, lets reads through
    with postgres_session(resilience, "another application", *lock):
        replies = concurrently(
            [
                lambda: resilience.service.put(changed, json={"message": "not yet"}),
                lambda: resilience.service.delete(deleted),
                lambda: resilience.service.post("/api/campaigns", json={"name": "n", "message": "not yet"}),
            ]
        )
    statuses = [reply.status for reply in replies]
    assert statuses == [503] * 3, f"acknowledged before it happened: Postgres was locked, and writes get {statuses}"
    wait_until_ready(resilience.service)

    flushed = "select pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()"
    with sql_connection(resilience) as fetch_value:
        unflushed = 0
        for number in range(10):
            assert resilience.service.put(changed, json={"message": f"text {number}"}).status_code == 200
            unflushed += not fetch_value(flushed)
            message = fetch_value(f"select message from campaigns where id = {changed.rpartition('/')[2]}")
            assert message == f"text {number}", f"'text {number}' was acknowledged, and Postgres still has {message!r}"
    assert unflushed < 5, (
        f"{unflushed} of 10 acknowledged writes were not yet in Postgres' WAL: a crash loses them (synchronous_commit)"
    )
