"""Repairs of asyncpg that every connect of the service needs.

asyncpg asks the server for TLS through a protocol that keeps the answer in a future. A connect that reaches its time-out
is cancelled, and when that happens before asyncpg awaits the future, or in the same step of the event loop as the end of
the connection, the future keeps an exception that nothing retrieves. asyncio then logs "Future exception was never
retrieved" at a moment that only the load of the machine decides.
"""

from __future__ import annotations

import asyncio
from typing import Any

from asyncpg import connect_utils


def apply() -> None:
    """Let asyncpg's TLS upgrade retrieve the exception of its own future. Calling twice is harmless."""
    if connect_utils.TLSUpgradeProto is not _TLSUpgrade:
        connect_utils.TLSUpgradeProto = _TLSUpgrade


class _TLSUpgrade(connect_utils.TLSUpgradeProto):  # type: ignore[misc]  # asyncpg has no types here
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.on_data.add_done_callback(_retrieve)


def _retrieve(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
