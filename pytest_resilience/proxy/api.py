"""The server of Toxiproxy's HTTP API. It runs in the event loop of the proxies, so nothing here may block."""

from __future__ import annotations

import _socket as so
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from .api_connection import ApiConnection
from .api_policy import CrossOriginProtection
from .api_response import Headers, Response, raw_error_response, text_response
from .api_routes import ApiRoutes
from .descriptors import NO_RESOURCES, RETRY_DELAY, SpareDescriptors
from .event_loop import IN, EventLoop, Timer
from .log import Log
from .proxy_collection import ProxyCollection

if TYPE_CHECKING:
    from .peer_user import OwnerOnlyAccess
    from .resolver import LookupResult

_DIGITS = "0123456789abcdefghijklmnopqrstuv"


class ApiServer:
    """The API over a set of proxies.

    Args:
        metrics: returns the text of GET /metrics; None for no such route.
        host: the name that the API listens on. A request's Host may be this name.
        allow_paths: accept unix sockets and TLS files in requests.
        tls_files: a directory whose files are accepted as TLS files in any case; "" for none.
        owner: serve this uid and root only; None serves all users.
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
        tls_files: str = "",
        owner: int | None = None,
    ) -> None:
        self._loop = loop
        self._log = log
        self._proxies = proxies
        self._host = host
        self._routes = ApiRoutes(proxies, metrics, allow_paths=allow_paths, tls_files=tls_files)
        self._owner = owner
        self._cross_origin: CrossOriginProtection | None = None
        self._owner_only: OwnerOnlyAccess | None = None
        self._listener: so.socket | None = None
        self._clients: dict[int, ApiConnection] = {}
        self._retry: Timer | None = None
        self._spare_descriptors = SpareDescriptors()
        self._id = int.from_bytes(os.urandom(12), "big")

    def serve(self, listener: so.socket) -> None:
        """Serve clients of a socket that listens already."""
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
            # Before a byte is read, so that other users of the machine hold no resources of this process.
            try:
                sock.send(raw_error_response(403, "this API serves the user who started it"))
            except OSError:
                pass  # the client is gone
            sock.close()
            self._spare_descriptors.refill()
            return
        if listener.family != so.AF_UNIX:
            sock.setsockopt(so.IPPROTO_TCP, so.TCP_NODELAY, 1)
        self._clients[fd] = ApiConnection(self, self._loop, sock)

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
        """Free the descriptor of the client that has been idle for the longest time, or a spare one."""
        idle = [client for client in self._clients.values() if client.idle]
        if idle:
            min(idle, key=lambda client: client.deadline).close()
            return True
        return self._spare_descriptors.release_one()

    def _accept_later(self, listener: so.socket) -> None:
        """Leave clients in the backlog for RETRY_DELAY."""
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

    def answer(
        self, method: str, target: str, headers: Headers, body: bytes, names: dict[str, LookupResult]
    ) -> Response:
        """Return the response to one request.

        Args:
            method: of the request.
            target: of the request.
            headers: of the request, with names in lower case.
            body: of the request.
            names: hosts that were looked up for the request.

        Raises:
            NameNotResolved: the request has to be answered again when `names` has this host, as a look-up may not block here.
        """
        reason = self._cross_origin.refusal(headers, target) if self._cross_origin is not None else ""
        if reason:
            return text_response(403, f"{reason}\n", matched=False)
        return self._routes.answer(method, target, headers, body, names)

    def resolve_later(self, host: str, then: Callable[[LookupResult], None]) -> None:
        """Look up a name without blocking the loop."""
        self._proxies.look_up_later(host, then)

    def next_request_id(self) -> str:
        """Return the id of the next request, 20 characters of 0-9 and a-v."""
        self._id += 1
        number = self._id
        return "".join(_DIGITS[number >> shift & 31] for shift in range(0, 100, 5))
