"""Drives a Toxiproxy over HTTP, ours or the real one; the only file that knows toxiproxy-python.

Strikes go over one kept-alive connection of our own, because toxiproxy-python opens a new one for each call and keeps the
server's address in a global; its objects are made here for those who want to type `proxy.add_toxic(...)` themselves.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..clock import wait_until
from ..errors import BackendDied, SetupError
from .counters import ConnectionCounts, ProxiedClients, received_bytes

if TYPE_CHECKING:
    from http.client import HTTPConnection

    import toxiproxy

RESPONSE_TIMEOUT = 10.0  # seconds; the proxy answers in about one millisecond, so this is a dead one
EXIT_REPORTED_WITHIN = 0.5  # seconds from the end of a server until its parent knows of it


# What Toxiproxy 2.12 has not and ours has.
TOXIPROXY_UNSUPPORTED = {
    f"{server}.{fault}": reason
    for server in ("postgres", "redis")
    for fault, reason in (
        ("half_open", "Toxiproxy's toxics strike all connections, new ones too"),
        ("slow_accept", "Toxiproxy accepts at once"),
    )
}


class ToxiproxyError(SetupError):
    """The server answered with an error.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


def _death(check: Callable[[], None]) -> BackendDied | None:
    try:
        check()
    except BackendDied as died:
        return died
    return None


class ToxiproxyClient:
    """One Toxiproxy server's HTTP API. Threads may share it.

    Args:
        host: where the API listens.
        port: its port.
        connection_counts: what a backend sees of a proxy's connections where the server does not count them.
        proxied_clients: whom a backend sees behind a proxy where the server does not say.
        check: raises BackendDied with the server's log when it is known to have ended.

    Attributes:
        has_counters: whether the server counts as ours does; None when it has not been asked yet.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        connection_counts: Callable[[str], ConnectionCounts | None] | None = None,
        proxied_clients: Callable[[str], ProxiedClients | None] | None = None,
        check: Callable[[], None] | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.connection_counts = connection_counts
        self.proxied_clients = proxied_clients
        self._check = check
        self.has_counters: bool | None = None
        self._has_metrics = True
        self._lock = threading.Lock()
        self._connection: HTTPConnection | None = None

    def request(self, method: str, path: str, body: object = None) -> Any:
        """One call; returns the decoded JSON answer, or None for an empty one.

        Raises:
            SetupError: the server refused it (4xx, 5xx); the message is the server's.
            BackendDied: nobody answers.
        """
        from http.client import HTTPException

        data = None if body is None else json.dumps(body).encode()
        with self._lock:
            kept = self._connection is not None
            try:
                status, answer = self._exchange(method, path, data)
            except (OSError, HTTPException) as error:
                self._forget_connection()
                try:
                    # A kept-alive connection may have been closed meanwhile: that is worth one more try, a fresh one is not.
                    if not kept:
                        raise
                    status, answer = self._exchange(method, path, data)
                except (OSError, HTTPException):
                    self._forget_connection()
                    raise self._died(error) from error
        if status >= 400:
            raise ToxiproxyError(status, f"the proxy refused {method} {path}: {status} {_reason(answer)}")
        return json.loads(answer) if answer else None

    def _died(self, error: Exception) -> BackendDied:
        """What to say when nobody answers: the log of a server that has ended, of which its parent may know a moment later."""
        died = None
        if self._check is not None:
            died = wait_until(partial(_death, self._check), within=EXIT_REPORTED_WITHIN, every=0.005)
        return died or BackendDied(
            f"the proxy's API at {self.host}:{self.port} does not answer: {type(error).__name__}: {error}"
        )

    def closed_bytes(self, proxy: str) -> int:
        """What the connections of a proxy that have ended had carried, by the server's metrics; 0 where they are switched off."""
        if not self._has_metrics:
            return 0
        with self._lock:
            try:
                status, answer = self._exchange("GET", "/metrics", None)
            except OSError:
                self._forget_connection()
                return 0
        self._has_metrics = status == 200
        return received_bytes(answer.decode(), proxy) if self._has_metrics else 0

    def _exchange(self, method: str, path: str, data: bytes | None) -> tuple[int, bytes]:
        if self._connection is None:
            from http.client import HTTPConnection

            self._connection = HTTPConnection(self.host, self.port, timeout=RESPONSE_TIMEOUT)
        self._connection.request(method, path, body=data)
        response = self._connection.getresponse()
        return response.status, response.read()

    def _forget_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def reset(self) -> None:
        """Enable all proxies and remove all toxics."""
        self.request("POST", "/reset")

    @property
    def descriptors(self) -> set[int]:
        """What the connection to the API has open in this process."""
        with self._lock:
            sock = self._connection.sock if self._connection is not None else None
            return {sock.fileno()} if sock is not None else set()

    def close(self) -> None:
        """Close the connection to the API."""
        with self._lock:
            self._forget_connection()

    def as_toxiproxy_python(self) -> toxiproxy.Toxiproxy:
        """A toxiproxy-python client of this server (its address is a global of that library: one server per process)."""
        import toxiproxy

        _DirectToLoopback.install()
        client = toxiproxy.Toxiproxy()
        client.update_api_consumer(self.host, self.port)
        return client


class _DirectToLoopback:
    """The `requests` of toxiproxy-python, which asks no HTTP proxy of the environment for an address of this machine.

    HTTP_PROXY names a proxy for everything, and requests obeys unless NO_PROXY lists the host. Other hosts are reached as before.
    """

    def __init__(self, requests: Any) -> None:
        self._requests = requests

    @classmethod
    def install(cls) -> None:
        """Have toxiproxy-python use an instance of this class. A second call changes nothing."""
        from toxiproxy import api

        if not isinstance(api.requests, cls):
            api.requests = cls(api.requests)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._requests, name)

    def get(self, url: str, **options: Any) -> Any:
        return self._request("GET", url, options)

    def post(self, url: str, **options: Any) -> Any:
        return self._request("POST", url, options)

    def delete(self, url: str, **options: Any) -> Any:
        return self._request("DELETE", url, options)

    def _request(self, method: str, url: str, options: Mapping[str, Any]) -> Any:
        if not _is_loopback(urlsplit(url).hostname or ""):
            return self._requests.request(method, url, **options)
        with self._requests.Session() as session:
            session.trust_env = False
            return session.request(method, url, **options)


def _is_loopback(host: str) -> bool:
    """True if `host` is an address of this machine that no other machine can reach."""
    from ipaddress import ip_address

    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _reason(answer: bytes) -> str:
    try:
        decoded = json.loads(answer)
        return str(decoded["error"])
    except (ValueError, TypeError, KeyError):
        return answer.decode(errors="replace").strip()
