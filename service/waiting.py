"""Waiting with a limit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress


async def ends_within(seconds: float, waiting: Awaitable[object]) -> bool:
    """Wait for at most `seconds`, then cancel the waiting. Return True if it has ended by itself."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await waiting
            return True
    return False
