"""The promises of the library before, during and after a fault, and at moments that cannot be timed from outside."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

import asyncpg
import pytest

from inventory import Inventory, Unavailable
from pytest_resilience import Resilience


async def test_counts_are_steady_while_redis_is_down_or_slow(resilience: Resilience, hasty: Inventory) -> None:
    async def right() -> bool:
        return await hasty.count("lamp") == 3

    async with resilience.steady(right):
        with resilience.redis.refuse():
            assert await right()
        with resilience.redis.latency(0.1):
            assert await right()


async def test_a_connection_that_is_reset_while_idle_costs_one_call_at_most(
    resilience: Resilience, hasty: Inventory
) -> None:
    await hasty.total()
    await resilience.when("postgres", idle=1)
    with resilience.postgres.reset():
        pass
    with suppress(Unavailable):  # the reset may arrive after the call has taken the connection
        await hasty.total()
    assert await hasty.total() == 3


@pytest.fixture
async def administrator(resilience: Resilience) -> AsyncIterator[asyncpg.Connection]:
    """Open a session around the proxy, which no fault of the network strikes."""
    session = await asyncpg.connect(resilience.postgres.direct_url)
    yield session
    await session.close()


async def test_a_caller_whose_session_ends_is_refused_at_once(
    resilience: Resilience, patient: Inventory, administrator: asyncpg.Connection
) -> None:
    async with administrator.transaction():
        await administrator.execute("lock table stock")
        with resilience.when("postgres", waits="coalesce").strike("postgres.reset"), pytest.raises(Unavailable):
            await patient.total()
    assert await patient.total() == 10


async def test_an_idle_inventory_sends_nothing(resilience: Resilience, hasty: Inventory) -> None:
    assert await hasty.count("lamp") == 3
    silence = await resilience.silence(0.5)
    assert silence.receipt.touched == 2, "a connection to Postgres or Redis is not silent"
    assert await hasty.count("lamp") == 3
