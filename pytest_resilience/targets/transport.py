"""The connections of `resilience.service`, which its client keeps open from test to test; imports httpx, so it is imported late."""

from __future__ import annotations

import socket
import weakref
from typing import Any

import httpx


class Transport(httpx.HTTPTransport):
    """httpx's, and knows its sockets, so that nobody takes them for a test's."""

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
        """Those that are open."""
        return {number for sock in list(self._sockets) if (number := sock.fileno()) >= 0}
