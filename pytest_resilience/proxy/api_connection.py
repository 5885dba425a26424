"""HTTP with one client of the API.

Whatever a client sends, it gets an HTTP response or a closed connection. Bytes that are no request are refused in Go's words, a
request as a whole has a deadline, and an error in a handler is a 500.
"""

from __future__ import annotations

import _socket as so
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import h11

from ..wire.api_error import ApiError
from .api_response import REASONS, TEXT, Headers, Response, error_response, raw_error_response
from .event_loop import IN, OUT, EventLoop, Timer, format_utc
from .resolver import NameNotResolved

if TYPE_CHECKING:
    from .resolver import LookupResult

MAX_BODY = 1 << 20
"""Bytes of a request's body. A longer one is a 413."""
MAX_HEAD = 1 << 16
"""Bytes of a request's line and headers. A longer head is a 431."""
IDLE_TIMEOUT = 60.0
"""Seconds without a byte after which a client's connection is closed."""
REQUEST_TIMEOUT = 15.0
"""Seconds for one request as a whole, from its first byte to the last byte of its response."""
LINGER_TIMEOUT = 0.5
"""Seconds for which the server reads on from a refused client, so that the kernel does not discard the response."""


_HEX = "0123456789abcdefABCDEF"


class ApiHandler(Protocol):
    """The server behind a client's connection."""

    def answer(
        self, method: str, target: str, headers: Headers, body: bytes, names: dict[str, LookupResult]
    ) -> Response:
        """Return the response to one request.

        Raises:
            NameNotResolved: the request has to be answered again when `names` has this host.
        """

    def next_request_id(self) -> str:
        """Return the id of the next request."""

    def resolve_later(self, host: str, then: Callable[[LookupResult], None]) -> None:
        """Look up a name without blocking the loop."""

    def on_client_closed(self, fd: int) -> None:
        """Forget a client."""


class ApiConnection:
    """One connection of an API client."""

    __slots__ = (
        "_api",
        "_body",
        "_closing",
        "_deadline",
        "_fd",
        "_http",
        "_loop",
        "_mask",
        "_names",
        "_out",
        "_request",
        "_request_started",
        "_socket",
        "_timer",
    )

    def __init__(self, api: ApiHandler, loop: EventLoop, sock: so.socket) -> None:
        self._api = api
        self._loop = loop
        self._socket = sock
        self._fd = sock.fileno()
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._request_started = False  # a request has begun to arrive, and is not answered yet
        self._closing = False  # no further request is answered
        self._request: h11.Request | None = None
        self._body = bytearray()
        self._names: dict[str, LookupResult] = {}  # hosts that were looked up for the request
        self._out = bytearray()
        self._mask = IN
        self._deadline = loop.now() + IDLE_TIMEOUT
        self._timer: Timer | None = loop.call_at(self._deadline, self._on_timer)
        loop.handlers[self._fd] = self._on_event
        loop.watch(self._fd, IN, 0)

    @property
    def idle(self) -> bool:
        """True if the client has sent no part of a request and waits for no answer."""
        return self._request is None and not self._out and not self._http.trailing_data[0]

    @property
    def deadline(self) -> float:
        """The time at which the connection is closed if no byte comes."""
        return self._deadline

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._loop.unregister(self._fd, self._mask)
            self._socket.close()
            self._api.on_client_closed(self._fd)

    def _on_timer(self) -> None:
        if self._loop.now() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._on_timer)
        else:
            self.close()

    def _on_event(self, events: int) -> None:
        if self._out:
            self._flush()
            return
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if self._closing:
            if not data:
                self.close()
            return
        self._read(data)

    def _read(self, data: bytes | None) -> None:
        """Answer the requests that are complete.

        Args:
            data: received bytes, b"" at the end of the stream; None for nothing new.
        """
        try:
            if data is not None:
                self._http.receive_data(data)
            self._read_events()
        except h11.RemoteProtocolError as error:
            nameless = str(error).startswith("Missing mandatory Host")
            self._refuse(error.error_status_hint, "missing required Host header" if nameless else "")
        except Exception as error:
            self.close()  # the loop logs the error; no response can come
            raise error

    def _read_events(self) -> None:
        http = self._http
        while self._timer is not None and not self._out and not self._closing:
            before = len(http.trailing_data[0])
            try:
                event = http.next_event()
            except ValueError:  # h11 before 0.15: a Content-Length of more digits than Python reads
                raise h11.RemoteProtocolError("bad Content-Length") from None
            if event is h11.NEED_DATA:
                if http.they_are_waiting_for_100_continue:
                    self._send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))
                if self._request is None and not before:
                    self._request_started = False
                    self._deadline = self._loop.now() + IDLE_TIMEOUT
                else:
                    self._start_request()
                return
            self._start_request()
            if isinstance(event, h11.Request):
                self._request = event
                self._body.clear()
                if before - len(http.trailing_data[0]) > MAX_HEAD:
                    self._refuse(431)
                elif event.http_version not in (b"1.0", b"1.1"):
                    self._refuse(505, "unsupported protocol version")
                elif not is_request_target(event.target.decode("ascii")):
                    self._refuse(400)
            elif isinstance(event, h11.Data):
                self._body += event.data
                if len(self._body) > MAX_BODY:
                    self._refuse(413)
            elif isinstance(event, h11.EndOfMessage):
                self._respond()
            elif event is h11.PAUSED:  # a name is being looked up
                return
            else:  # the client has closed
                self.close()

    def _start_request(self) -> None:
        """Start the deadline of a request, unless it runs already."""
        if not self._request_started:
            self._request_started = True
            self._set_deadline(REQUEST_TIMEOUT)

    def _set_deadline(self, seconds: float) -> None:
        self._deadline = self._loop.now() + seconds
        if self._timer is not None and self._timer.when > self._deadline:
            self._timer.cancel()
            self._timer = self._loop.call_at(self._deadline, self._on_timer)

    def _respond(self) -> None:
        request = self._request
        if request is None:
            return
        target = request.target.decode("ascii")
        method = request.method.decode("ascii")
        try:
            answer = self._api.answer(method, target, request.headers, bytes(self._body), self._names)
        except NameNotResolved as unknown:
            self._look_up(unknown.host)
            return
        except Exception as error:  # noqa: BLE001  # a bug here; the client gets a response all the same
            answer = error_response(ApiError(500, f"internal error: {type(error).__name__}: {error}"))
        self._write(answer, request.method)
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self._request = None  # the client is idle from now on, and not slow with a request
            self._request_started = False
            self._names = {}

    def _look_up(self, host: str) -> None:
        """Answer when a name is looked up. Until then nothing is read from the client. The deadline stays."""

        def found(answer: LookupResult) -> None:
            if self._timer is None:
                return  # the deadline has passed
            self._names[host] = answer
            self._loop.watch(self._fd, IN, 0)
            self._mask = IN
            self._respond()
            self._read(None)

        self._loop.watch(self._fd, 0, self._mask)
        self._mask = 0
        self._api.resolve_later(host, found)

    def _write(self, answer: Response, method: bytes) -> None:
        headers = [*answer.headers]
        if answer.content_type:
            headers.append(("Content-Type", answer.content_type))
        if answer.content_type == TEXT:
            headers.append(("X-Content-Type-Options", "nosniff"))
        if answer.matched:
            headers.append(("X-Toxiproxy-Request-Id", self._api.next_request_id()))
        headers.append(("Date", format_utc("%a, %d %b %Y %H:%M:%S GMT")))
        tunnel = method == b"CONNECT" and 200 <= answer.status < 300  # such a response has no body and no length
        if answer.body is not None and not tunnel:
            headers.append(("Content-Length", str(len(answer.body))))
        reason = REASONS.get(answer.status, "").encode()
        self._send(h11.Response(status_code=answer.status, headers=headers, reason=reason), flush=False)
        if tunnel:
            self._flush()
            self.close()
            return
        if answer.body and method != b"HEAD":
            self._send(h11.Data(data=answer.body), flush=False)
        self._send(h11.EndOfMessage())
        if self._http.our_state is h11.MUST_CLOSE and not self._out:
            self.close()

    def _refuse(self, status: int, reason: str = "") -> None:
        """Respond to bytes that are no request, and close."""
        self._closing = True
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            refusal = raw_error_response(status, reason)
            has_body = self._request is None or self._request.method != b"HEAD"
            self._out += refusal if has_body else refusal[: refusal.index(b"\r\n\r\n") + 4]
            self._set_deadline(LINGER_TIMEOUT)
            self._flush()
        else:
            self.close()

    def _send(self, event: Any, *, flush: bool = True) -> None:
        self._out += self._http.send(event) or b""
        if flush:
            self._flush()

    def _flush(self) -> None:
        try:
            sent = self._socket.send(self._out)
            del self._out[:sent]
            if self._closing and not self._out:
                self._socket.shutdown(so.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        mask = OUT if self._out else IN
        if mask != self._mask and self._timer is not None:
            self._loop.watch(self._fd, mask, self._mask)
            self._mask = mask
            if mask == IN and not self._closing:
                if self._http.our_state is h11.MUST_CLOSE:
                    self.close()
                    return
                self._read(None)  # requests that arrived in the same data


def is_request_target(target: str) -> bool:
    """True if Go accepts a request's target. It is a path, a whole URL or an asterisk, with valid percent-encoding in the path."""
    path = target.partition("?")[0]
    if not path.startswith("/") and "://" not in path and path != "*":
        return False
    return all(len(part) >= 2 and part[0] in _HEX and part[1] in _HEX for part in path.split("%")[1:])
