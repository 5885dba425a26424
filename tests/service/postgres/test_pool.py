"""The pool, measured with a fake clock and struck by real faults."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pytest_resilience import eventually
from service.errors import Unavailable
from service.postgres.pool import Database, NoConnectionForWorker, PoolUsage
from service.postgres.status import PostgresStatus
from service.settings import ServiceSettings

from ..support import backends, sql


class FakeClock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_use_is_an_average_over_time():
    clock = FakeClock()
    usage = PoolUsage(20, clock)
    usage.add(+20)
    clock.now += 28
    usage.add(-12)
    clock.now += 2
    assert usage.percent() == pytest.approx((28 * 20 + 2 * 8) / (30 * 20) * 100)
    clock.now += 10
    assert usage.percent() == pytest.approx(40.0)


def test_busy_seconds_add_up_over_all_windows():
    clock = FakeClock()
    usage = PoolUsage(20, clock)
    usage.add(+2)
    clock.now += 10
    assert usage.total_busy_seconds() == 20.0
    usage.percent()  # begins a new window
    clock.now += 5
    assert usage.total_busy_seconds() == 30.0


def test_average_use_never_exceeds_the_use_however_late_the_clock_is_read():
    times = iter([0.0, 1.0, 2.0, 10.0, 11.0, 20.0, 21.0, 30.0])  # a process that is delayed between some readings
    usage = PoolUsage(10, lambda: next(times))
    usage.add(+9)
    usage.percent()
    assert [usage.percent() for _ in range(2)] == [90.0] * 2


def test_a_window_without_duration_returns_the_present_use():
    usage = PoolUsage(4, FakeClock())
    usage.add(+1)
    assert usage.percent() == 25.0


def test_a_full_pool_answers_503_in_time_and_recovers_to_full_capacity(resilience, service, campaign):
    url = f"/api/campaigns/{campaign['id']}"
    with resilience.postgres.starve(lock="campaigns"), ThreadPoolExecutor(12) as pool:
        held = [pool.submit(service.put, url, json={"name": "x"}) for _ in range(5)]
        eventually(lambda: backends(resilience, waiting=True) == 5, within=2)
        started = time.monotonic()
        late = service.get("/api/campaigns")
        assert time.monotonic() - started < 0.5 + 1  # acquire timeout, slack; locked requests take up to 3
        assert late.status_code == 503
        assert int(late.headers["Retry-After"]) >= 1
        assert {reply.result().status_code for reply in held} == {503}  # lock timeout
        assert service.get("/readyz").status_code == 200
        assert backends(resilience) <= 5
    sql(resilience, "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    with ThreadPoolExecutor(30) as pool:
        replies = list(pool.map(lambda _: service.get("/api/campaigns").status_code, range(60)))
    assert set(replies) == {200}


@pytest.mark.parametrize("fault", ["refuse", "reset", "blackhole", "pause", "kill"])
def test_every_fault_of_postgres_is_a_503_within_bounds_and_heals(resilience, service, campaign, fault):
    url = f"/api/campaigns/{campaign['id']}"
    strike = getattr(resilience.postgres, fault)()
    started = time.monotonic()
    replies = [service.get("/api/campaigns"), service.put(url, json={"name": "lost"})]
    assert time.monotonic() - started < 2 * (0.5 + 3 + 1)  # acquire timeout, command timeout, slack
    assert {r.status_code for r in replies} == {503}, [r.text for r in replies]
    assert all(int(r.headers["Retry-After"]) >= 1 for r in replies)
    eventually(lambda: service.get("/readyz").status_code == 503, within=1 + 1)  # 1 s is the promise, 1 s is slack
    assert service.get("/readyz").json()["checks"]["postgres"] == "down"
    strike.heal()
    eventually(lambda: service.get("/readyz").status_code == 200, within=3)
    assert service.get("/api/campaigns").status_code == 200
    assert service.put(url, json={"name": "found"}).status_code == 200
    assert service.get(url).json()["name"] == "found"


def test_a_read_survives_the_loss_of_idle_connections(resilience, service):
    with resilience.postgres.latency(0.05), ThreadPoolExecutor(5) as pool:
        assert {r.status_code for r in pool.map(lambda _: service.get("/api/campaigns"), range(5))} == {200}
    assert backends(resilience) > 1
    sql(resilience, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'service%'")
    assert service.get("/api/campaigns").status_code == 200


def test_idle_connections_are_closed(resilience, service):
    assert service.get("/api/campaigns").status_code == 200
    assert backends(resilience) == 1
    eventually(lambda: backends(resilience) == 0, within=6)


def test_a_dropped_table_is_created_again(resilience, service):
    sql(resilience, "DROP TABLE campaigns")
    assert service.get("/api/campaigns").status_code == 503
    eventually(lambda: service.get("/api/campaigns").status_code == 200, within=3)


async def with_database(resilience, body, **settings):
    values = {"db_pool_max": 2, "db_pool_acquire_timeout": 1.0, "db_command_timeout": 2.0, **settings}
    database = Database(ServiceSettings(database_url=resilience.postgres.url, **values), "t3st", PostgresStatus())
    await database.start()
    try:
        return await body(database)
    finally:
        await database.close()


def test_a_checkout_that_ends_after_a_stop_of_the_process_is_no_leak(resilience):
    async def scene(database):
        held = database._checkout()
        await held.__aenter__()
        for checkout in database._checkouts:
            checkout.deadline = 0  # has passed while the process was stopped
        ending = asyncio.create_task(held.__aexit__(None, None, None))
        await database.settle()
        assert database.sweep_leaked() == []
        await ending

    asyncio.run(with_database(resilience, scene))


def test_a_leaked_connection_is_closed_and_its_slot_is_free_again(resilience):
    async def scene(database):
        leaks = [database._checkout() for _ in range(2)]
        connections = [await leak.__aenter__() for leak in leaks]
        assert database.sweep_leaked() == [], "these may still be in use"
        with pytest.raises(Unavailable):
            await database.read("SELECT 1")
        for checkout in database._checkouts:
            checkout.deadline = 0
        pids = {connection.get_server_pid() for connection in connections}
        assert set(database.sweep_leaked()) == pids
        assert database.usage.in_use == 0
        rows = await asyncio.gather(*(database.read("SELECT 1") for _ in range(10)))
        assert len(rows) == 10
        for leak in leaks:
            await leak.__aexit__(None, None, None)  # the leaking task returns the connection after all
        assert database.usage.in_use == 0
        assert len(await asyncio.gather(*(database.read("SELECT 1") for _ in range(10)))) == 10

    asyncio.run(with_database(resilience, scene))


def test_a_statement_ends_in_time_also_while_a_type_is_looked_up(resilience):
    async def scene(database):
        await database.read("SELECT 1")
        with resilience.postgres.latency(
            1.4
        ):  # longer than half the time limit, so each round trip is in time by itself
            started = time.monotonic()
            with pytest.raises(Unavailable):
                await database.read(
                    "SELECT $1::int[]", [1]
                )  # asyncpg looks up the type of an array on each new connection
            assert time.monotonic() - started < 2.0 + 0.7  # command timeout, slack

    asyncio.run(with_database(resilience, scene))


def test_both_tries_of_a_read_have_the_time_of_one(resilience):
    async def scene(database):
        started = time.monotonic()
        reading = asyncio.ensure_future(database.read("SELECT pg_sleep(10)"))
        await asyncio.sleep(1.7)
        (checkout,) = database._checkouts
        await asyncio.to_thread(sql, resilience, f"SELECT pg_terminate_backend({checkout.pid})")
        with pytest.raises(Unavailable):
            await reading
        assert time.monotonic() - started < 0.5 + 2.0 + 0.5  # acquire timeout, command timeout, slack

    asyncio.run(with_database(resilience, scene, db_pool_acquire_timeout=0.5))


def test_a_slow_release_does_not_delay_a_request_past_its_deadline(resilience):
    async def scene(database):
        await database.read("SELECT 1")
        with resilience.postgres.latency(0.9):
            started = time.monotonic()
            await database.read("SELECT 1")  # its one round trip is in time, and that of the release is not
            assert time.monotonic() - started < 0.1 + 1.0 + 0.5  # acquire timeout, command timeout, slack
        assert database.usage.in_use == 0

    asyncio.run(with_database(resilience, scene, db_pool_acquire_timeout=0.1, db_command_timeout=1.0))


def test_cancelled_requests_leave_no_connection_behind(resilience):
    async def scene(database):
        for round_ in range(20):
            tasks = [asyncio.ensure_future(database.read("SELECT pg_sleep(0.01)")) for _ in range(8)]
            await asyncio.sleep(0.002 * round_)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert database.usage.in_use == 0
        assert len(await asyncio.gather(*(database.read("SELECT 1") for _ in range(10)))) == 10

    asyncio.run(with_database(resilience, scene, db_pool_acquire_timeout=5))


def test_a_dead_connection_closes_the_idle_ones(resilience):
    async def scene(database):
        await asyncio.gather(*(database.read("SELECT pg_sleep(0.05)") for _ in range(3)))
        assert database.size() == 3
        with resilience.postgres.blackhole(), pytest.raises(Unavailable):
            await database.read("SELECT 1")
        assert database.size() == 0
        await database.read("SELECT 1")

    asyncio.run(with_database(resilience, scene, db_pool_max=3, db_command_timeout=1.0))


def test_a_transaction_is_committed_as_a_whole_or_not_at_all(resilience):
    sql(resilience, "CREATE TABLE IF NOT EXISTS numbers (n int)")

    async def scene(database):
        async with database.for_workers.transaction() as transaction:
            await transaction.fetch("INSERT INTO numbers VALUES (1)")
        with pytest.raises(ZeroDivisionError):
            async with database.for_workers.transaction() as transaction:
                await transaction.fetch("INSERT INTO numbers VALUES (2)")
                raise ZeroDivisionError
        with pytest.raises(Unavailable):
            async with database.for_workers.transaction() as transaction:
                await transaction.fetch("INSERT INTO numbers VALUES (3)")
                await transaction.fetch("SELECT 1 / 0")
        assert [row["n"] for row in await database.read("SELECT n FROM numbers")] == [1]
        assert database.usage.in_use == 0

    asyncio.run(with_database(resilience, scene))


def test_a_transaction_is_ended_after_the_time_of_a_statement_and_of_the_gateway(resilience):
    async def scene(database):
        started = time.monotonic()
        with pytest.raises(Unavailable):
            async with database.for_workers.transaction():
                await asyncio.sleep(10)
        assert 0.8 <= time.monotonic() - started < 3
        assert database.usage.in_use == 0

    asyncio.run(with_database(resilience, scene, gateway_timeout=0.5, db_command_timeout=0.3))


def test_neither_a_sweep_nor_postgres_ends_a_transaction_that_waits_for_the_gateway(resilience):
    async def scene(database):
        async with database.for_workers.transaction() as transaction:
            (checkout,) = database._checkouts
            assert checkout.deadline > time.monotonic() + 60
            row = await transaction.fetchrow("SHOW idle_in_transaction_session_timeout")
            assert row[0] == "65s"

    asyncio.run(with_database(resilience, scene, gateway_timeout=60, db_command_timeout=5))


def test_workers_leave_a_connection_to_requests(resilience):
    async def scene(database):
        async with database.for_workers.transaction():
            with pytest.raises(NoConnectionForWorker):
                await database.for_workers.read("SELECT 1")
            assert await database.read("SELECT 1")

    asyncio.run(with_database(resilience, scene, db_pool_acquire_timeout=0.2))
