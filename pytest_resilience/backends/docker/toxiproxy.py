"""The real Toxiproxy in a container. Its log has the connections.

toxiproxy-server has no live counters, because its metrics count a connection when it has closed.
"""

from __future__ import annotations

import json
import secrets

from ...clock import wait_until
from ...proxy_client.counters import ConnectionCounts, ProxiedClients
from ...wire import http
from ..backend import Address
from ..managed_server import connect_and_send
from .container import POLL, Container, ContainerContext

API_PORT = 8474
FIRST_PROXY_PORT = 20001
ACCEPTED, CLOSED, FAILED = b"Accepted client", b"RemoveConnection ", b"Unable to open connection to upstream"
LOG_WITHIN = 1.0  # seconds until the engine's log has a line that was just written; it takes a few ms
# Where clients cannot reach the container itself, each server needs a published port, and each port costs a forwarding process.
PUBLISHED_PROXY_PORTS = 8


class ToxiproxyContainer(Container):
    """Toxiproxy, with a line in its log for the start and the end of each connection.

    Args:
        name, image, context: as for any container.
        proxy_ports: the number of ports for proxies to publish.
    """

    def __init__(self, name: str, image: str, context: ContainerContext, *, proxy_ports: int) -> None:
        super().__init__(name, image, context)
        self._proxy_ports = proxy_ports

    def ports(self) -> list[int]:
        return [API_PORT, *range(FIRST_PROXY_PORT, FIRST_PROXY_PORT + self._proxy_ports)]

    def command(self) -> list[str]:
        return ["-host=0.0.0.0", "-proxy-metrics"]

    def environment(self) -> dict[str, str]:
        return {"LOG_LEVEL": "trace"}

    def is_ready(self) -> bool:
        """True if its API answers."""
        return self._responds("/version")

    def api_responds(self) -> bool:
        """True if its API lists proxies. One stalled client and a toxic are enough to block all routes but /version."""
        try:
            return self._responds("/proxies")
        except OSError:
            return False

    def _responds(self, path: str) -> bool:
        with connect_and_send(self.published_address(API_PORT), http.request("GET", path, "toxiproxy")) as connection:
            return http.parse_status(connection.recv(64)) == 200

    @property
    def api(self) -> Address:
        """Return the loopback address of its API."""
        return self.published_address(API_PORT)

    def connection_counts(self, proxy: str) -> ConnectionCounts | None:
        """Return the numbers of connections that a proxy has accepted and closed, or None if the log is late."""
        connections = self._connections(proxy)
        if connections is None:
            return None
        return ConnectionCounts(len(connections), sum(ended for _, ended in connections))

    def proxied_clients(self, proxy: str) -> ProxiedClients | None:
        """Return the clients connected to a proxy, or None if the log is late."""
        connections = self._connections(proxy)
        if connections is None:
            return None
        return ProxiedClients(
            self.private_host, [Address.parse(client).port for client, ended in connections if not ended]
        )

    def _connections(self, proxy: str) -> list[tuple[str, bool]] | None:
        """Return the clients that a proxy has accepted, in order, each with True if either side has closed its connection."""
        log = self._current_log()
        if log is None:
            return None
        clients: list[str] = []
        ended = set[int]()
        latest: dict[str, int] = {}  # client address -> number of its last connection, because a port may be used again
        for line in log.splitlines():
            if not any(word in line for word in (ACCEPTED, CLOSED, FAILED)):
                continue
            entry = json.loads(line)
            if entry.get("name") != proxy:
                continue
            message = entry["message"].encode()
            if message == ACCEPTED:
                latest[entry["client"]] = len(clients)
                clients.append(entry["client"])
            elif message == FAILED:
                ended.add(latest[entry["client"]])
            elif message.startswith(CLOSED):
                ended.add(latest[entry["link"].removesuffix("upstream").removesuffix("downstream")])
        return [(client, number in ended) for number, client in enumerate(clients)]

    def _current_log(self) -> bytes | None:
        """Return the log with all lines before this call, or None if it is late. A request with a random mark is the last line."""
        mark = secrets.token_hex(8)
        request = http.request("GET", "/version", "toxiproxy", {"User-Agent": mark})
        try:
            with connect_and_send(self.published_address(API_PORT), request) as connection:
                connection.recv(64)
        except OSError:
            return None

        def log_with_mark() -> bytes | None:
            log = self._log()
            return log if mark.encode() in log else None

        log = wait_until(log_with_mark, within=LOG_WITHIN, every=POLL, clock=self._clock)
        if log is None:
            return None
        return log[: log.rindex(b"\n") + 1]  # the last line may be half written
