"""Load shedding. While memory is short, only the essential routes are served, and no new websocket is accepted."""

from __future__ import annotations

import contextlib
import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..health import Lifecycle
from ..memory.collector import GarbageCollector
from ..memory.guard import MemoryGuard
from .problems import Problem

log = logging.getLogger("service.http")

ESSENTIAL_PATHS = ("/health", "/livez", "/readyz", "/metrics", "/api/db-cleanup")
LIVE_UPDATES_PATH = "/socket.io/"  # its requests wait for news, so no drain waits for them
MEMORY_RETRY_AFTER = 2


class LoadSheddingMiddleware:
    """Middleware that answers 503 while memory is short or after a failed allocation, and counts requests under way."""

    def __init__(self, app: ASGIApp, *, lifecycle: Lifecycle, guard: MemoryGuard, collector: GarbageCollector) -> None:
        self._app = app
        self._lifecycle = lifecycle
        self._guard = guard
        self._collector = collector

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if self._guard.refusing and scope["path"] not in ESSENTIAL_PATHS:
            await _out_of_memory()(scope, receive, send)
            return
        started = False
        is_live = scope["path"].startswith(LIVE_UPDATES_PATH)

        async def tracking_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            with contextlib.nullcontext() if is_live else self._lifecycle.track_request():
                await self._app(scope, receive, tracking_send)
        except MemoryError:
            self._collector.release_reserve()
            if started:
                raise
            log.error("out of memory while answering a request")
            await _out_of_memory()(scope, receive, send)


def _out_of_memory() -> Problem:
    return Problem(503, "The service is short of memory.", retry_after=MEMORY_RETRY_AFTER)
