"""The deadlines and the limit of HTTP connections.

Rules: a connection is idle while it waits for the head of a request. An idle connection is closed HEADER_TIMEOUT seconds
after it became idle, however slowly bytes arrive. A connection is also closed if its client does not read a response for
that long. Above MAX_CONNECTIONS the oldest idle connection is closed for a new one. If none is idle, a few more
connections are accepted, on which only the essential routes are served. MAX_CONNECTIONS leaves file descriptors for the
pool, for Redis and for files. A websocket takes over the connection of its request, and is never idle.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

import h11
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from ..cache.redis_store import MAX_CONNECTIONS as MAX_REDIS_CONNECTIONS
from ..errors import SettingsError
from ..jobs.bull import MAX_CONNECTIONS as MAX_JOB_CONNECTIONS
from ..request_counts import OTHER, RequestCounts
from ..shortages import Shortages
from .load_shedding import ESSENTIAL_PATHS, LIVE_UPDATES_PATH, short_of
from .problems import Problem

if TYPE_CHECKING:
    import asyncio

    from ..settings import ServiceSettings

log = logging.getLogger("service.http_connections")

MAX_HEAD_BYTES = 64 << 10
MAX_MESSAGE_BYTES = 16 << 10  # of a message that a websocket receives
ACCEPT_BATCH = 16  # connections that asyncio accepts before the first of them is counted
ESSENTIAL_RESERVE = 16  # connections above the limit, for the essential routes
# Listener, log, epoll, memory statistics, and connections that are accepted and not counted yet.
OTHER_DESCRIPTORS = 48 + 4 * ACCEPT_BATCH
DEFAULT_MAX = 10_000  # connections, unless the limit of descriptors is lower
MIN_CONNECTIONS = 16
EVICT_COUNT = 8  # idle connections to close when no descriptor is left
# Seconds for a client with an error response to stop sending. On an earlier close the kernel would discard the response.
LINGER = 2.0
FULL_ENDS_BELOW = 0.9  # of the limit; with fewer connections an episode is over
ABSOLUTE_TARGET = re.compile(rb"https?://([^/?#@]+)(/[^?#]*)?", re.IGNORECASE)


def connection_limit(settings: ServiceSettings) -> int:
    """Return MAX_CONNECTIONS, or the number that the limit of file descriptors allows.

    Raises:
        SettingsError: MAX_CONNECTIONS is above that number.
    """
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    redis = 2 * (MAX_REDIS_CONNECTIONS + 2) + MAX_JOB_CONNECTIONS
    gateway = settings.worker_connections
    others = settings.db_pool_max + 1 + redis + gateway + ESSENTIAL_RESERVE + OTHER_DESCRIPTORS
    room = DEFAULT_MAX if limit == resource.RLIM_INFINITY else limit - others
    wanted = settings.max_connections
    if wanted is None:
        return max(MIN_CONNECTIONS, min(DEFAULT_MAX, room))
    if limit != resource.RLIM_INFINITY and wanted > max(MIN_CONNECTIONS, room):
        raise SettingsError(
            "MAX_CONNECTIONS",
            f"at most {max(MIN_CONNECTIONS, room)}: the limit of file descriptors (ulimit -n) is {limit}, and {others} are for the"
            " pool, Redis, the gateway and files",
        )
    return wanted


class Connection(Protocol):
    """A connection with deadlines, for requests or as a websocket."""

    def check(self, now: float) -> None:
        """Close the connection if it is past a deadline."""

    def evict(self) -> None:
        """Close the connection at once."""


class HttpConnections:
    """All connections of one server.

    Args:
        header_timeout: seconds that a client has to send the head of a request, and to read a response.
        max_connections: largest number of open connections.
        load_websockets: returns the class of the websockets, each of which takes over a connection. Its keyword
            arguments are those of uvicorn.
        requests: counts the requests that do not reach the application.
        shortages: records that no descriptor is left.
    """

    def __init__(
        self,
        *,
        header_timeout: float,
        max_connections: int,
        load_websockets: Callable[[], Callable[..., asyncio.Protocol]],
        requests: RequestCounts,
        shortages: Shortages,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.header_timeout = header_timeout
        self.load_websockets = load_websockets
        self.requests = requests
        self.shortages = shortages
        self._max_connections = max_connections
        self._clock = clock
        self._open: set[Connection] = set()
        self._idle: dict[HttpConnection, None] = {}  # oldest first
        self._full = False
        self._reserve: int | None = None
        self._hold_reserve()

    def protocol(self) -> type[HttpConnection]:
        """Return the class of the connections that uvicorn creates."""
        return type("TrackedHttpConnection", (HttpConnection,), {"tracker": self})

    def opened(self, connection: HttpConnection) -> None:
        """Count a new connection. Above the limit, close the oldest idle one."""
        self._open.add(connection)
        if len(self._open) > self._max_connections:
            if not self._full:
                self._full = True
                log.warning("all %d connections are in use: the oldest idle ones are closed", self._max_connections)
            if not self._evict(1):
                connection.only_essential = True
                if len(self._open) > self._max_connections + ESSENTIAL_RESERVE:
                    connection.evict()
        self.mark_idle(connection)

    def mark_idle(self, connection: HttpConnection) -> None:
        """Record that a connection now waits for the head of a request."""
        if connection in self._open:
            self._idle.pop(connection, None)
            self._idle[connection] = None

    def mark_busy(self, connection: HttpConnection) -> None:
        """Record that a connection now has a request to serve."""
        self._idle.pop(connection, None)

    def upgraded(self, connection: HttpConnection, websocket: Connection) -> None:
        """Count a websocket in place of the connection that it takes over."""
        self.closed(connection)
        self._open.add(websocket)

    def closed(self, connection: Connection) -> None:
        self._open.discard(connection)
        if isinstance(connection, HttpConnection):
            self._idle.pop(connection, None)

    def on_descriptors_exhausted(self) -> None:
        """Close idle connections, because a connection could not be accepted without a free file descriptor."""
        self.shortages.record("file descriptors", "to accept a connection: idle connections are closed")
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None
        self._evict(EVICT_COUNT)

    def sweep(self) -> None:
        """Close every connection that is past its deadline."""
        now = self._clock()
        for connection in list(self._open):
            connection.check(now)
        if self._full and len(self._open) < FULL_ENDS_BELOW * self._max_connections:
            self._full = False
            log.info("resolved: %d of %d connections are in use", len(self._open), self._max_connections)
        if self._reserve is None and self.shortages.is_calm("file descriptors"):
            self._hold_reserve()
        self.shortages.sweep()

    def deadline(self, limit: float = math.inf) -> float:
        """Return the time at which a wait for a client that begins now ends.

        Args:
            limit: seconds that the wait may take, if less than HEADER_TIMEOUT.
        """
        return self._clock() + min(self.header_timeout, limit)

    def _evict(self, count: int) -> int:
        evicted = list(islice(self._idle, count))
        for connection in evicted:
            connection.evict()
        return len(evicted)

    def _hold_reserve(self) -> None:
        """Hold a descriptor to release when no other is left."""
        with contextlib.suppress(OSError):
            self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


class HttpConnection(H11Protocol):
    """uvicorn's HTTP/1.1 connection, with deadlines for the client."""

    tracker: HttpConnections
    only_essential = False
    _read_deadline: float | None = None
    _reading_head = False
    _write_deadline: float | None = None
    _error_sent = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        inner = self.app
        self.app = ConnectionMiddleware(inner, self)
        self._reading_head, self._read_deadline = True, self.tracker.deadline()
        self.tracker.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.tracker.closed(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._error_sent:
            return
        if not self._is_busy() and not self._reading_head and self.conn.their_state is h11.IDLE:
            # Set once: further bytes of this head do not move it.
            self._reading_head, self._read_deadline = True, self.tracker.deadline()
        super().data_received(data)

    def handle_events(self) -> None:
        super().handle_events()
        if self._is_busy():
            self._reading_head, self._read_deadline = False, None
            self.tracker.mark_busy(self)

    def _should_upgrade(self) -> bool:
        """Return True for a websocket of live updates. Another request to upgrade is served without the upgrade (RFC 9110, 7.8)."""
        return self._get_upgrade() == b"websocket" and self.scope["path"].startswith(LIVE_UPDATES_PATH)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Hand the connection over to a websocket. Answer 503 if the websockets cannot be imported now."""
        try:
            websocket = self.tracker.load_websockets()
        except Exception as error:
            resource = self.tracker.shortages.report(error, "to open a websocket")
            if resource is None:
                raise
            self._send_error(short_of(resource))
            return
        self.ws_protocol_class = partial(websocket, self)  # type: ignore[assignment]
        super().handle_websocket_upgrade(event)

    def on_response_complete(self) -> None:
        next_head_begun = bool(self.conn.trailing_data[0])  # the client did not wait for the answer
        self._reading_head, self._read_deadline = next_head_begun, self.tracker.deadline()
        self.tracker.mark_idle(self)
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_deadline = self.tracker.deadline()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._write_deadline = None

    def check(self, now: float) -> None:
        """Close the connection if it is past a deadline."""
        if self._write_deadline is None and self.transport.is_closing():
            self._write_deadline = self.tracker.deadline()  # for the client to read the response
        if self._write_deadline is not None and now > self._write_deadline:
            self.evict()
        elif self._read_deadline is not None and now > self._read_deadline and not self.transport.is_closing():
            if self._reading_head and self.conn.trailing_data[0]:
                self._send_error(Problem(408, "The head of the request took too long."))
            else:
                self.transport.close()

    def evict(self) -> None:
        """Close the connection at once."""
        self.tracker.closed(self)
        self.transport.abort()

    def shutdown(self) -> None:
        if self._error_sent:
            self.evict()
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        status = getattr(sys.exception(), "error_status_hint", 400)
        self._send_error(Problem(status, "This is not an HTTP/1.1 request."))

    def _is_busy(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _send_error(self, problem: Problem) -> None:
        """Send an error response in place of the application, and close."""
        status = problem.status_code
        self.tracker.requests.add(OTHER, None, status, 0.0)
        if self._is_busy():  # the body is malformed, so the response of the application is dropped
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            problem.headers["Connection"] = "close"
            answer = h11.Response(
                status_code=status, headers=problem.raw_headers, reason=HTTPStatus(status).phrase.encode()
            )
            for event in (answer, h11.Data(data=bytes(problem.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self._error_sent, self._reading_head = True, False
        self._read_deadline = self.tracker.deadline(LINGER)
        if self.transport.can_write_eof():
            self.transport.write_eof()


class ConnectionMiddleware:
    """Middleware that checks the HTTP version and the request target, and limits a connection to essential routes."""

    def __init__(self, app: Any, connection: HttpConnection) -> None:
        self._app: ASGIApp = app
        self._connection = connection

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = _early_response(scope) or self._limit_response(scope)
        if refusal is not None:
            self._connection.tracker.requests.add(scope["method"], None, refusal.status_code, 0.0)
        await (refusal or self._app)(scope, receive, send)

    def _limit_response(self, scope: Scope) -> Response | None:
        if not self._connection.only_essential or scope["path"] in ESSENTIAL_PATHS:
            return None
        return Problem(503, "All connections are in use.", headers={"Connection": "close"}, retry_after=1)


def _early_response(scope: Scope) -> Response | None:
    """Return the response to a request that must not reach the application, else None. Normalize the request target."""
    if not scope["http_version"].startswith("1."):
        return Problem(505, "This server speaks HTTP/1.1.", headers={"Connection": "close"})
    head = len(scope["raw_path"]) + len(scope["query_string"]) + sum(len(n) + len(v) + 4 for n, v in scope["headers"])
    if head > MAX_HEAD_BYTES:  # h11 limits only a head that arrives in parts
        return Problem(431, f"The head may have {MAX_HEAD_BYTES} bytes.", headers={"Connection": "close"})
    if scope["path"].startswith("/"):
        return None
    if scope["raw_path"] == b"*" and scope["method"] == "OPTIONS":
        return Response(status_code=204, headers={"Allow": "GET, HEAD, POST, PUT, DELETE, OPTIONS"})
    absolute = ABSOLUTE_TARGET.fullmatch(scope["raw_path"])
    if absolute is None:
        return Problem(400, "The target of the request is neither a path nor a URL.")
    host, path = absolute[1].lower(), absolute[2] or b"/"
    # RFC 9112, 3.2.2: the host of the target replaces that of the header.
    scope["headers"] = [(b"host", host), *((name, value) for name, value in scope["headers"] if name != b"host")]
    scope["raw_path"], scope["path"] = path, unquote(path.decode("ascii"))
    return None
