"""Moments that cannot be timed from outside: a test waits for them, or a fault strikes at them."""

from __future__ import annotations

import pytest

TEST = r"""
import asyncio, threading, asyncpg, pytest, redis, redis.asyncio
from pytest_resilience import NeverHappened, SetupError

@pytest.fixture
def client(resilience):
    with redis.Redis.from_url(resilience.redis.url, retry=None, socket_timeout=10) as client:
        client.mset({"one": "first", "two": "second"})
        yield client

def test_a_waiting_command_is_met(resilience, client):
    resilience.when("redis", waits="BLMOVE").strike("redis.reset")
    with pytest.raises(redis.ConnectionError):
        client.blmove("a", "b", timeout=9)
    (strike,) = resilience.strikes
    assert strike.label == "redis.reset when BLMOVE waits in redis"
    strike.heal()
    assert strike.receipt.touched >= 1

def test_a_waiting_statement_is_waited_for(resilience):
    async def body():
        connection = await asyncpg.connect(resilience.postgres.url)
        task = asyncio.create_task(connection.execute("select pg_sleep(60)"))
        await resilience.when(resilience.postgres, waits="PG_SLEEP")
        resilience.postgres.terminate_backends()
        with pytest.raises(asyncpg.PostgresError):
            await task
        connection.terminate()
    asyncio.run(body())

def test_the_second_answer_is_the_one(resilience, client):
    resilience.when("redis", answer=2).strike("redis.reset")
    assert client.get("one") == b"first"
    with pytest.raises(redis.ConnectionError):
        client.get("two")

def test_a_held_answer_goes_on(resilience):
    async def body():
        async with redis.asyncio.Redis.from_url(resilience.redis.url) as client:
            await client.set("one", "first")
            with resilience.when("redis", answer=1) as second:
                task = asyncio.create_task(client.get("one"))
                await second
                await asyncio.sleep(0.02)
                assert not task.done()
            assert await task == b"first"
    asyncio.run(body())

def test_an_idle_connection(resilience):
    async def body():
        async with asyncpg.create_pool(resilience.postgres.url, min_size=1, max_size=1) as pool:
            await resilience.when("postgres", idle=1)
            task = asyncio.create_task(pool.execute("select pg_sleep(60)"))
            await resilience.when("postgres", waits="pg_sleep")
            with pytest.raises(NeverHappened, match="within 0.1 s that 1 connection of postgres is idle"):
                await resilience.when("postgres", idle=1, within=0.1)
            resilience.postgres.terminate_backends()
            with pytest.raises(asyncpg.PostgresError):
                await task
    asyncio.run(body())

def test_a_client_of_redis_that_waits_is_not_idle(resilience, client):
    resilience.when("redis", idle=1).wait()
    waiting = threading.Thread(target=lambda: client.blpop("none", timeout=1))
    waiting.start()
    resilience.when("redis", waits="blpop").wait()
    with pytest.raises(NeverHappened):
        resilience.when("redis", idle=1, within=0.05).wait()
    waiting.join()

def test_a_client_that_has_closed(resilience):
    client = redis.Redis.from_url(resilience.redis.url)
    client.ping()
    moment = resilience.when("redis", closed=1)
    with pytest.raises(NeverHappened, match="within 0.05 s that 1 connection of redis has closed"):
        resilience.when("redis", closed=1, within=0.05).wait()
    client.close()
    moment.wait()

def test_a_question_of_its_own(resilience, client):
    resilience.when(lambda: client.get("go")).strike("redis.refuse")
    with redis.Redis.from_url(resilience.redis.url, retry=None) as other:
        other.set("go", 1)
        with pytest.raises(redis.ConnectionError):
            while True:
                other.ping()

def test_a_moment_that_does_not_come_is_vacuous(resilience, client):
    resilience.when("redis", waits="BLMOVE").strike("redis.reset")
    client.ping()

@pytest.mark.parametrize(("target", "settings", "message"), [
    ("redis", {}, "takes one of idle=, waits=, closed=, answer=, got none"),
    ("redis", {"idle": 1, "closed": 1}, "got idle, closed"),
    ("redis", {"idle": 0}, "idle= is a number from 1 on, got 0"),
    ("redis", {"waits": ""}, "waits= is a command or part of a statement"),
    ("radis", {"idle": 1}, 'takes a server, such as "redis"'),
    ("redis", {"idle": 1, "within": 0}, "within is in seconds above 0"),
])
def test_misuse(resilience, target, settings, message):
    with pytest.raises(SetupError, match=message):
        resilience.when(target, **settings)

def test_a_wrong_fault_is_refused_when_it_is_armed(resilience):
    with pytest.raises(SetupError, match="no fault named 'redis.rest'"):
        resilience.when("redis", idle=1).strike("redis.rest")
"""


def test_when(project: pytest.Pytester) -> None:
    project.makepyfile(TEST)
    result = project.runpytest_inprocess("-p", "no:asyncio", "-p", "no:anyio", "--resilience-leaks=error")
    result.stdout.fnmatch_lines(
        [
            "VACUOUS *::test_a_moment_that_does_not_come_is_vacuous: redis.reset when BLMOVE waits in redis affected no connections",
            "*= 15 passed, *1 vacuous*",
        ]
    )
