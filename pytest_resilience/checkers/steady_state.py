"""The steady state of a system before the first strike, and what may differ from it afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..operation import Operation
from .answers import is_answer


def steady_state(operations: Sequence[Operation]) -> dict[str, Any]:
    """Return the steady state of one kind of operation.

    Returns:
        "p95" in seconds, None without an answer; "error_rate" from 0 to 1; "sources", sorted.
    """
    seconds = sorted(each.end - each.time for each in operations if is_answer(each))
    return {
        "p95": round(seconds[int(0.95 * (len(seconds) - 1))], 6) if seconds else None,
        "error_rate": (len(operations) - len(seconds)) / len(operations) if operations else 0.0,
        "sources": sorted({each.source for each in operations if each.source is not None}),
    }


def allowed_growth(clients: int) -> int:
    """Return how many more connections than in the baseline a pool may have after the work of some clients.

    The baseline has one client. Each client may have used one connection, and another one after a time-out.
    """
    return 2 * clients + 5
