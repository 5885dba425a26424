"""Postgres is killed and comes back: what was acknowledged is there, what was refused is not, and the service is back by itself."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

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
    writing,
)


def test_no_acknowledged_write_is_lost_when_postgres_is_killed_twice(resilience: Resilience) -> None:
    with writing(resilience, writers=4) as crew:
        for _ in range(2):
            crew.until(lambda writer: len(writer.acknowledged), every_one=True, grow_by=5, within=10.0)
            with resilience.postgres.kill():
                crew.until(lambda writer: writer.unknown + len(writer.refused), every_one=False, grow_by=1, within=10.0)
            crew.until(
                lambda writer: len(writer.acknowledged), every_one=True, grow_by=1, within=healthy.POSTGRES_BACK_WITHIN
            )
    assert_full_capacity(resilience)

    rows = {
        row["id"]: row["message"]
        for row in sql(resilience, "select id, message from campaigns where name like 'writer %'")
    }
    acknowledged = {i: message for writer in crew.writers for i, message in writer.acknowledged.items()}
    lost = {i: m for i, m in acknowledged.items() if rows.get(i) != m}
    assert not lost, (
        f"{len(lost)} of {len(acknowledged)} acknowledged campaigns are not in Postgres: {sorted(lost.items())[:5]}"
    )
    refused_codes = {code for writer in crew.writers for code in writer.refused}
    assert refused_codes <= {503}, f"a dependency fault is 503: {refused_codes}"
    # Twice the same row would be a write that was retried although it had happened.
    assert len(set(rows.values())) == len(rows), "a write happened twice"
    unexplained = len(rows) - len(acknowledged)
    doubtful = sum(writer.unknown + len(writer.refused) for writer in crew.writers)
    assert unexplained <= doubtful, f"{unexplained} rows that nobody was told of, and only {doubtful} writes in doubt"


def test_cached_reads_continue_and_writes_get_503_while_postgres_is_down(resilience: Resilience) -> None:
    cached, other = create(resilience), create(resilience)
    path = f"/api/campaigns/{cached['id']}"
    eventually(lambda: resilience.service.get(path).headers["X-Cache"] == "hit", within=2.0)
    with resilience.postgres.refuse():
        assert resilience.service.get(path).json()["id"] == cached["id"]
        refused = timed(lambda: resilience.service.put(f"/api/campaigns/{other['id']}", json={"message": "lost?"}))
        assert refused.status == 503
        assert refused.reply is not None
        assert int(refused.reply.headers["Retry-After"]) >= 1
        assert refused.seconds < healthy.ACQUIRE_TIMEOUT + healthy.SLACK, "refused connections must fail at once"
        message = "Postgres is away, and /readyz still says ready"
        eventually_or_fail(lambda: resilience.service.get("/readyz").status_code == 503, within=2.0, message=message)
    recovers(lambda: resilience.service.get("/readyz").status_code == 200, within=healthy.POSTGRES_BACK_WITHIN)
    recovers(
        lambda: resilience.service.put(f"/api/campaigns/{other['id']}", json={"message": "kept"}).status_code == 200,
        within=healthy.POSTGRES_BACK_WITHIN,
    )


def test_readyz_is_at_most_one_second_old_even_without_traffic(resilience: Resilience) -> None:
    """A balancer looks at nothing else; a server that hangs gives no error, and on a quiet night no request finds it out."""
    within = healthy.READINESS_MAX_AGE + 2 * healthy.SLACK
    with another_instance(resilience, DB_POOL_CHECK_INTERVAL=NO_POOL_CHECKS) as instance:

        def ready() -> bool:
            return instance.client.get("/readyz").status_code == 200

        with resilience.postgres.blackhole():
            message = f"Postgres hangs, and after {healthy.READINESS_MAX_AGE:g} s /readyz still says ready"
            eventually_or_fail(lambda: not ready(), within=within, message=message)
            told = instance.client.get("/readyz").json()["checks"]["postgres"]
            assert told == "down", f"/readyz does not tell that it is Postgres: {told}"
        eventually_or_fail(ready, within=within, message="Postgres is back, and /readyz does not say so")


def test_connections_closed_while_idle_fail_no_request(resilience: Resilience) -> None:
    """A failover closes every idle connection; the pool must notice before a request is sent into one."""
    campaigns = [create(resilience) for _ in range(5)]
    concurrently([lambda: resilience.service.post("/api/campaigns", json={"name": "n", "message": "m"})] * 10)
    with resilience.postgres.refuse():
        pass
    for campaign in campaigns:
        reply = resilience.service.put(f"/api/campaigns/{campaign['id']}", json={"message": "after the failover"})
        assert reply.status_code == 200, reply.text


def test_a_read_is_retried_when_its_session_is_terminated(resilience: Resilience) -> None:
    """A failover ends the sessions of statements that run; a read can be asked again, so nobody has to hear of it."""
    create(resilience)
    read = [lambda: resilience.service.get("/api/campaigns?limit=1")] * 3
    with resilience.postgres.starve(lock="campaigns") as locked, ThreadPoolExecutor(1) as thread:
        reading = thread.submit(concurrently, read)
        eventually(lambda: sessions_waiting_for_lock(resilience) == len(read), within=healthy.ACQUIRE_TIMEOUT)
        resilience.postgres.terminate_backends()
        locked.heal()
        told = [reply.status for reply in reading.result()]
    assert told == [200] * len(read), f"a read is given up when its session is ended, and not asked again: {told}"


def test_a_pool_of_silent_connections_costs_one_statement_timeout_in_all(
    resilience: Resilience, resilience_stack: Stack
) -> None:
    """A NAT forgets what idles: nothing is closed, nothing answers. The pool is full of such connections, and new ones would work."""
    skip_unless_embedded(resilience_stack, "the real Toxiproxy's toxics strike new connections too")
    limits = {"DB_COMMAND_TIMEOUT": "1", "DB_POOL_ACQUIRE_TIMEOUT": "1"}
    rest = {
        "DB_POOL_IDLE_TIMEOUT": "60",
        "DB_POOL_CHECK_INTERVAL": NO_POOL_CHECKS,
    }  # as long as a NAT's memory, in production
    with another_instance(resilience, **limits, **rest) as instance:
        path = instance.client.post("/api/campaigns", json={"name": "n", "message": "m"}).headers["Location"]
        before = service_sessions(resilience)
        with resilience.postgres.latency(seconds=0.05):  # long enough for many of them to be needed at once
            concurrently([lambda: instance.client.post("/api/campaigns", json={"name": "n", "message": "m"})] * 8)
        silent = len(service_sessions(resilience) - before)
        assert silent > 3, f"only {silent} connections idle in the pool"
        with resilience.postgres.half_open():
            asked = [timed(lambda: instance.client.put(path, json={"message": "into the void"})) for _ in range(4)]
    told = [f"{each.status} after {each.seconds:.1f} s" for each in asked]
    assert asked[0].status == 503, f"nobody can have answered that: {told}"
    assert asked[0].seconds < 1 + 1 + healthy.SLACK, f"a request took {asked[0].seconds:.1f} s; its limits are 1 s each"
    assert all(each.status == 200 for each in asked[1:]), (
        f"one connection was found silent, and its {silent} neighbours were trusted all the same: {told}"
    )


def test_no_old_value_is_served_after_a_write_with_unknown_outcome(resilience: Resilience) -> None:
    """The change happened, its answer was lost: what the caches hold may be old, so they must not be asked."""
    with another_instance(resilience, DB_COMMAND_TIMEOUT="0.5", DB_POOL_ACQUIRE_TIMEOUT="0.5") as instance:
        path = instance.client.post("/api/campaigns", json={"name": "n", "message": "new"}).headers["Location"]
        assert instance.client.put(path, json={"message": "before"}).status_code == 200  # prepares the statement
        eventually(lambda: instance.client.get(path).headers["X-Cache-Source"] == "redis", within=5.0)
        with resilience.postgres.blackhole(direction="down"):
            answer = instance.client.put(path, json={"message": "after"})
            assert answer.status_code == 503, f"nobody can know whether it happened; the answer is {answer.status_code}"
            query = "select 1 from campaigns where message = 'after'"
            eventually(lambda: sql(resilience, query), within=healthy.POSTGRES_BACK_WITHIN)
        recovers(lambda: instance.client.get("/readyz").status_code == 200, within=healthy.POSTGRES_BACK_WITHIN)
        reply = instance.client.get(path)
        source = reply.headers["X-Cache-Source"]
        assert reply.json()["message"] == "after", f"the change happened, and {source} still serves what was before"


def test_an_insert_whose_reply_was_lost_is_not_retried(resilience: Resilience, resilience_stack: Stack) -> None:
    """The statement arrived and ran, then the connection broke: whoever tries again writes the row a second time."""
    skip_unless_embedded(
        resilience_stack, "the real Toxiproxy hands over what it holds when it closes a connection: no answer is lost"
    )
    create(resilience)
    asked = {"name": "once", "message": "this may be in the table once, and not twice"}
    with ThreadPoolExecutor(1) as thread:
        with resilience.postgres.blackhole(direction="down"):
            write = thread.submit(timed, lambda: resilience.service.post("/api/campaigns", json=asked))
            eventually(lambda: sql(resilience, "select 1 from campaigns where name = 'once'"), within=5.0)
            stopped = (
                resilience.service.pause()
            )  # so that the network is well again when it finds its connection broken
            with resilience.postgres.reset():
                pass
        stopped.heal()
        outcome = write.result()
    recovers(lambda: resilience.service.get("/readyz").status_code == 200, within=healthy.POSTGRES_BACK_WITHIN)
    rows = len(sql(resilience, "select 1 from campaigns where name = 'once'"))
    assert rows == 1, f"the write was done {rows} times: an INSERT was tried again although it had happened"
    assert outcome.status == 503, f"nobody can know whether it happened; the answer is 503, not {outcome.status}"


def test_writes_are_acknowledged_only_after_they_are_durable(resilience: Resilience) -> None:
    """While Postgres can't have done it, nobody is told that it is done; and when they are told, it is in the log of Postgres."""
    changed, deleted = (f"/api/campaigns/{create(resilience)['id']}" for _ in range(2))
    with postgres_session(
        resilience, "somebody else", "begin", "lock table campaigns in share mode"
    ):  # reads go on, writes wait
        early = concurrently(
            [
                lambda: resilience.service.put(changed, json={"message": "not yet"}),
                lambda: resilience.service.delete(deleted),
                lambda: resilience.service.post("/api/campaigns", json={"name": "n", "message": "not yet"}),
            ]
        )
    told = [reply.status for reply in early]
    assert told == [503] * 3, f"acknowledged before it happened: Postgres was locked, and the answers were {told}"
    recovers(lambda: resilience.service.get("/readyz").status_code == 200, within=healthy.POSTGRES_BACK_WITHIN)

    safe = "select pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()"
    with sql_connection(resilience) as ask:
        behind = 0
        for number in range(10):
            assert resilience.service.put(changed, json={"message": f"text {number}"}).status_code == 200
            behind += not ask(safe)
            row = ask(f"select message from campaigns where id = {changed.rpartition('/')[2]}")
            assert row == f"text {number}", f"acknowledged, and Postgres still has {row!r}"
    assert behind < 5, (
        f"{behind} of 10 acknowledged writes were not in Postgres' log yet: a crash loses them (synchronous_commit)"
    )
