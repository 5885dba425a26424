"""A fault of the caller's own: its operation is cancelled after it was sent, while the answer is held back.

What is found out so: connections that go back into a pool with somebody else's answer still to come, connections that never go back,
locks that stay taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal, TypeVar

from ..errors import CannotInject, NeverHappened, SetupError
from ..probes import eventually
from .fault import Strike
from .network import Blackhole, NetworkTarget

Answer = TypeVar("Answer")
Moment = Literal["before", "during", "after"]
MOMENTS = ("before", "during", "after")


async def cancel(
    target: NetworkTarget,
    operation: Callable[[], Coroutine[Any, Any, object]],
    *,
    then: Callable[[], Awaitable[Answer]] | None,
    heal: Moment,
    within: float,
) -> Answer | None:
    """Cancel `operation` while its answer is held back in the proxy, and see what `then` gets; see `NetworkFaults.cancel`."""
    if heal not in MOMENTS:
        raise SetupError(f"heal must be one of {', '.join(MOMENTS)}, got {heal!r}")
    strike = Blackhole("down").strike(target)
    task: asyncio.Task[object] = asyncio.ensure_future(operation())
    try:
        await _held(strike, task, 0, within)
        task.cancel()
        await asyncio.sleep(0)
        if heal == "before":
            strike.heal()
            answer = await then() if then is not None else None
        else:
            answer = await _next(strike, then, heal, within)
    finally:
        strike.heal()
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=within)
    if not done:
        raise NeverHappened(
            f"{strike.label}: the operation is still there {within:g} s after it was cancelled and the network healed"
        )
    return answer


async def _next(
    strike: Strike, then: Callable[[], Awaitable[Answer]] | None, heal: Moment, within: float
) -> Answer | None:
    """The next operation, of which the answer is held back too, until or beyond its end."""
    if then is None:
        raise SetupError(f"heal={heal!r} is seen from the next operation: say then=")
    held = strike.receipt.touched or 0
    following: asyncio.Future[Answer] = asyncio.ensure_future(then())
    try:
        if heal == "during":
            await _held(strike, following, held, within)
            strike.heal()
        return await asyncio.wait_for(following, within)
    finally:
        following.cancel()


async def _held(strike: Strike, task: asyncio.Future[Any], before: int, within: float) -> None:
    """Wait until more of the server's answers is held back than before, or the operation is over without one."""
    if strike.receipt.touched is None:
        raise CannotInject(f"{strike.label}: the real Toxiproxy does not tell when an answer is held back")

    async def held() -> bool:
        return task.done() or (strike.receipt.touched or 0) > before

    await eventually(held, within=within, every=0.002)
    if task.done() and not (strike.receipt.touched or 0) > before:
        how = "was cancelled" if task.cancelled() else f"ended with {task.exception() or task.result()!r}"
        raise SetupError(
            f"{strike.label}: the operation {how} before any answer was held back: does its client go through the proxy?"
        )
