"""The HTTP client of `resilience.service`. It imports httpx, so it is imported on first use."""

from __future__ import annotations

import socket
import weakref
from collections.abc import Callable
from typing import Any

import httpx

from ..clock import SYSTEM
from ..history import Exchange, current
from ..redaction import redacted_path


class TrackingTransport(httpx.HTTPTransport):
    """A transport that tracks its sockets, so that the leak check can ignore them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        stream = response.extensions.get("network_stream")
        sock = stream.get_extra_info("socket") if stream is not None else None
        if sock is not None:
            self._sockets.add(sock)
        return response

    def descriptors(self) -> set[int]:
        """Return the descriptors of the open sockets."""
        return {number for sock in list(self._sockets) if (number := sock.fileno()) >= 0}


class Client(httpx.Client):
    """An httpx.Client that records its exchanges in the current history.

    Args:
        explain: returns a description of a failed exchange, given its time-outs. The description becomes a note of the error.
        settings: those of httpx.
    """

    def __init__(self, explain: Callable[[Exchange, dict[str, float | None]], str], **settings: Any) -> None:
        super().__init__(**settings)
        self._explain = explain

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        __tracebackhide__ = True
        path = redacted_path(request.url.raw_path.decode("ascii", "replace"))
        begun = SYSTEM.now()
        try:
            response = super().send(request, **options)
        except Exception as error:
            exchange = Exchange(request.method, path, type(error).__name__, begun, SYSTEM.now())
            current().add_exchange(exchange)
            error.add_note(self._explain(exchange, request.extensions.get("timeout", {})))
            raise
        current().add_exchange(Exchange(request.method, path, str(response.status_code), begun, SYSTEM.now()))
        return response
