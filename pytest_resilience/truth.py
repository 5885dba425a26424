"""True and false answers of questions."""

from __future__ import annotations

import sys

# Module, class and attribute with the status, of clients whose responses are true whatever their status is.
RESPONSES = (("httpx", "Response", "status_code"), ("aiohttp", "ClientResponse", "status"))
FIRST_ERROR = 400


def is_true(answer: object) -> bool:
    """True for a true answer. A response of httpx or aiohttp is true if its status is below 400, as one of requests is."""
    for module, name, attribute in RESPONSES:
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type) and isinstance(answer, kind):
            status: int = getattr(answer, attribute)
            return status < FIRST_ERROR
    return bool(answer)
