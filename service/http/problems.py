"""Errors as application/problem+json."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from ..errors import Unavailable
from ..postgres.campaigns import ValidationFailed


class Problem(JSONResponse):
    """A problem document (RFC 9457).

    Args:
        status: HTTP status.
        detail: one sentence for the client.
        headers: additional headers.
        retry_after: seconds, rounded up to at least 1, for the header Retry-After. None leaves the header out.
        extra: additional members of the document.
    """

    media_type = "application/problem+json"

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        **extra: object,
    ) -> None:
        headers = dict(headers or {})
        if retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
        content = {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
            **extra,
        }
        super().__init__(content, status, headers)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Problem(error.status_code, error.detail, headers=error.headers)


async def _unavailable(_: Request, error: Exception) -> Response:
    assert isinstance(error, Unavailable)
    return Problem(503, error.detail, retry_after=error.retry_after)


async def _validation_failed(_: Request, error: Exception) -> Response:
    assert isinstance(error, ValidationFailed)
    return Problem(422, "Some fields are invalid.", errors=error.problems)


async def _client_gone(_: Request, __: Exception) -> Response:
    return Problem(400, "The client disconnected.")


async def _unexpected(_: Request, __: Exception) -> Response:
    return Problem(500, "Internal error; the log of the service has details.")


Handler = Callable[[Request, Exception], Awaitable[Response]]
EXCEPTION_HANDLERS: dict[Any, Handler] = {
    HTTPException: _http_error,
    Unavailable: _unavailable,
    ValidationFailed: _validation_failed,
    ClientDisconnect: _client_gone,
    Exception: _unexpected,
}
