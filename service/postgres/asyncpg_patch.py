"""A patch of asyncpg that every connect of the service needs.

asyncpg requests TLS through a protocol that keeps the server's answer in a future. A connect that reaches its time-out is
cancelled. If that happens before asyncpg awaits the future, or in the same step of the event loop as the end of the
connection, the future keeps an exception that nothing retrieves. asyncio then logs "Future exception was never
retrieved". Only the load of the machine decides when this happens.
"""

from __future__ import annotations

import asyncio
from typing import Any

from asyncpg import connect_utils


def apply() -> None:
    """Make asyncpg's TLS upgrade retrieve the exception of its future. A second call has no effect."""
    if connect_utils.TLSUpgradeProto is not _TLSUpgrade:
        connect_utils.TLSUpgradeProto = _TLSUpgrade


class _TLSUpgrade(connect_utils.TLSUpgradeProto):  # type: ignore[misc]  # asyncpg has no types here
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.on_data.add_done_callback(_retrieve)


def _retrieve(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
