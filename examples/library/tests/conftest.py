"""Fixtures for an inventory in the test process, which reaches its servers through the proxies."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

import inventory
from pytest_resilience import Resilience


@pytest.fixture
def connections() -> int:
    """Return the number of connections of each inventory."""
    return 2


@pytest.fixture
def step() -> float:
    """Return the seconds for each step of the hasty inventory."""
    return 0.5


@pytest.fixture(scope="session")
def resilience_schema() -> str:
    """Return the tables that each test finds empty."""
    return inventory.TABLES


@pytest.fixture
async def patient(resilience: Resilience, connections: int) -> AsyncIterator[inventory.Inventory]:
    """Open an inventory with long timeouts, so that only the test ends a call. Stock: three lamps, seven chairs."""
    async with inventory.opened(
        resilience.postgres.url, resilience.redis.url, connections=connections, within=10.0
    ) as stock:
        await stock.put("lamp", 3)
        await stock.put("chair", 7)
        yield stock


@pytest.fixture
async def hasty(resilience: Resilience, connections: int, step: float) -> AsyncIterator[inventory.Inventory]:
    """Open an inventory with short timeouts. Stock: three lamps."""
    async with inventory.opened(
        resilience.postgres.url, resilience.redis.url, connections=connections, within=step
    ) as stock:
        await stock.put("lamp", 3)
        yield stock
