"""The cancellation of an operation after it was sent, while the proxy holds its answer back.

It detects connections that return to their pool with an unread answer, connections that never return, and locks that are not released.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal, TypeVar

from ..coroutines import frames_of
from ..errors import CannotInject, NeverHappened, SetupError
from ..probes import eventually
from .fault import Strike
from .network import Blackhole, HasProxy

Result = TypeVar("Result")
Moment = Literal["before", "during", "after"]
MOMENTS = ("before", "during", "after")
# Turns of the loop from the answer that is held back to the cancellation, in which the client notices the end of its write and waits
# for the answer. Before Python 3.12, asyncio.wait_for() swallows a cancellation between the two.
TURNS = 10
HANDSHAKE = (
    "the answer held back is the first one on a connection that was opened during the fault, so it may belong to the handshake; "
    "after_connect=True lets the client connect before"
)


async def cancel(
    target: HasProxy,
    operation: Callable[[], Coroutine[Any, Any, object]],
    *,
    then: Callable[[], Awaitable[Result]] | None,
    heal: Moment,
    within: float,
    after_connect: bool,
) -> Result | None:
    """Cancel `operation` while the proxy holds its answer back, and return what `then` returns (see `NetworkFaults.cancel`)."""
    if heal not in MOMENTS:
        raise SetupError(f"heal must be one of {', '.join(MOMENTS)}, got {heal!r}")
    if then is None and heal != "before":
        raise SetupError(f"heal={heal!r} needs then=, the operation during or after which the network heals")
    if after_connect:
        await asyncio.wait_for(operation(), within)
    connections = target.proxy_handle.counters().accepted.connections
    strike = Blackhole("down").strike(target)
    task: asyncio.Task[object] = asyncio.ensure_future(operation())
    cancelled = False
    try:
        await _wait_for_answer(strike, task, within)
        if target.proxy_handle.counters().accepted.connections > connections:
            strike.note = HANDSHAKE
        for _ in range(TURNS):
            await asyncio.sleep(0)
        cancelled = task.cancel()
        await asyncio.sleep(0)
        if heal == "before":
            strike.heal()
            result = await then() if then is not None else None
        else:
            assert then is not None, "checked above"
            result = await _run_next(strike, then, heal, within)
    finally:
        strike.heal()
        if not cancelled:
            task.cancel()
        done, _ = await asyncio.wait({task}, timeout=within)
        task.cancel()
    if not done:
        raise NeverHappened(
            f"{strike.label}: the operation still runs {within:g} s after it was cancelled and the network healed"
        )
    if not task.cancelled():
        raise NeverHappened(
            f"{strike.label}: the operation was not cancelled: {_outcome(task)}; a cancelled operation has to raise CancelledError"
        ) from task.exception()
    return result


async def _run_next(strike: Strike, then: Callable[[], Awaitable[Result]], heal: Moment, within: float) -> Result:
    """Run the next operation. Heal when its answer is held back too ("during"), or not before it has ended ("after")."""
    held_bytes = _touched(strike)
    following: asyncio.Future[Result] = asyncio.ensure_future(then())
    try:
        if heal == "during":
            await _wait_until_held(strike, following, held_bytes, within)
            if following.done() and not _touched(strike) > held_bytes:
                result = following.result()  # an exception of `then` is for the test
                raise SetupError(f"{strike.label}: then= returned {result!r} before its answer was held back")
            strike.heal()
        return await asyncio.wait_for(following, within)
    finally:
        following.cancel()


async def _wait_for_answer(strike: Strike, task: asyncio.Task[Any], within: float) -> None:
    """Wait until an answer to the operation is held back.

    Raises:
        CannotInject: the proxy does not count the bytes that it holds.
        SetupError: the operation ended before that, or no answer came that could be held back.
    """
    if strike.receipt.touched is None:
        raise CannotInject(f"{strike.label}: the real Toxiproxy does not report that it holds an answer back")
    try:
        await _wait_until_held(strike, task, 0, within)
    except NeverHappened:
        raise SetupError(
            f"{strike.label}: the operation has sent nothing in {within:g} s that the server answered, it waits at {_innermost_frame(task)}"
        ) from None
    if task.done() and not _touched(strike):
        raise SetupError(
            f"{strike.label}: the operation {_outcome(task)} before any answer was held back: does its client go through the proxy?"
        ) from (None if task.cancelled() else task.exception())


async def _wait_until_held(strike: Strike, operation: asyncio.Future[Any], before: int, within: float) -> None:
    """Wait until the proxy holds more bytes of answers back than `before`, or the operation has ended."""

    async def is_held() -> bool:
        return operation.done() or _touched(strike) > before

    await eventually(is_held, within=within, every=0.002)


def _touched(strike: Strike) -> int:
    return strike.receipt.touched or 0


def _outcome(task: asyncio.Future[Any]) -> str:
    """Return how an operation has ended, as part of a sentence."""
    if task.cancelled():
        return "was cancelled"
    error = task.exception()
    return f"it returned {task.result()!r}" if error is None else f"it raised {error!r}"


def _innermost_frame(task: asyncio.Task[Any]) -> str:
    """Return file, line and function of the innermost frame in which a task waits."""
    place = "no frame"
    for frame in frames_of(task.get_coro()):
        place = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
    return place
