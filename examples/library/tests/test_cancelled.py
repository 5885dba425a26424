"""A cancelled caller costs other callers no answer, the pool no connection, and the stock no piece."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from inventory import Inventory
from pytest_resilience import NeverHappened, Resilience, Strike, eventually


async def hit(strike: Strike, more_than: int = 0) -> int:
    """Wait until the fault has touched more than `more_than`. Return the number."""

    async def touched() -> bool:
        return (strike.receipt.touched or 0) > more_than

    await eventually(touched, within=5)
    return strike.receipt.touched or 0


async def test_the_answer_to_a_cancelled_read_reaches_no_other_caller(
    resilience: Resilience, patient: Inventory
) -> None:
    assert [await patient.count(sku) for sku in ("lamp", "chair")] == [3, 7]  # from now on Redis has both
    with resilience.redis.blackhole("down") as stall:
        cancelled = asyncio.create_task(patient.count("lamp"))
        held = await hit(stall)  # Redis has answered 3, and the network holds the answer back
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        during = asyncio.create_task(patient.count("chair"))
        await hit(stall, more_than=held)
    for when, chairs in {"during": await during, "after": await patient.count("chair")}.items():
        assert chairs == 7, f"a count of chairs {when} the stall returned {chairs}, the answer to the cancelled caller"
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

    with resilience.postgres.starve(lock="stock") as lock:  # every reader of the table waits, and is counted
        readers = [asyncio.create_task(patient.total()) for _ in range(connections)]
        with suppress(NeverHappened):
            await hit(lock, more_than=connections - 1)
        working = lock.receipt.touched
    assert working == connections, (
        f"{working} of {connections} connections can be used: cancelled callers kept the others"
    )
    totals = await asyncio.gather(*readers)
    assert totals == [10] * connections, f"3 lamps and 7 chairs are {totals}: an answer went to the wrong caller"


async def test_a_cancelled_reservation_takes_nothing_from_the_stock(resilience: Resilience, patient: Inventory) -> None:
    with resilience.postgres.starve(lock="reservations") as lock:
        cancelled = asyncio.create_task(patient.reserve("lamp", 2, "Ada"))
        await hit(lock)  # the pieces are taken, and the reservation waits for the lock
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
    pieces = await patient.total()
    assert pieces == 10, (
        f"{10 - pieces} of 10 pieces are gone without a reservation: half of a transaction was committed"
    )
    assert await patient.reserve("lamp", 3, "Ada"), "the three lamps are in stock, and can't be reserved"
