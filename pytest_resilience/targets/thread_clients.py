"""HTTP clients of a service, one for each thread."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..history import Exchange

if TYPE_CHECKING:
    import httpx

KEEP_ALIVE = 1.0  # seconds for which an idle connection to the service is kept

Explain = Callable[[Exchange, dict[str, float | None]], str]


class ThreadLocalClients:
    """An HTTP client for each thread.

    In a pool that threads share, httpcore 1.0 may close a connection as idle while another thread sends a request on it. That
    request would fail without any fault of the service.

    Args:
        explain: returns a description of a failed exchange, given its time-outs.
        timeout: the time-out of requests that set none, in seconds; None for no time-out.
    """

    def __init__(self, explain: Explain, timeout: float | None = 10.0) -> None:
        self._timeout = timeout
        self._local = threading.local()
        self._all: weakref.WeakSet[_ThreadClient] = weakref.WeakSet()
        self._explain = explain

    def of_this_thread(self, url: str) -> httpx.Client:
        """Return the client of this thread, which is closed when the thread ends."""
        owned: _ThreadClient | None = getattr(self._local, "owned", None)
        if owned is None or owned.client.is_closed:
            owned = self._local.owned = _ThreadClient(url, self._explain, self._timeout)
            self._all.add(owned)
        return owned.client

    def follow(self, url: str) -> None:
        """Give all clients another base URL."""
        for owned in list(self._all):
            owned.client.base_url = url

    def close(self) -> None:
        """Close all clients. A later request gets a new client."""
        for owned in list(self._all):
            owned.client.close()

    def descriptors(self) -> set[int]:
        """Return the descriptors of all clients in this process."""
        return {number for owned in list(self._all) for number in owned.transport.descriptors()}


class _ThreadClient:
    """A client that is closed when its thread has ended."""

    def __init__(self, url: str, explain: Explain, timeout: float | None) -> None:
        import ssl

        import httpx

        from .http_transport import Client, TrackingTransport

        # Servers close idle connections, uvicorn after 5 s. The client closes them earlier, or a request could meet the close.
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=KEEP_ALIVE)
        plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # not used for HTTP; loading all certificates would take 30 ms
        self.transport = TrackingTransport(trust_env=False, limits=limits, verify=plain)
        self.client = Client(explain, base_url=url, timeout=timeout, trust_env=False, transport=self.transport)

    def __del__(self) -> None:
        if (client := getattr(self, "client", None)) is not None:
            client.close()
