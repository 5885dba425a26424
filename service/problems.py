"""Errors as application/problem+json, and the gate that every request goes through."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .campaigns import ValidationFailed
from .errors import Unavailable
from .health import Lifecycle
from .memory import GarbageCollector, MemoryGuard

log = logging.getLogger("service.http")

ESSENTIAL_PATHS = ("/health", "/livez", "/readyz", "/api/db-cleanup")
MEMORY_RETRY_AFTER = 2


class Problem(JSONResponse):
    """RFC 9457."""

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


class LoadSheddingMiddleware:
    """Refuses work while memory is short, counts what is being worked on, and turns an allocation that failed into 503."""

    def __init__(self, app: ASGIApp, *, lifecycle: Lifecycle, guard: MemoryGuard, collector: GarbageCollector) -> None:
        self._app = app
        self._lifecycle = lifecycle
        self._guard = guard
        self._collector = collector

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._guard.refusing and scope["path"] not in ESSENTIAL_PATHS:
            await _out_of_memory()(scope, receive, send)
            return
        started = False

        async def tracking_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            with self._lifecycle.track_request():
                await self._app(scope, receive, tracking_send)
        except MemoryError:
            self._collector.release_reserve()
            if started:
                raise
            log.error("out of memory while answering a request")
            await _out_of_memory()(scope, receive, send)


def _out_of_memory() -> Problem:
    return Problem(503, "The service is short of memory.", retry_after=MEMORY_RETRY_AFTER)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Problem(error.status_code, error.detail, headers=error.headers)


async def _unavailable(_: Request, error: Exception) -> Response:
    assert isinstance(error, Unavailable)
    return Problem(503, error.detail, retry_after=error.retry_after)


async def _validation_failed(_: Request, error: Exception) -> Response:
    assert isinstance(error, ValidationFailed)
    return Problem(422, "Some fields are not as they should be.", errors=error.problems)


async def _client_gone(_: Request, __: Exception) -> Response:
    return Problem(400, "The client went away.")


async def _unexpected(_: Request, __: Exception) -> Response:
    return Problem(500, "The service made a mistake; its log has more.")


Handler = Callable[[Request, Exception], Awaitable[Response]]
EXCEPTION_HANDLERS: dict[Any, Handler] = {
    HTTPException: _http_error,
    Unavailable: _unavailable,
    ValidationFailed: _validation_failed,
    ClientDisconnect: _client_gone,
    Exception: _unexpected,
}
