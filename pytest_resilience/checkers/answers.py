"""The outcomes of operations from the point of view of availability."""

from __future__ import annotations

from ..operation import Operation

NOT_SERVED = ("408", "429")  # statuses below 500 with which a service refuses a request without having judged it


def is_answer(operation: Operation) -> bool:
    """True if an operation succeeded or was rejected on its merits, such as with 404, 409, 412 or 422."""
    error = operation.error or ""
    return operation.type == "ok" or (error[:1] == "4" and error[:3].isdigit() and error[:3] not in NOT_SERVED)


def failure(operation: Operation) -> str:
    """Return the way in which an operation failed, as the end of a sentence."""
    return f"failed with {operation.error}" if operation.error else "failed"
