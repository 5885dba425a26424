"""A call that is cancelled at any point at which it waits for the network costs other callers, the pool and the stock nothing."""

from __future__ import annotations

import asyncpg

from inventory import Inventory
from pytest_resilience import Resilience

LAMPS = 100


async def test_a_count_is_cancelled_at_every_point(resilience: Resilience, patient: Inventory) -> None:
    assert [await patient.count(sku) for sku in ("lamp", "chair")] == [3, 7]  # from now on Redis has both
    await resilience.redis.cancel_everywhere(
        lambda: patient.count("lamp"), then=lambda: patient.count("chair"), answer=7
    )


async def test_a_total_is_cancelled_at_every_point(
    resilience: Resilience, patient: Inventory, connections: int
) -> None:
    await resilience.postgres.cancel_everywhere(patient.total, size=connections)


async def test_a_reservation_is_cancelled_at_every_point(resilience: Resilience, patient: Inventory) -> None:
    """It is done or not, and never by half."""
    await patient.put("lamp", LAMPS)
    ledger = await asyncpg.connect(resilience.postgres.direct_url)

    async def adds_up() -> bool:
        free = await ledger.fetchval("select pieces from stock where sku = 'lamp'")
        reserved = await ledger.fetchval("select coalesce(sum(pieces), 0) from reservations")
        return free + reserved == LAMPS

    try:
        await resilience.postgres.cancel_everywhere(lambda: patient.reserve("lamp", 1, "Ada"), whole=adds_up)
    finally:
        await ledger.close()
