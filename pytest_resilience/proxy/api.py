"""Toxiproxy's HTTP API: routes, bodies, status codes. In the same loop as the proxies, so nothing here may wait.

Routes that exist answer with `X-Toxiproxy-Request-Id`; a path that is not clean is a 301 to the clean one, an unknown path 404,
a known path with another method 405, and a browser 403. Additions: GET /proxies/{p}/counters and /connections. Whatever a client
sends, it gets an HTTP answer or a closed connection: what cannot be read is refused in Go's words, a request has a deadline in
all and not for each byte, and an error in a handler is a 500.
"""

from __future__ import annotations

import _socket as so
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import h11

from ..wire import toxiproxy as wire
from ..wire.api_error import ApiError
from ..wire.go_json import decode, encode
from .address import AddressError, lookup_host
from .api_policy import CrossOriginProtection, refuse_paths
from .descriptors import NO_RESOURCES, RETRY_DELAY, SpareDescriptors
from .event_loop import IN, OUT, EventLoop, Timer, format_utc
from .log import Log
from .proxy_collection import ProxyCollection
from .resolver import NameNotResolved

if TYPE_CHECKING:
    from .peer_user import OwnerOnlyAccess
    from .proxy import Proxy
    from .resolver import LookupResult

MAX_BODY = 1 << 20
"""Bytes of a request's body; more is a 413."""
MAX_HEAD = 1 << 16
"""Bytes of a request's line and headers; more is a 431."""
IDLE_TIMEOUT = 60.0
"""Seconds without a byte after which a client's connection is closed."""
REQUEST_TIMEOUT = 15.0
"""Seconds that a client has for one request in all, from its first byte to the last one of its answer."""
LINGER_TIMEOUT = 0.5
"""Seconds for which a client that was refused is still read from, so that the kernel does not throw the answer away."""

Headers = Sequence[tuple[bytes, bytes]]

_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"
_HEX = "0123456789abcdefABCDEF"
_DIGITS = "0123456789abcdefghijklmnopqrstuv"


class Response(NamedTuple):
    """A response.

    Attributes:
        body: None for those that have none (204).
        kind: the Content-Type, "" for none.
        matched: a route was found, so that the request gets an id.
    """

    status: int
    body: bytes | None = None
    kind: str = _JSON
    matched: bool = True
    headers: tuple[tuple[str, str], ...] = ()


_NO_CONTENT = Response(204, kind="")


def _json_response(value: Any, status: int = 200) -> Response:
    return Response(status, encode(value))


def _error_response(error: ApiError) -> Response:
    return Response(error.status, wire.error_body(error.status, error.message), _TEXT)


def _text_response(status: int, text: str, *, matched: bool) -> Response:
    return Response(status, text.encode(), _TEXT, matched)


class ApiServer:
    """The routes, over a set of proxies.

    Args:
        metrics: makes the text of GET /metrics; None: there is no such route.
        host: what the API was asked to listen on; a request's Host may be this name.
        allow_paths: take unix sockets and TLS files from requests.
        owner: serve this uid and root only; None: serve all.
    """

    def __init__(
        self,
        loop: EventLoop,
        log: Log,
        proxies: ProxyCollection,
        metrics: Callable[[], str] | None = None,
        *,
        host: str = "",
        allow_paths: bool = False,
        owner: int | None = None,
    ) -> None:
        self._loop = loop
        self._log = log
        self._proxies = proxies
        self._names: dict[str, LookupResult] = {}
        proxies.lookup_host = self._lookup_host
        self._metrics = metrics
        self._host = host
        self._allow_paths = allow_paths
        self._owner = owner
        self._cross_origin: CrossOriginProtection | None = None
        self._owner_only: OwnerOnlyAccess | None = None
        self._listener: so.socket | None = None
        self._clients: dict[int, _ApiConnection] = {}
        self._retry: Timer | None = None
        self._spare_descriptors = SpareDescriptors()
        self._id = int.from_bytes(os.urandom(12), "big")

    def serve(self, listener: so.socket) -> None:
        """Answer at a socket that listens already."""
        listener.setblocking(False)
        self._listener = listener
        self._cross_origin = CrossOriginProtection(self._host, listener)
        if self._owner is not None:
            from .peer_user import OwnerOnlyAccess

            self._owner_only = OwnerOnlyAccess(listener, self._owner, self._log)
        self._loop.handlers[listener.fileno()] = self._accept
        self._loop.watch(listener.fileno(), IN, 0)

    def close(self) -> None:
        """Close the listener and all clients."""
        for client in list(self._clients.values()):
            client.close()
        if self._owner_only is not None:
            self._owner_only.close()
        if self._listener is not None:
            self._loop.unregister(self._listener.fileno(), IN if self._retry is None else 0)
            self._listener.close()
        self._spare_descriptors.close()

    def _accept(self, events: int) -> None:
        listener = self._listener
        if listener is None:
            return
        fd = self._accept_descriptor(listener)
        if fd is None:
            return
        sock = so.socket(listener.family, so.SOCK_STREAM, listener.proto, fd)
        sock.setblocking(False)
        if self._owner_only is not None and not self._owner_only.admits(sock):
            # At once, before a byte is read: other users of the machine hold nothing of this process.
            try:
                sock.send(_raw_error_response(403, "this API serves the user who started it"))
            except OSError:
                pass  # the client is gone
            sock.close()
            self._spare_descriptors.refill()
            return
        if listener.family != so.AF_UNIX:
            sock.setsockopt(so.IPPROTO_TCP, so.TCP_NODELAY, 1)
        self._clients[fd] = _ApiConnection(self, self._loop, sock)

    def _accept_descriptor(self, listener: so.socket) -> int | None:
        """Accept the next client. Return its descriptor, or None if the client is gone or has to wait."""
        while True:
            try:
                fd, _ = listener._accept()  # type: ignore[attr-defined]  # the C half of socket.accept()
            except OSError as error:
                if error.errno not in NO_RESOURCES:
                    return None
                if not self._free_descriptor():
                    self._accept_later(listener)
                    return None
            else:
                return int(fd)

    def _free_descriptor(self) -> bool:
        """Free a descriptor: of the client that has been idle for the longest time, or a spare one."""
        idle = [client for client in self._clients.values() if client.idle]
        if idle:
            min(idle, key=lambda client: client.deadline).close()
            return True
        return self._spare_descriptors.release_one()

    def _accept_later(self, listener: so.socket) -> None:
        """Leave clients in the backlog for a moment."""
        if self._retry is None:
            self._log.warning("No descriptor for another client of the API")
            self._loop.watch(listener.fileno(), 0, IN)
            self._retry = self._loop.call_at(self._loop.now() + RETRY_DELAY, self._accept_again)

    def _accept_again(self) -> None:
        self._retry = None
        if self._listener is not None:
            self._loop.watch(self._listener.fileno(), IN, 0)

    def on_client_closed(self, fd: int) -> None:
        self._clients.pop(fd, None)
        self._spare_descriptors.refill()

    # --- a request ---------------------------------------------------------------------------------------------------

    def answer(
        self, method: str, target: str, headers: Headers, body: bytes, names: dict[str, LookupResult]
    ) -> Response:
        """Return the response to one request. The names of its headers are in lower case.

        Raises:
            NameUnknown: the request has to be answered again when `names` has this host; nothing may wait here for a resolver.
        """
        self._names = names
        why = self._cross_origin.refusal(headers, target) if self._cross_origin is not None else ""
        if why:
            return _text_response(403, f"{why}\n", matched=False)
        if any(name == b"expect" and value.lower() != b"100-continue" for name, value in headers):
            return Response(417, b"", "", False, (("Connection", "close"),))
        path, question, query = target.partition("?")
        if not path.startswith("/") and "://" in path:
            path = "/" + path.split("://", 1)[1].partition("/")[2]
        clean = _clean(path)
        if clean != path:
            return Response(301, b"", "", False, (("Location", clean + question + query),))
        route = self._route(method, path)
        if route is None:
            return _text_response(404, "404 page not found\n", matched=False)
        handler, in_path = route
        if handler is None:
            return Response(405, b"", "", False)
        if any(name == b"user-agent" and value.startswith(b"Mozilla/") for name, value in headers):
            return _text_response(403, "User agent not allowed\n", matched=True)
        try:
            return handler(body, *in_path)
        except ApiError as error:
            return _error_response(error)

    def _lookup_host(self, host: str) -> list[tuple[int, str]]:
        """Look up a host to listen on.

        Raises:
            AddressError: there is no such host.
            NameUnknown: it has to be looked up first.
        """
        if host == "localhost":  # in a file, as a rule
            return lookup_host(host)
        if host not in self._names:
            raise NameNotResolved(host)
        found = self._names[host]
        if isinstance(found, AddressError):
            raise found
        return found

    def look_up_later(self, host: str, then: Callable[[LookupResult], None]) -> None:
        """Look a name up without keeping the loop waiting."""
        self._proxies.look_up_later(host, then)

    def next_id(self) -> str:
        """The next request's id: 20 characters of 0-9 and a-v."""
        self._id += 1
        number = self._id
        return "".join(_DIGITS[number >> shift & 31] for shift in range(0, 100, 5))

    def _route(self, method: str, path: str) -> tuple[Callable[..., Response] | None, tuple[str, ...]] | None:
        """The handler and the names in the path; no handler for a wrong method; None for an unknown path."""
        match [unquote(part) for part in path.split("/")[1:]]:
            case ["metrics"] if self._metrics is not None:
                return self._get_metrics, ()
            case ["version"]:
                return {"GET": self._get_version}.get(method), ()
            case ["reset"]:
                return {"POST": self._reset}.get(method), ()
            case ["populate"]:
                return {"POST": self._populate}.get(method), ()
            case ["proxies"]:
                return {"GET": self._list, "POST": self._create}.get(method), ()
            case ["proxies", name] if name:
                methods: dict[str, Callable[..., Response]] = {
                    "GET": self._show,
                    "POST": self._update,
                    "PATCH": self._update,
                    "DELETE": self._delete,
                }
                return methods.get(method), (name,)
            case ["proxies", name, "toxics"] if name:
                return {"GET": self._list_toxics, "POST": self._add_toxic}.get(method), (name,)
            case ["proxies", name, "toxics", toxic] if name and toxic:
                methods = {
                    "GET": self._show_toxic,
                    "POST": self._update_toxic,
                    "PATCH": self._update_toxic,
                    "DELETE": self._remove_toxic,
                }
                return methods.get(method), (name, toxic)
            case ["proxies", name, "counters"] if name:
                return {"GET": self._counters}.get(method), (name,)
            case ["proxies", name, "connections"] if name:
                return {"GET": self._connections}.get(method), (name,)
        return None

    def _get_metrics(self, body: bytes) -> Response:
        text = self._metrics() if self._metrics is not None else ""
        return Response(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")

    def _get_version(self, body: bytes) -> Response:
        return Response(200, wire.version_body(), "application/json;charset=utf-8")

    def _reset(self, body: bytes) -> Response:
        self._proxies.reset()
        return _NO_CONTENT

    def _populate(self, body: bytes) -> Response:
        try:
            bodies = wire.read_proxies(body)
            for each in bodies:
                self._check(each, self._proxies.by_name.get(each.name or ""))
            proxies = self._proxies.populate(bodies)
        except ApiError as error:
            return Response(error.status, wire.populate_error_body(error.status, error.message))
        return _json_response({"proxies": [proxy.to_json() for proxy in proxies] or None}, 201)

    def _list(self, body: bytes) -> Response:
        by_name = self._proxies.by_name
        return _json_response({name: by_name[name].to_json() for name in sorted(by_name)})

    def _create(self, body: bytes) -> Response:
        proxy = wire.read_new_proxy(body)
        self._check(proxy, None)
        return _json_response(self._proxies.create(proxy).to_json(), 201)

    def _show(self, body: bytes, name: str) -> Response:
        return _json_response(self._proxies.get(name).to_json())

    def _update(self, body: bytes, name: str) -> Response:
        proxy = self._proxies.get(name)
        changes = wire.read_proxy(decode(body))
        self._check(changes, proxy)
        self._proxies.update(proxy, changes)
        return _json_response(proxy.to_json())

    def _check(self, body: wire.ProxyBody, existing: Proxy | None) -> None:
        if not self._allow_paths:
            refuse_paths(body, existing)

    def _delete(self, body: bytes, name: str) -> Response:
        self._proxies.delete(self._proxies.get(name))
        return _NO_CONTENT

    def _list_toxics(self, body: bytes, name: str) -> Response:
        return _json_response([rule.to_json() for rule in self._proxies.get(name).toxics])

    def _add_toxic(self, body: bytes, name: str) -> Response:
        proxy = self._proxies.get(name)
        return _json_response(self._proxies.add_toxic(proxy, wire.read_toxic(decode(body))).to_json())

    def _show_toxic(self, body: bytes, name: str, toxic: str) -> Response:
        return _json_response(self._proxies.get_toxic(self._proxies.get(name), toxic).to_json())

    def _update_toxic(self, body: bytes, name: str, toxic: str) -> Response:
        proxy = self._proxies.get(name)
        rule = self._proxies.get_toxic(proxy, toxic)
        self._proxies.update_toxic(proxy, rule, wire.read_toxic(decode(body), update=True))
        return _json_response(rule.to_json())

    def _remove_toxic(self, body: bytes, name: str, toxic: str) -> Response:
        proxy = self._proxies.get(name)
        proxy.remove_toxic(self._proxies.get_toxic(proxy, toxic))
        return _NO_CONTENT

    def _counters(self, body: bytes, name: str) -> Response:
        return _json_response(self._proxies.get(name).counters_json())

    def _connections(self, body: bytes, name: str) -> Response:
        proxy = self._proxies.get(name)
        return _json_response([each.to_json() for each in proxy.connections.values()])


def unquote(text: str) -> str:
    """`text` without its percent-encoding. urllib's takes as long to import as the proxy to start.

    Bytes that are no UTF-8 become lone surrogates, which no name contains: as in Go, they address nothing.
    """
    if "%" not in text:
        return text
    first, *parts = text.encode("utf-8", "surrogateescape").split(b"%")
    data = bytearray(first)
    for part in parts:
        data.append(int(part[:2], 16))
        data += part[2:]
    return data.decode("utf-8", "surrogateescape")


def _is_target(target: str) -> bool:
    """True for what Go takes for a request's target: a path, a whole URL or an asterisk, with good percent-encoding in the path."""
    path = target.partition("?")[0]
    if not path.startswith("/") and "://" not in path and path != "*":
        return False
    return all(len(part) >= 2 and part[0] in _HEX and part[1] in _HEX for part in path.split("%")[1:])


def _clean(path: str) -> str:
    """A path without empty, `.` and `..` segments, encoded or not; a slash at the end stays."""
    if "//" not in path and "/." not in path and "/%2" not in path and path.startswith("/"):
        return path
    kept: list[str] = []
    for part in path.split("/"):
        plain = part.replace("%2e", ".").replace("%2E", ".")
        if plain == "..":
            kept = kept[:-1]
        elif plain not in ("", "."):
            kept.append(part)
    end = "/" if kept and path.endswith("/") else ""
    return "/" + "/".join(kept) + end


class _ApiConnection:
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

    def __init__(self, api: ApiServer, loop: EventLoop, sock: so.socket) -> None:
        self._api = api
        self._loop = loop
        self._socket = sock
        self._fd = sock.fileno()
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._request_started = False  # a request has begun to come, and is not answered yet
        self._closing = False  # nothing is answered any more
        self._request: h11.Request | None = None
        self._body = bytearray()
        self._names: dict[str, LookupResult] = {}  # those that the request needs
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
        """The time at which the connection is closed for want of a byte."""
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
        """Answer what is complete.

        Args:
            data: what has come, b"" at the end; None: nothing new.
        """
        try:
            if data is not None:
                self._http.receive_data(data)
            self._read_events()
        except h11.RemoteProtocolError as error:
            nameless = str(error).startswith("Missing mandatory Host")
            self._refuse(error.error_status_hint, "missing required Host header" if nameless else "")
        except Exception as error:
            self.close()  # the loop logs it; the client must not wait for an answer that can't come
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
                elif not _is_target(event.target.decode("ascii")):
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
        """Start the time that a request has in all, unless it runs already."""
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
        except Exception as error:  # noqa: BLE001  # ours to repair, and no reason to leave the client without an answer
            answer = _error_response(ApiError(500, f"internal error: {type(error).__name__}: {error}"))
        self._write(answer, request.method)
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self._request = None  # from now on it is idle, and not slow with a request
            self._request_started = False
            self._names = {}

    def _look_up(self, host: str) -> None:
        """Answer when a name is known. Until then the client is not read from; the request's time runs on."""

        def found(answer: LookupResult) -> None:
            if self._timer is None:
                return  # the time was over
            self._names[host] = answer
            self._loop.watch(self._fd, IN, 0)
            self._mask = IN
            self._respond()
            self._read(None)

        self._loop.watch(self._fd, 0, self._mask)
        self._mask = 0
        self._api.look_up_later(host, found)

    def _write(self, answer: Response, method: bytes) -> None:
        headers = [*answer.headers]
        if answer.kind:
            headers.append(("Content-Type", answer.kind))
        if answer.kind == _TEXT:
            headers.append(("X-Content-Type-Options", "nosniff"))
        if answer.matched:
            headers.append(("X-Toxiproxy-Request-Id", self._api.next_id()))
        headers.append(("Date", format_utc("%a, %d %b %Y %H:%M:%S GMT")))
        tunnel = method == b"CONNECT" and 200 <= answer.status < 300  # such an answer has no body, and no length
        if answer.body is not None and not tunnel:
            headers.append(("Content-Length", str(len(answer.body))))
        reason = _REASONS.get(answer.status, "").encode()
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

    def _refuse(self, status: int, why: str = "") -> None:
        """Answer something that is no request, and close."""
        self._closing = True
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            refusal = _raw_error_response(status, why)
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
                self._read(None)  # requests that came meanwhile


def _raw_error_response(status: int, why: str = "") -> bytes:
    """Return the whole answer to what is no request, in Go's words."""
    text = f"{status} {_REASONS.get(status, 'Bad Request')}"
    if why:
        text = f"{text}: {why}"
    body = "Unsupported transfer encoding" if status == 501 else text
    return f"HTTP/1.1 {text}\r\nContent-Type: {_TEXT}\r\nConnection: close\r\n\r\n{body}".encode()


_REASONS = {
    200: "OK",
    201: "Created",
    204: "No Content",
    301: "Moved Permanently",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    417: "Expectation Failed",
    413: "Request Entity Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    505: "HTTP Version Not Supported",
}
