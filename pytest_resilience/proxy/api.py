"""Toxiproxy's HTTP API: routes, bodies, status codes. In the same loop as the proxies, so nothing here may wait.

Routes that exist answer with `X-Toxiproxy-Request-Id`; a path that is not clean is a 301 to the clean one, an unknown path 404,
a known path with another method 405, and a browser 403. Additions of ours: GET /proxies/{p}/counters and /connections.
"""

from __future__ import annotations

import _socket as so
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import h11

from ..wire import toxiproxy as wire
from .descriptors import NO_RESOURCES, SpareDescriptors
from .log import Log
from .loop import IN, OUT, Loop, Timer, stamp
from .proxies import Proxies

MAX_BODY = 1 << 20
"""Bytes of a request's body; more is a 413."""
MAX_HEAD = 1 << 16
"""Bytes of a request's line and headers; more is a 431."""
IDLE = 60.0
"""Seconds without a byte after which a client's connection is closed."""
PAUSE = 0.05
"""Seconds until the API accepts again after there was no descriptor for another client."""
READ = 15.0
"""Seconds that a client has to send one request."""

_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"
_DIGITS = "0123456789abcdefghijklmnopqrstuv"


class Answer(NamedTuple):
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


def _json(value: Any, status: int = 200) -> Answer:
    return Answer(status, wire.encode(value))


def _refusal(error: wire.Rejected) -> Answer:
    return Answer(error.status, wire.error_body(error.status, error.message), _TEXT)


def _plain(status: int, text: str, *, matched: bool) -> Answer:
    return Answer(status, text.encode(), _TEXT, matched)


class Api:
    """The routes, over a set of proxies.

    Args:
        metrics: makes the text of GET /metrics; None: there is no such route.
    """

    def __init__(self, loop: Loop, log: Log, proxies: Proxies, metrics: Callable[[], str] | None = None) -> None:
        self._loop = loop
        self._log = log
        self._proxies = proxies
        self._metrics = metrics
        self._listener: so.socket | None = None
        self._clients: dict[int, _Client] = {}
        self._pause: Timer | None = None
        self._spare = SpareDescriptors()
        self._id = int.from_bytes(os.urandom(12), "big")

    def serve(self, listener: so.socket) -> None:
        """Answer at a socket that listens already."""
        listener.setblocking(False)
        self._listener = listener
        self._loop.handlers[listener.fileno()] = self._accept
        self._loop.watch(listener.fileno(), IN, 0)

    def close(self) -> None:
        """Close the listener and all clients."""
        for client in list(self._clients.values()):
            client.close()
        if self._listener is not None:
            self._loop.forget(self._listener.fileno(), IN if self._pause is None else 0)
            self._listener.close()
        self._spare.close()

    def _accept(self, events: int) -> None:
        listener = self._listener
        if listener is None:
            return
        fd = self._accept_descriptor(listener)
        if fd is None:
            return
        sock = so.socket(listener.family, so.SOCK_STREAM, listener.proto, fd)
        sock.setblocking(False)
        if listener.family != so.AF_UNIX:
            sock.setsockopt(so.IPPROTO_TCP, so.TCP_NODELAY, 1)
        self._clients[fd] = _Client(self, self._loop, sock)

    def _accept_descriptor(self, listener: so.socket) -> int | None:
        """Accept the next client. Return its descriptor, or None if the client is gone or has to wait."""
        while True:
            try:
                fd, _ = listener._accept()  # type: ignore[attr-defined]  # the C half of socket.accept()
            except OSError as error:
                if error.errno not in NO_RESOURCES:
                    return None
                if not self._make_room():
                    self._accept_later(listener)
                    return None
            else:
                return int(fd)

    def _make_room(self) -> bool:
        """Free a descriptor: of the client that has been idle for the longest time, or a spare one."""
        idle = [client for client in self._clients.values() if client.idle]
        if idle:
            min(idle, key=lambda client: client.deadline).close()
            return True
        return self._spare.release_one()

    def _accept_later(self, listener: so.socket) -> None:
        """Leave clients in the backlog for a moment."""
        if self._pause is None:
            self._log.warning("No descriptor for another client of the API")
            self._loop.watch(listener.fileno(), 0, IN)
            self._pause = self._loop.at(self._loop.now() + PAUSE, self._accept_again)

    def _accept_again(self) -> None:
        self._pause = None
        if self._listener is not None:
            self._loop.watch(self._listener.fileno(), IN, 0)

    def gone(self, fd: int) -> None:
        self._clients.pop(fd, None)
        self._spare.refill()

    # --- a request ---------------------------------------------------------------------------------------------------

    def answer(self, method: str, target: str, agent: str, body: bytes) -> Answer:
        """The response to one request."""
        path, question, query = target.partition("?")
        if path.startswith(("http://", "https://")):
            path = "/" + path.split("://", 1)[1].partition("/")[2]
        clean = _clean(path)
        if clean != path:
            return Answer(301, b"", "", False, (("Location", clean + question + query),))
        route = self._route(method, path)
        if route is None:
            return _plain(404, "404 page not found\n", matched=False)
        handler, names = route
        if handler is None:
            return Answer(405, b"", "", False)
        if agent.startswith("Mozilla/"):
            return _plain(403, "User agent not allowed\n", matched=True)
        try:
            return handler(body, *names)
        except wire.Rejected as error:
            return _refusal(error)

    def next_id(self) -> str:
        """The next request's id: 20 characters of 0-9 and a-v."""
        self._id += 1
        number = self._id
        return "".join(_DIGITS[number >> shift & 31] for shift in range(0, 100, 5))

    def _route(self, method: str, path: str) -> tuple[Callable[..., Answer] | None, tuple[str, ...]] | None:
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
                methods: dict[str, Callable[..., Answer]] = {
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

    def _get_metrics(self, body: bytes) -> Answer:
        text = self._metrics() if self._metrics is not None else ""
        return Answer(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")

    def _get_version(self, body: bytes) -> Answer:
        return Answer(200, wire.version_body(), "application/json;charset=utf-8")

    def _reset(self, body: bytes) -> Answer:
        self._proxies.reset()
        return Answer(204)

    def _populate(self, body: bytes) -> Answer:
        try:
            proxies = self._proxies.populate(wire.read_proxies(body))
        except wire.Rejected as error:
            return Answer(error.status, wire.populate_error_body(error.status, error.message))
        return _json({"proxies": [proxy.shown() for proxy in proxies] or None}, 201)

    def _list(self, body: bytes) -> Answer:
        by_name = self._proxies.by_name
        return _json({name: by_name[name].shown() for name in sorted(by_name)})

    def _create(self, body: bytes) -> Answer:
        return _json(self._proxies.create(wire.read_new_proxy(body)).shown(), 201)

    def _show(self, body: bytes, name: str) -> Answer:
        return _json(self._proxies.get(name).shown())

    def _update(self, body: bytes, name: str) -> Answer:
        proxy = self._proxies.get(name)
        self._proxies.update(proxy, wire.read_proxy(wire.decode(body)))
        return _json(proxy.shown())

    def _delete(self, body: bytes, name: str) -> Answer:
        self._proxies.delete(self._proxies.get(name))
        return Answer(204)

    def _list_toxics(self, body: bytes, name: str) -> Answer:
        return _json([rule.shown() for rule in self._proxies.get(name).rules])

    def _add_toxic(self, body: bytes, name: str) -> Answer:
        proxy = self._proxies.get(name)
        return _json(self._proxies.add_toxic(proxy, wire.read_toxic(wire.decode(body))).shown())

    def _show_toxic(self, body: bytes, name: str, toxic: str) -> Answer:
        return _json(self._proxies.toxic(self._proxies.get(name), toxic).shown())

    def _update_toxic(self, body: bytes, name: str, toxic: str) -> Answer:
        proxy = self._proxies.get(name)
        rule = self._proxies.toxic(proxy, toxic)
        self._proxies.update_toxic(proxy, rule, wire.read_toxic(wire.decode(body)))
        return _json(rule.shown())

    def _remove_toxic(self, body: bytes, name: str, toxic: str) -> Answer:
        proxy = self._proxies.get(name)
        proxy.discard(self._proxies.toxic(proxy, toxic))
        return Answer(204)

    def _counters(self, body: bytes, name: str) -> Answer:
        return _json(self._proxies.get(name).counted())

    def _connections(self, body: bytes, name: str) -> Answer:
        proxy = self._proxies.get(name)
        return _json([each.shown() for each in proxy.connections.values()])


def unquote(text: str) -> str:
    """`text` without its percent-encoding. urllib's takes as long to import as the proxy to start."""
    if "%" not in text:
        return text
    first, *parts = text.encode().split(b"%")
    data = bytearray(first)
    for part in parts:
        try:
            data.append(int(part[:2].decode("ascii"), 16) if len(part) >= 2 else int("", 16))
            data += part[2:]
        except ValueError:
            data += b"%" + part
    return data.decode("utf-8", "replace")


def _clean(path: str) -> str:
    """A path without empty, `.` and `..` segments; a slash at the end stays."""
    if "//" not in path and "/." not in path and path.startswith("/"):
        return path
    kept: list[str] = []
    for part in path.split("/"):
        if part == "..":
            kept = kept[:-1]
        elif part not in ("", "."):
            kept.append(part)
    end = "/" if kept and path.endswith("/") else ""
    return "/" + "/".join(kept) + end


class _Client:
    """One connection of an API client."""

    __slots__ = (
        "_api",
        "_body",
        "_deadline",
        "_fd",
        "_http",
        "_loop",
        "_mask",
        "_out",
        "_request",
        "_socket",
        "_timer",
    )

    def __init__(self, api: Api, loop: Loop, sock: so.socket) -> None:
        self._api = api
        self._loop = loop
        self._socket = sock
        self._fd = sock.fileno()
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._request: h11.Request | None = None
        self._body = bytearray()
        self._out = bytearray()
        self._mask = IN
        self._deadline = loop.now() + IDLE
        self._timer: Timer | None = loop.at(self._deadline, self._on_timer)
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
            self._loop.forget(self._fd, self._mask)
            self._socket.close()
            self._api.gone(self._fd)

    def _on_timer(self) -> None:
        if self._loop.now() < self._deadline:
            self._timer = self._loop.at(self._deadline, self._on_timer)
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
        try:
            self._http.receive_data(data)
            self._read_events()
        except h11.RemoteProtocolError as error:
            self._refuse(error.error_status_hint)

    def _read_events(self) -> None:
        http = self._http
        while self._timer is not None and not self._out:
            event = http.next_event()
            if event is h11.NEED_DATA:
                if http.they_are_waiting_for_100_continue:
                    self._send(h11.InformationalResponse(status_code=100, headers=[]))
                if self._request is None and not http.trailing_data[0]:
                    self._deadline = self._loop.now() + IDLE
                return
            if isinstance(event, h11.Request):
                self._request = event
                self._body.clear()
                self._set_deadline(READ)
            elif isinstance(event, h11.Data):
                self._body += event.data
                if len(self._body) > MAX_BODY:
                    self._refuse(413)
                    return
            elif isinstance(event, h11.EndOfMessage):
                self._respond()
                if http.our_state is h11.DONE and http.their_state is h11.DONE:
                    http.start_next_cycle()
                    self._request = None  # from now on it is idle, and not slow with a request
            else:  # the client has closed
                self.close()
                return

    def _set_deadline(self, seconds: float) -> None:
        self._deadline = self._loop.now() + seconds
        if self._timer is not None and self._timer.when > self._deadline:
            self._timer.cancel()
            self._timer = self._loop.at(self._deadline, self._on_timer)

    def _respond(self) -> None:
        request = self._request
        if request is None:
            return
        agent = next((value for name, value in request.headers if name == b"user-agent"), b"")
        method = request.method.decode("ascii", "replace")
        target = request.target.decode("ascii", "replace")
        try:
            answer = self._api.answer(method, target, agent.decode("latin-1"), bytes(self._body))
        except Exception as error:  # noqa: BLE001  # ours to repair, and no reason to leave the client without an answer
            answer = _refusal(wire.Rejected(500, f"internal error: {type(error).__name__}: {error}"))
        self._write(answer)

    def _write(self, answer: Answer) -> None:
        headers = [*answer.headers]
        if answer.kind:
            headers.append(("Content-Type", answer.kind))
        if answer.kind == _TEXT:
            headers.append(("X-Content-Type-Options", "nosniff"))
        if answer.matched:
            headers.append(("X-Toxiproxy-Request-Id", self._api.next_id()))
        headers.append(("Date", stamp("%a, %d %b %Y %H:%M:%S GMT")))
        if answer.body is not None:
            headers.append(("Content-Length", str(len(answer.body))))
        self._send(h11.Response(status_code=answer.status, headers=headers), flush=False)
        if answer.body:
            self._send(h11.Data(data=answer.body), flush=False)
        self._send(h11.EndOfMessage())
        if self._http.our_state is h11.MUST_CLOSE and not self._out:
            self.close()

    def _refuse(self, status: int) -> None:
        """Answer something that is no request, and close."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            text = f"{status} {_REASONS.get(status, 'Bad Request')}"
            answer = _plain(status, text, matched=False)
            self._write(answer._replace(headers=(("Connection", "close"),)))
        self.close()

    def _send(self, event: Any, *, flush: bool = True) -> None:
        self._out += self._http.send(event) or b""
        if flush:
            self._flush()

    def _flush(self) -> None:
        try:
            sent = self._socket.send(self._out)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        del self._out[:sent]
        mask = OUT if self._out else IN
        if mask != self._mask and self._timer is not None:
            self._loop.watch(self._fd, mask, self._mask)
            self._mask = mask
            if mask == IN:
                if self._http.our_state is h11.MUST_CLOSE:
                    self.close()
                    return
                try:
                    self._read_events()  # requests that came meanwhile
                except h11.RemoteProtocolError as error:
                    self._refuse(error.error_status_hint)


_REASONS = {
    400: "Bad Request",
    413: "Request Entity Too Large",
    431: "Request Header Fields Too Large",
    501: "Not Implemented",
}
