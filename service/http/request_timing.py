"""The counting of requests, around everything else that the application does."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..request_counts import RequestCounts

INTERNAL_ERROR = 500  # the server sends it when the application raises an error


class RequestTimingMiddleware:
    """Middleware that counts each request by its route, its status and its time, refused ones included."""

    def __init__(self, app: ASGIApp, *, counts: RequestCounts, clock: Callable[[], float] = time.perf_counter) -> None:
        self._app = app
        self._counts = counts
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = self._clock(), INTERNAL_ERROR

        async def watching_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watching_send)
        finally:
            self._counts.add(scope["method"], _template(scope), status, self._clock() - begun)


def _template(scope: Scope) -> str | None:
    """Return the template of the path, such as "/api/campaigns/{id}". None if the service has no such path."""
    route = scope.get("route") or next((each for each in scope["app"].routes if _matches(each, scope)), None)
    return route.path if isinstance(route, Route | Mount) else None


def _matches(route: BaseRoute, scope: Scope) -> bool:
    """True if a route serves the path. A request that was refused before the router has no route yet."""
    return route.matches(scope)[0] is not Match.NONE
