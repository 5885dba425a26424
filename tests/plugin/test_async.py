"""Sync and async tests, with each of the async plugins."""

from __future__ import annotations

import pytest

TEST = """
import asyncio, asyncpg, pytest
from pytest_resilience import eventually

{marker}
async def test_async(resilience):
    async def select():
        connection = await asyncpg.connect(resilience.postgres.url, timeout=1)
        try:
            return await connection.fetchval("select 1")
        finally:
            await connection.close()

    ticks, heal = 0, None
    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            if heal is not None and ticks == before + 10:
                heal()
            await asyncio.sleep(0.005)

    ticking = asyncio.create_task(tick())
    assert await select() == 1
    with resilience.postgres.refuse():
        with pytest.raises(ConnectionRefusedError):
            await select()
        strike = resilience.redis.refuse()

    async def redis_is_back():
        reader, writer = await asyncio.open_connection(resilience.redis.host, resilience.redis.port)
        writer.close()
        return True

    before, heal = ticks, strike.heal  # healed in a thread, because the loop of the test must not be blocked
    assert await eventually(redis_is_back, within=20)
    assert await eventually(select, within=5) == 1
    ticking.cancel()

def test_sync(resilience):
    pass
"""


@pytest.mark.parametrize(
    ("marker", "without"),
    [
        ("@pytest.mark.asyncio", ["-p", "no:anyio"]),
        ("@pytest.mark.anyio", ["-p", "no:asyncio"]),
    ],
    ids=["pytest-asyncio", "anyio"],
)
def test_with(project: pytest.Pytester, marker: str, without: list[str]) -> None:
    project.makepyfile(TEST.format(marker=marker))
    project.makeconftest("import pytest\n@pytest.fixture\ndef anyio_backend(): return 'asyncio'\n")
    if "no:asyncio" in without:
        project.makeini("[pytest]\naddopts = -p pytest_resilience\n")
    project.runpytest_subprocess("-W", "error", *without).assert_outcomes(passed=2)


def test_without_any_async_plugin_sync_tests_run(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\naddopts = -p pytest_resilience\n")
    project.makepyfile("def test_sync(resilience): pass")
    project.runpytest_subprocess("-p", "no:anyio", "-p", "no:asyncio").assert_outcomes(passed=1)
