"""Faults by statement through the plugin: what a test writes, what it sees, and what the summary shows."""

from __future__ import annotations

import pytest

CLIENTS = """
import asyncio
import asyncpg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from pytest_resilience import SetupError, eventually

@pytest.fixture
def cache(resilience):
    with redis.Redis.from_url(resilience.redis.url, decode_responses=True, retry=Retry(NoBackoff(), 0)) as client:
        client.set("campaign:1", "one")
        yield client

def postgres(resilience, work, **settings):
    async def run():
        connection = await asyncpg.connect(resilience.postgres.url, timeout=30, **settings)
        try:
            return await asyncio.wait_for(work(connection), 30)
        finally:
            connection.terminate()
    return asyncio.run(run())
"""


@pytest.fixture
def run(pytester):
    """Run tests with the clients above, and return the result."""

    def run(body, *options):
        pytester.makepyfile(CLIENTS + body)
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", "--resilience-leaks=off", "-v", *options)

    return run


def test_the_issue_in_one_test(run):
    result = run(
        """
def test_commit_in_doubt(resilience):
    async def work(connection):
        await connection.execute("create table campaigns (id int)")
        with resilience.postgres.on("commit").lose_answer() as strike:
            with pytest.raises((asyncpg.PostgresConnectionError, OSError)):
                async with connection.transaction():
                    await connection.execute("insert into campaigns values (1)")
        assert (strike.receipt.touched, strike.receipt.unit) == (1, "statements")
        assert strike.receipt.shown == ("COMMIT;",)
    postgres(resilience, work)
    async def read(connection):
        return await connection.fetchval("select count(*) from campaigns")
    assert postgres(resilience, read) == 1

def test_second_update(resilience):
    async def work(connection):
        await connection.execute("create table campaigns (id int); insert into campaigns values (1)")
        with resilience.postgres.on("update", matching="campaigns", nth=2).error("40001") as strike:
            await connection.execute("update campaigns set id = 2")
            with pytest.raises(asyncpg.SerializationError):
                await connection.execute("update campaigns set id = 3")
            await connection.execute("update campaigns set id = 4")
        assert strike.receipt.touched == 1
        assert strike.receipt.shown == ("update campaigns set id = ?",)
    postgres(resilience, work)

def test_connect(resilience):
    with resilience.postgres.on("connect").error("53300"), pytest.raises(asyncpg.TooManyConnectionsError):
        postgres(resilience, None)

def test_redis(resilience, cache):
    with resilience.redis.on("get", key="campaign:*").first(3).error("LOADING") as strike:
        for _ in range(3):
            with pytest.raises(redis.exceptions.BusyLoadingError):
                cache.get("campaign:1")
        assert cache.get("campaign:1") == "one"
        assert cache.get("other") is None
    assert (strike.receipt.touched, strike.receipt.unit) == (3, "commands")
    assert str(strike.receipt).endswith("s: GET campaign:?; GET campaign:?; GET campaign:?")

def test_evalsha(resilience, cache):
    script = cache.register_script("return redis.call('incr', KEYS[1])")
    script(keys=["n"])
    with resilience.redis.on("evalsha").lose_answer(), pytest.raises(redis.ConnectionError):
        script(keys=["n"])
    assert cache.get("n") == "2"

@pytest.mark.fault("postgres.on", "commit", act="lose_answer")
def test_marker(resilience):
    async def work(connection):
        async with connection.transaction():
            await connection.execute("create table campaigns (id int)")
    with pytest.raises((asyncpg.PostgresConnectionError, OSError)):
        postgres(resilience, work)

def test_strike_by_name(resilience, cache):
    with resilience.strike("redis.on", "get", act="error", code="OOM"), pytest.raises(redis.exceptions.OutOfMemoryError):
        cache.get("campaign:1")

def test_shorthands(resilience, cache):
    with resilience.redis.loading_replies(commands=1), pytest.raises(redis.exceptions.BusyLoadingError):
        cache.get("campaign:1")
    async def work(connection):
        await connection.execute("create table campaigns (id int)")
        with resilience.postgres.serialization_failure(nth=2):
            await connection.execute("insert into campaigns values (1)")
            with pytest.raises(asyncpg.SerializationError):
                await connection.execute("update campaigns set id = 2")
        with resilience.postgres.deadlock(), pytest.raises(asyncpg.DeadlockDetectedError):
            await connection.execute("insert into campaigns values (2)")
        with resilience.postgres.commit_in_doubt(), pytest.raises((asyncpg.PostgresConnectionError, OSError)):
            async with connection.transaction():
                await connection.execute("insert into campaigns values (3)")
    postgres(resilience, work)
""",
        "--resilience-strict",
    )
    result.assert_outcomes(passed=8)
    result.stdout.fnmatch_lines(
        ["postgres.on: 4 strikes, all hit (4 statements)", "redis.on: 3 strikes, all hit (5 commands)"]
    )


def test_a_statement_that_does_not_come_is_vacuous(run):
    result = run(
        """
@pytest.mark.fault("redis.on", "evalsha", act="lose_answer")
def test_vacuous(resilience, cache):
    cache.get("a")

def test_no_act(resilience, cache):
    with resilience.redis.on("get", nth=9).error("LOADING"):
        cache.get("a")
""",
        "--resilience-strict",
    )
    assert result.parseoutcomes() == {"vacuous": 2, "errors": 2}
    result.stdout.fnmatch_lines(["*no evalsha came*", "*1 command matched, and the counts chose none*"])


def test_an_event_starts_a_fault(run):
    result = run(
        """
import time

def test_event(resilience, cache):
    with resilience.redis.after("exec", n=2).refuse() as strike:
        assert str(strike.receipt) == "affected no connections (0 of 2 exec came, so the fault did not strike)"
        for _ in range(2):
            cache.pipeline(transaction=True).set("a", 1).execute()
        deadline = time.monotonic() + 10
        with pytest.raises(redis.ConnectionError):
            while time.monotonic() < deadline:
                cache.get("a")
        eventually(lambda: strike.in_force, within=10)
    assert cache.get("a") == "1"
    assert strike.receipt.touched >= 1
    assert strike.label == "redis.after('exec', n=2).refuse()"

@pytest.mark.fault("postgres.after", "commit", fault="latency", settings={"seconds": 0.01})
def test_event_that_does_not_come(resilience):
    async def work(connection):
        await connection.execute("select 1")
    postgres(resilience, work)

def test_event_with_wrong_settings(resilience):
    with pytest.raises(SetupError, match="n must be"):
        resilience.redis.after("exec", n=0)
    with pytest.raises(SetupError, match="seconds must be at least"):
        resilience.redis.after("exec").latency(0)
""",
        "--resilience-strict",
    )
    assert result.parseoutcomes() == {"passed": 2, "vacuous": 1, "errors": 1}
    result.stdout.fnmatch_lines(["*0 of 1 commit came, so the fault did not strike*"])


def test_the_backends_show_where_statements_can_be_struck(pytester):
    result = pytester.runpytest_subprocess("--resilience-backends")
    result.stdout.re_match_lines_random(
        [
            r"postgres\.on +yes +no",
            r"redis\.after +yes +no",
            r".*docker: Toxiproxy reads no statements$",
            r".*external: Toxiproxy reads no statements; the proxy of this package can",
        ]
    )


def test_a_schedule_has_statements_as_steps_and_triggers(run):
    result = run("""
from pytest_resilience.schedule import Episode, Schedule, Step, end, operations, statement, touched
from pytest_resilience.workloads import RedisRegisters
import redis.asyncio

def test_schedule(resilience):
    schedule = Schedule([Episode([
        Step("redis.on", {"verb": "set", "act": "error", "code": "OOM", "first": 1}, until=touched(1)),
        Step("redis.refuse", at=statement("set", 3), until=touched(1)),
    ], operations=300)])
    history = resilience.play(Schedule.loads(schedule.dumps()), RedisRegisters(redis.asyncio.Redis.from_url), clients=2)
    labels = [each.label for each in history.faults]
    assert [label.partition("(")[0] for label in labels] == ["redis.on", "redis.refuse"], labels
    assert resilience.strikes[0].receipt.touched == 1
""")
    result.assert_outcomes(passed=1)


def test_copy_by_calls_markers_and_schedules(run):
    result = run("""
from pytest_resilience.schedule import Episode, Schedule, Step, touched

async def create(connection):
    await connection.execute("create table contacts (id int)")

async def copy_in(connection):
    await create(connection)
    with pytest.raises((asyncpg.PostgresConnectionError, OSError)):
        await connection.copy_records_to_table("contacts", records=[(1,), (2,)], columns=["id"])

async def copy_out(connection):
    with pytest.raises((asyncpg.PostgresConnectionError, OSError)):
        await connection.copy_from_query("select 1", output=lambda data: None)

async def ids(connection):
    return [row["id"] for row in await connection.fetch("select id from contacts order by id")]

def test_call(resilience):
    with resilience.postgres.on("copy").lose_answer() as strike:
        postgres(resilience, copy_in)
        postgres(resilience, copy_out)
    assert postgres(resilience, ids) == [1, 2]
    assert strike.receipt.touched == 2 and strike.receipt.unit == "statements"
    assert strike.receipt.shown[0].startswith("COPY "), strike.receipt.shown

@pytest.mark.fault("postgres.on", verb="copy", act="lose_answer", first=1)
def test_marker(resilience):
    postgres(resilience, copy_in)
    assert postgres(resilience, ids) == [1, 2]
    assert resilience.strikes[0].receipt.touched == 1

def test_step_of_a_schedule(resilience):
    step = Step("postgres.on", {"verb": "copy", "act": "lose_answer", "first": 1}, until=touched(1))
    schedule = Schedule.loads(Schedule([Episode([step], operations=5)]).dumps())
    (loaded,) = schedule.episodes[0].steps
    with resilience.strike(loaded.fault, **loaded.settings) as strike:
        postgres(resilience, copy_in)
    assert strike.receipt.touched == 1
    assert postgres(resilience, ids) == [1, 2]
""")
    result.assert_outcomes(passed=3)
