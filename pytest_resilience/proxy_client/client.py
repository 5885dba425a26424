"""A client of Toxiproxy's HTTP API, for our proxy and the real one. No other file uses toxiproxy-python.

Strikes use one kept-alive connection, because toxiproxy-python opens a new one for each call and keeps the server's address in a global
variable. Its objects are created here for tests that call `proxy.add_toxic(...)` themselves.
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

RESPONSE_TIMEOUT = 10.0  # seconds; a live proxy responds in about one millisecond
EXIT_REPORTED_WITHIN = 0.5  # seconds from the exit of a server until its parent process has noticed


# The faults that our proxy can inject and Toxiproxy 2.12 can't, each with the reason.
_ADDITIONS = {
    "half_open": "Toxiproxy's toxics affect all connections, new ones too",
    "slow_accept": "Toxiproxy accepts at once",
    "protocol_violation": "Toxiproxy does not add to answers",
}
_STATEMENTS = (
    "postgres.on",
    "postgres.after",
    "postgres.commit_in_doubt",
    "postgres.serialization_failure",
    "postgres.deadlock",
    "redis.on",
    "redis.after",
    "redis.loading_replies",
)
TOXIPROXY_UNSUPPORTED = {
    f"{kind}.{fault}": why for kind in ("postgres", "redis") for fault, why in _ADDITIONS.items()
} | dict.fromkeys(_STATEMENTS, "Toxiproxy reads no statements")
TOXIPROXY_UNSUPPORTED_FOR_TCP = {f"tcp.{fault}": why for fault, why in _ADDITIONS.items()}


class ToxiproxyError(SetupError):
    """An error response of the server.

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
    """A client of one Toxiproxy server. Threads may share it.

    Args:
        host, port: the address of the API.
        connection_counts: returns the connections of a proxy that the backend has counted; for a server that does not count.
        proxied_clients: returns the clients of a proxy that the backend knows; for a server that does not report them.
        check: raises BackendDied, with the server's log, if the server is known to have exited.

    Attributes:
        has_counters: True if the server counts as our proxy does; None before the first request for counters.
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
        """Send a request. Return the decoded JSON body of the response, or None for an empty one.

        Raises:
            ToxiproxyError: the server refused the request (4xx, 5xx); has the server's message.
            BackendDied: the server does not respond.
        """
        from http.client import HTTPException

        data = None if body is None else json.dumps(body).encode()
        with self._lock:
            was_kept_alive = self._connection is not None
            try:
                status, answer = self._exchange(method, path, data)
            except (OSError, HTTPException) as error:
                self._close_connection()
                try:
                    # The server may have closed a kept-alive connection. A new connection that fails is not worth another try.
                    if not was_kept_alive:
                        raise
                    status, answer = self._exchange(method, path, data)
                except (OSError, HTTPException):
                    self._close_connection()
                    raise self._died(error) from error
        if status >= 400:
            raise ToxiproxyError(status, f"the proxy refused {method} {path}: {status} {_reason(answer)}")
        return json.loads(answer) if answer else None

    def _died(self, error: Exception) -> BackendDied:
        """Build the error for an API that does not respond. It has the log of a server that exited up to 0.5 s ago."""
        died = None
        if self._check is not None:
            died = wait_until(partial(_death, self._check), within=EXIT_REPORTED_WITHIN, every=0.005)
        return died or BackendDied(
            f"the proxy's API at {self.host}:{self.port} does not answer: {type(error).__name__}: {error}"
        )

    def closed_bytes(self, proxy: str) -> int:
        """Return the bytes that closed connections of a proxy had received, by the server's metrics, or 0 if the metrics are off."""
        if not self._has_metrics:
            return 0
        with self._lock:
            try:
                status, answer = self._exchange("GET", "/metrics", None)
            except OSError:
                self._close_connection()
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

    def _close_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def reset(self) -> None:
        """Enable all proxies and remove all toxics."""
        self.request("POST", "/reset")

    @property
    def descriptors(self) -> set[int]:
        """The descriptors that the connection to the API has open in this process."""
        with self._lock:
            sock = self._connection.sock if self._connection is not None else None
            return {sock.fileno()} if sock is not None else set()

    def close(self) -> None:
        """Close the connection to the API."""
        with self._lock:
            self._close_connection()

    def as_toxiproxy_python(self) -> toxiproxy.Toxiproxy:
        """Return a toxiproxy-python client of this server. The library keeps one address per process, in a global variable."""
        import toxiproxy

        _DirectToLoopback.install()
        client = toxiproxy.Toxiproxy()
        client.update_api_consumer(self.host, self.port)
        return client


class _DirectToLoopback:
    """A replacement for the `requests` of toxiproxy-python that uses no HTTP proxy for addresses of this machine.

    requests uses the proxy that HTTP_PROXY names for every host that NO_PROXY does not list. Other hosts are reached as before.
    """

    def __init__(self, requests: Any) -> None:
        self._requests = requests

    @classmethod
    def install(cls) -> None:
        """Make toxiproxy-python use an instance of this class. A second call changes nothing."""
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
        if not is_loopback(urlsplit(url).hostname or ""):
            return self._requests.request(method, url, **options)
        with self._requests.Session() as session:
            session.trust_env = False
            return session.request(method, url, **options)


def is_loopback(host: str) -> bool:
    """True if `host` is "localhost", or a numeric address of this machine that no other machine can reach."""
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
