"""A silent server costs a call no more than its deadline, and connections that died silently are replaced."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine

from inventory import Inventory, Unavailable
from pytest_resilience import Resilience, eventually

SLACK = 1.0  # seconds for everything but waiting, on a busy machine
HANGS = 15.0  # seconds


async def timed(call: Coroutine[None, None, int]) -> tuple[float, asyncio.Task[int]]:
    """Return the duration of a call and its task. A call that hangs is not cancelled, because that could hang, too."""
    begin = time.monotonic()
    task = asyncio.create_task(call)
    done, _ = await asyncio.wait({task}, timeout=HANGS)
    assert done, f"the call has not ended in {HANGS:g} s: it hangs"
    return time.monotonic() - begin, task


async def test_silent_redis_costs_a_count_one_step(resilience: Resilience, hasty: Inventory, step: float) -> None:
    assert await hasty.count("lamp") == 3
    with resilience.redis.blackhole():
        seconds, counted = await timed(hasty.count("lamp"))
    assert counted.exception() is None, (
        f"Redis is silent, and the count did not come from Postgres: {counted.exception()!r}"
    )
    assert counted.result() == 3
    assert seconds < step + SLACK, (
        f"Redis is silent, and a count waited {seconds:.2f} s for it; promised are {step:g} s"
    )
    assert await hasty.count("lamp") == 3


async def test_silent_postgres_is_unavailable_in_time(resilience: Resilience, hasty: Inventory, step: float) -> None:
    with resilience.postgres.blackhole():
        seconds, total = await timed(hasty.total())
        refused = total.exception()
    assert isinstance(refused, Unavailable), f"Postgres is silent, and the caller got {refused!r}"
    promised = 3 * step + SLACK  # acquire, statement, release
    assert seconds < promised, f"Postgres is silent, and a call waited {seconds:.2f} s; promised are {3 * step:g} s"
    assert await eventually(hasty.total, within=5) == 3


async def test_connections_that_died_silently_are_replaced(resilience: Resilience, hasty: Inventory) -> None:
    resilience.postgres.half_open()  # the pool's connection is silently dead until the end of the test; new ones work
    _, first = await timed(hasty.total())
    assert isinstance(first.exception(), Unavailable), (
        f"the connection is dead, and the caller got {first.exception()!r}"
    )
    _, second = await timed(hasty.total())
    assert second.exception() is None, (
        f"the dead connection went back into the pool, and was used again: {second.exception()!r}"
    )
    assert second.result() == 3
