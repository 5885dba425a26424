"""The numbers among the values of operations."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

TOLERANCE = 1e-9  # relative and absolute; sums of floats are not exact


def number(value: Any) -> int | float | None:
    """Return a value as a number, or None if it is none. A text or bytes that Redis or JSON has made of a number is one."""
    if isinstance(value, int | float):
        return None if isinstance(value, bool) else value
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    try:
        exact = Decimal(value) if isinstance(value, str | Decimal) else None
    except InvalidOperation:
        return None
    if exact is None or not exact.is_finite():
        return None
    return int(exact) if exact == exact.to_integral_value() else float(exact)
