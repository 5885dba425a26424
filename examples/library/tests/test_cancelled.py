"""A caller who is cancelled takes nothing along: no answer of somebody else, no connection, no piece of the stock."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from inventory import Inventory
from pytest_resilience import NeverHappened, Resilience, Strike, eventually


async def hit(strike: Strike, more_than: int = 0) -> int:
    """Wait until the fault has touched more than so much; returns how much."""

    async def touched() -> bool:
        return (strike.receipt.touched or 0) > more_than

    await eventually(touched, within=5)
    return strike.receipt.touched or 0


async def test_the_answer_to_a_cancelled_read_reaches_nobody_else(resilience: Resilience, patient: Inventory) -> None:
    assert [await patient.count(sku) for sku in ("lamp", "chair")] == [3, 7]  # from now on Redis knows them
    with resilience.redis.blackhole("down") as stall:
        cancelled = asyncio.create_task(patient.count("lamp"))
        held = await hit(stall)  # Redis has said 3, and the network holds it back
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        during = asyncio.create_task(patient.count("chair"))
        await hit(stall, more_than=held)
    for when, chairs in {"during": await during, "after": await patient.count("chair")}.items():
        assert chairs == 7, (
            f"asked for chairs {when} the stall, and got {chairs}: that is the cancelled caller's answer"
        )
    assert await patient.count("lamp") == 3


async def test_cancelled_callers_keep_no_connection(
    resilience: Resilience, patient: Inventory, connections: int
) -> None:
    for _ in range(connections + 1):
        with resilience.postgres.blackhole("down") as stall:
            cancelled = asyncio.create_task(patient.total())
            await hit(stall)
            cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled

    with resilience.postgres.starve(lock="stock") as lock:  # whoever reads the table waits, and is counted
        everybody = [asyncio.create_task(patient.total()) for _ in range(connections)]
        with suppress(NeverHappened):
            await hit(lock, more_than=connections - 1)
        working = lock.receipt.touched
    assert working == connections, (
        f"{working} of {connections} connections can be used: cancelled callers kept the others"
    )
    totals = await asyncio.gather(*everybody)
    assert totals == [10] * connections, f"3 lamps and 7 chairs are {totals}: an answer went to the wrong caller"


async def test_a_cancelled_reservation_takes_nothing_from_the_stock(resilience: Resilience, patient: Inventory) -> None:
    with resilience.postgres.starve(lock="reservations") as lock:
        cancelled = asyncio.create_task(patient.reserve("lamp", 2, "Ada"))
        await hit(lock)  # the pieces are taken, and the reservation can't be written down
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
    pieces = await patient.total()
    assert pieces == 10, (
        f"{10 - pieces} of 10 pieces are gone, and nobody has reserved them: half of a reservation was kept"
    )
    assert await patient.reserve("lamp", 3, "Ada"), "the three lamps are in stock, and can't be reserved"
