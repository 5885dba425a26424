"""Load shedding. While memory is short, only the essential routes are served, and no new websocket is accepted.

A request that fails for lack of memory or of file descriptors is a 503, too.
"""

from __future__ import annotations

import contextlib

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..health import Lifecycle
from ..memory.collector import GarbageCollector
from ..memory.guard import MemoryGuard
from ..shortages import Resource, Shortages, lacking
from .problems import Problem

ESSENTIAL_PATHS = ("/health", "/livez", "/readyz", "/metrics", "/api/db-cleanup")
LIVE_UPDATES_PATH = "/socket.io/"  # its requests wait for news, so no drain waits for them
SHORTAGE_RETRY_AFTER = 2
TRY_AGAIN_LATER = 1013  # close code of a websocket, registered with IANA


class LoadSheddingMiddleware:
    """Middleware that answers 503 while memory is short or after a failed allocation, and counts requests under way.

    A file or a connection that cannot be opened without a descriptor is a 503, too.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        lifecycle: Lifecycle,
        guard: MemoryGuard,
        collector: GarbageCollector,
        shortages: Shortages,
    ) -> None:
        self._app = app
        self._lifecycle = lifecycle
        self._guard = guard
        self._collector = collector
        self._shortages = shortages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if self._guard.refusing and scope["path"] not in ESSENTIAL_PATHS:
            await short_of("memory")(scope, receive, send)
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
        except Exception as error:
            resource = lacking(error)
            if resource is None:
                raise
            if resource == "memory":
                self._collector.release_reserve()  # first, because the rest takes memory
            self._shortages.record(resource, "to answer a request")
            if not started:
                await short_of(resource)(scope, receive, send)
            elif scope["type"] == "websocket":
                with contextlib.suppress(Exception):  # the websocket may be closed already
                    await send({"type": "websocket.close", "code": TRY_AGAIN_LATER})
            # Otherwise the server closes the connection, because the response is not complete.


def short_of(resource: Resource) -> Problem:
    """Return the response to a request that fails because the process is short of a resource."""
    return Problem(503, f"The service is short of {resource}.", retry_after=SHORTAGE_RETRY_AFTER)
