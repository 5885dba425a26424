"""The connection of a websocket. It counts as a connection of the service, with the same deadline for a client that reads slowly.

Rules: this file, and wsproto with it, is imported at the first websocket. At the end of the service, and on a websocket that is
stuck, nothing waits for the client.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.websockets.wsproto_impl import WSProtocol
from uvicorn.server import ServerState

from .connections import ConnectionMiddleware, HttpConnection

log = logging.getLogger("service.websockets")
log.setLevel(logging.WARNING)  # uvicorn logs each websocket, with the secret id of its session


class WebSocketConnection(WSProtocol):
    """uvicorn's websocket, with a deadline for the client.

    Args:
        http: the connection that the websocket takes over.
    """

    def __init__(
        self, http: HttpConnection, *, config: Config, server_state: ServerState, app_state: dict[str, Any]
    ) -> None:
        super().__init__(config, server_state, app_state)
        self.logger = log
        self.app = ConnectionMiddleware(self.app, http)  # type: ignore[assignment]  # uvicorn has its own types of ASGI
        self._http = http
        self._tracker = http.tracker
        self.close_timeout = http.tracker.header_timeout  # seconds for the client to answer a close frame
        self._write_deadline: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._tracker.upgraded(self._http, self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._tracker.closed(self)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_deadline = self._tracker.deadline()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._write_deadline = None

    def check(self, now: float) -> None:
        """Close the connection if its client has not read for too long."""
        if self._write_deadline is None and self.transport.is_closing():
            self._write_deadline = self._tracker.deadline()
        if self._write_deadline is not None and now > self._write_deadline:
            self.evict()

    def evict(self) -> None:
        """Close the connection at once."""
        self._tracker.closed(self)
        self.transport.abort()

    def shutdown(self) -> None:
        """Close with code 1012, "service restart". Do not wait for a client that does not read."""
        super().shutdown()
        if self.transport.get_write_buffer_size() > 0:
            self.evict()
