"""True and false answers of questions."""

from __future__ import annotations

import sys

RESPONSES = {
    "httpx": "Response",
    "aiohttp": "ClientResponse",
}  # of clients whose objects are true whatever the status is
FIRST_ERROR = 400


def is_true(answer: object) -> bool:
    """True for a true answer. A response of httpx or aiohttp is true if its status is below 400, as one of requests is."""
    for module, name in RESPONSES.items():
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type) and isinstance(answer, kind):
            status: int = getattr(answer, "status_code", None) or getattr(answer, "status")  # noqa: B009  # mypy knows no attribute
            return status < FIRST_ERROR
    return bool(answer)
