"""An operation is cancelled while its answer is held back. The next operation must get its own answer."""

from __future__ import annotations

import pytest

CLIENTS = """
import asyncio, time, asyncpg, pytest, redis.asyncio
from pytest_resilience import NeverHappened, SetupError

pytestmark = pytest.mark.asyncio

@pytest.fixture
def key(resilience):
    with redis.Redis.from_url(resilience.redis.direct_url) as client:
        client.mset({"one": "first", "two": "second"})
"""


def test_the_next_operation_gets_its_own_answer(project: pytest.Pytester) -> None:
    project.makepyfile(
        CLIENTS
        + """
@pytest.mark.parametrize("heal", ["before", "during"])
async def test_redis(resilience, key, heal):
    async with redis.asyncio.Redis.from_url(resilience.redis.url, single_connection_client=True) as client:
        await client.ping()
        answer = await resilience.redis.cancel(lambda: client.get("one"), then=lambda: client.get("two"), heal=heal)
        assert answer == b"second"
    assert resilience.strikes[0].receipt.touched and resilience.strikes[0].healed

@pytest.mark.parametrize("heal", ["before", "during"])
async def test_postgres(resilience, heal):
    async with asyncpg.create_pool(resilience.postgres.url, min_size=2, max_size=2) as pool:
        answer = await resilience.postgres.cancel(lambda: pool.fetchval("select 1"), then=lambda: pool.fetchval("select 2"), heal=heal)
        assert answer == 2

async def test_the_operation_waits_for_its_answer_when_it_is_cancelled(resilience):
    # The answer is held back before the operation learns that it has written. asyncio.wait_for swallowed a cancellation then.
    reader, writer = await asyncio.open_connection(resilience.redis.host, resilience.redis.port)

    async def write():
        time.sleep(0.01)  # the next look of the plugin is due in this turn of the loop
        await asyncio.sleep(0)
        writer.write(b"PING\\r\\n")
        time.sleep(0.05)

    async def ping():
        await asyncio.wait_for(write(), 5)
        return await reader.readline()

    await resilience.redis.cancel(ping)
    writer.close()
    await writer.wait_closed()

async def test_it_heals_after_an_operation_that_has_a_timeout(resilience, key):
    async with redis.asyncio.Redis.from_url(resilience.redis.url, retry=None, socket_timeout=0.2) as client:
        with pytest.raises(redis.TimeoutError):
            await resilience.redis.cancel(lambda: client.get("one"), then=lambda: client.get("two"), heal="after")
        assert await client.get("two") == b"second"
    assert all(strike.healed for strike in resilience.strikes)
"""
    )
    project.runpytest_subprocess("--resilience-strict").assert_outcomes(passed=6)


def test_a_wrong_use_and_a_wrong_end_are_reported(project: pytest.Pytester) -> None:
    project.makepyfile(
        CLIENTS
        + """
async def returns_7():
    return 7

async def test_around_the_proxy(resilience):
    with pytest.raises(SetupError, match="it returned 7 before any answer was held back: does its client go through the proxy"):
        await resilience.redis.cancel(returns_7)
    assert all(strike.healed for strike in resilience.strikes)

async def test_ignores_its_cancellation(resilience, key):
    async with redis.asyncio.Redis.from_url(resilience.redis.url) as client:
        over = asyncio.Event()
        async def ignores_cancellation():
            while not over.is_set():
                try:
                    await client.get("one")
                    await over.wait()
                except asyncio.CancelledError:
                    continue
        with pytest.raises(NeverHappened, match="still runs 0.3 s after it was cancelled"):
            await resilience.redis.cancel(ignores_cancellation, within=0.3)
        over.set()

async def test_then_raises(resilience, key):
    async with redis.asyncio.Redis.from_url(resilience.redis.url, single_connection_client=True) as client:
        await client.ping()
        async def fails():
            raise LookupError("of the test")
        for heal in "before", "during", "after":
            with pytest.raises(LookupError, match="of the test"):
                await resilience.redis.cancel(lambda: client.get("one"), then=fails, heal=heal)
            await client.get("two")
        async def local():
            return "local"
        with pytest.raises(SetupError, match="then= returned 'local' before its answer was held back"):
            await resilience.redis.cancel(lambda: client.get("one"), then=local, heal="during")

@pytest.mark.parametrize("end, outcome", [("return 'swallowed'", "it returned 'swallowed'"), ("raise OSError('other')", "it raised OSError")])
async def test_swallowed(resilience, key, end, outcome):
    async with redis.asyncio.Redis.from_url(resilience.redis.url, single_connection_client=True) as client:
        await client.ping()
        scope = {"client": client, "asyncio": asyncio}
        exec("async def swallows():\\n try:\\n  await client.get('one')\\n except asyncio.CancelledError:\\n  await asyncio.sleep(0.01)\\n  " + end, scope)
        with pytest.raises(NeverHappened, match=f"the operation was not cancelled: {outcome}"):
            await resilience.redis.cancel(scope["swallows"])

async def test_sends_nothing(resilience):
    async def sends_nothing():
        await asyncio.Event().wait()
    with pytest.raises(SetupError, match="sent nothing in 0.2 s .* it waits at .*locks.py:[0-9]+ in wait"):
        await resilience.redis.cancel(sends_nothing, within=0.2)

async def test_handshake(resilience, key):
    for after_connect in False, True:
        async with redis.asyncio.Redis.from_url(resilience.redis.url, single_connection_client=False) as client:
            await resilience.redis.cancel(lambda: client.get("one"), then=lambda: client.get("two"), after_connect=after_connect)
        note = resilience.strikes[-1].receipt.note
        assert ("handshake" in note) is not after_connect, note
        assert note in str(resilience.strikes[-1].receipt)

async def test_settings(resilience):
    with pytest.raises(SetupError, match="one of before, during, after"):
        await resilience.redis.cancel(returns_7, heal="never")
"""
    )
    result = project.runpytest_subprocess()
    result.stdout.fnmatch_lines(["*6 passed, 2 vacuous*"])  # two tests bypass the proxy, so that no answer is held back
