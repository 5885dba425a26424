"""The removal of what deleted campaigns have left in other tables, which have no foreign key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from ..errors import Unavailable


async def remove_at_intervals(seconds: float, remove: Callable[[], Awaitable[int | None]]) -> None:
    """Call `remove` every `seconds` seconds until cancelled, each time until it has removed nothing more.

    Args:
        seconds: from the end of one removal to the next.
        remove: returns the number of removed rows, or None if it always removes all.
    """
    while True:
        await asyncio.sleep(seconds)
        with suppress(Unavailable):  # the next run removes them
            while await remove():
                pass
