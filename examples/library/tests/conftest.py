"""No service: the inventory lives in the test's own process, and reaches its servers through the proxies."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

import inventory
from pytest_resilience import Resilience


@pytest.fixture
def connections() -> int:
    """To Postgres, of each inventory."""
    return 2


@pytest.fixture
def step() -> float:
    """Seconds for each step of an inventory that gives up soon."""
    return 0.5


@pytest.fixture(scope="session")
def resilience_schema() -> str:
    """The tables that each test finds, empty."""
    return inventory.TABLES


@pytest.fixture
async def patient(resilience: Resilience, connections: int) -> AsyncIterator[inventory.Inventory]:
    """It would wait for long: whatever ends a call is the test. Three lamps and seven chairs are in stock."""
    async with inventory.opened(
        resilience.postgres.url, resilience.redis.url, connections=connections, within=10.0
    ) as stock:
        await stock.put("lamp", 3)
        await stock.put("chair", 7)
        yield stock


@pytest.fixture
async def hasty(resilience: Resilience, connections: int, step: float) -> AsyncIterator[inventory.Inventory]:
    """It gives up soon. Three lamps are in stock."""
    async with inventory.opened(
        resilience.postgres.url, resilience.redis.url, connections=connections, within=step
    ) as stock:
        await stock.put("lamp", 3)
        yield stock
