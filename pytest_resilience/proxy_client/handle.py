"""One proxy of a Toxiproxy server, with its toxics, its listener and its counters."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from ..clock import SYSTEM
from .client import ToxiproxyClient, ToxiproxyError
from .counters import ConnectionState, ProxyCounters, Tally, read_rules, read_tally

if TYPE_CHECKING:
    import toxiproxy


class ProxyHandle:
    """One proxy.

    Args:
        toxiproxy: the client of its server.
        name: its name.
        listen: its listener, "host:port".

    Attributes:
        snapshots: the counters before each strike that disabled it, so that the receipt of one strike excludes the refusals of the next.
        flaps: the number of strikes that disable and enable it in turn now.
    """

    def __init__(self, toxiproxy: ToxiproxyClient, name: str, listen: str) -> None:
        self.toxiproxy = toxiproxy
        self.name = name
        self.listen = listen
        self._path = f"/proxies/{quote(name, safe='')}"
        self._disabled_by = 0
        self._enabled_at = float("-inf")
        self._accept_delays: list[int] = []
        self._names = itertools.count(1)
        self._switching = threading.RLock()  # the thread of a flap switches the proxy too
        self.snapshots: list[ProxyCounters] = []
        self.flaps = 0

    def set_protocol(self, protocol: str) -> bool:
        """Have the proxy read a protocol on new connections (an addition of our proxy).

        Args:
            protocol: "postgres" or "redis".

        Returns:
            False if the proxy is a real Toxiproxy, which is sent nothing then.
        """
        if self.toxiproxy.has_counters is None:
            self.counters()
        if self.toxiproxy.has_counters:
            self.toxiproxy.request("POST", self._path, {"protocol": protocol})
        return bool(self.toxiproxy.has_counters)

    def set_tls(self, options: Mapping[str, Mapping[str, object]]) -> None:
        """Have the proxy use TLS on new connections (an addition of our proxy).

        Args:
            options: "client" and "upstream", as the API has them.
        """
        self.toxiproxy.request("POST", self._path, {"tls": options})

    def disable(self) -> None:
        """Refuse new connections and close those that exist. Two calls need two calls of `enable`."""
        with self._switching:
            if self._disabled_by == 0:
                self.toxiproxy.request("POST", self._path, {"enabled": False})
            self._disabled_by += 1

    def enable(self) -> None:
        """Undo one `disable`. The last one lets connections in again."""
        with self._switching:
            if self._disabled_by == 1:
                self.toxiproxy.request("POST", self._path, {"enabled": True})
                self._enabled_at = self.now()
            self._disabled_by = max(0, self._disabled_by - 1)

    @property
    def disabled_by(self) -> int:
        """The number of `disable` calls that `enable` has not undone."""
        return self._disabled_by

    @property
    def enabled_at(self) -> float:
        """The moment of the last `enable` that let connections in again, or minus infinity before the first."""
        return self._enabled_at

    def record_snapshot(self, counters: ProxyCounters) -> None:
        """Append counters to `snapshots`, if the proxy is enabled."""
        if self._disabled_by == 0:
            self.snapshots.append(counters)

    def drop_connections(self) -> None:
        """Close the connections that exist. New ones are refused for a millisecond. Do nothing if the proxy is disabled."""
        with self._switching:
            if self._disabled_by == 0:
                self.toxiproxy.request("POST", self._path, {"enabled": False})
                self.toxiproxy.request("POST", self._path, {"enabled": True})

    def add_toxic(
        self, kind: str, *, stream: str, attributes: Mapping[str, object], label: str, clients: Sequence[str] = ()
    ) -> str:
        """Add a toxic at the end of a stream's chain. Return its name.

        Args:
            kind: Toxiproxy's type.
            stream: "upstream" or "downstream".
            attributes: Toxiproxy's attributes, in its units.
            label: the beginning of the name.
            clients: "host:port" of the only connections that it works on (an addition of our proxy); empty for all.
        """
        name = f"{label}-{next(self._names)}-{stream}"
        toxic: dict[str, object] = {"name": name, "type": kind, "stream": stream, "toxicity": 1.0}
        toxic["attributes"] = dict(attributes)
        if clients:
            toxic["connections"] = list(clients)
        self.toxiproxy.request("POST", f"{self._path}/toxics", toxic)
        return name

    def release_chunk(self, name: str) -> None:
        """Let the oldest chunk that a toxic holds on each connection go on. The toxic holds what comes behind."""
        self.toxiproxy.request("POST", f"{self._path}/toxics/{quote(name, safe='')}", {"attributes": {}})

    def connections(self) -> list[ConnectionState]:
        """Return the open connections (an addition of our proxy).

        Raises:
            ToxiproxyError: the server is a real Toxiproxy.
        """
        return [ConnectionState.read(each) for each in self.toxiproxy.request("GET", f"{self._path}/connections")]

    def clients(self) -> list[str]:
        """Return the addresses of the connected clients, "host:port" each (an addition of our proxy)."""
        return [connection.client for connection in self.connections()]

    def by_upstream_port(self, known: Sequence[tuple[str, int | None]] = ()) -> dict[int, int] | None:
        """Map the proxy's port of each connection to the server to the port of its client.

        Args:
            known: the server's clients by address and port, in the order in which they connected. A real Toxiproxy dials for its clients
                in the order in which it accepted them, and reports no more than that. So the two lists are paired in order, and
                nothing is paired if one of them is longer.

        Returns:
            None if neither the proxy nor the backend reports the clients.
        """
        try:
            connections = self.toxiproxy.request("GET", f"{self._path}/connections")
        except ToxiproxyError:
            return self._pair_in_order(known)
        pairs = [(connection.get("via"), connection["client"]) for connection in connections]
        return {_port(via): _port(client) for via, client in pairs if via and client != "unix"}

    def _pair_in_order(self, known: Sequence[tuple[str, int | None]]) -> dict[int, int] | None:
        if self.toxiproxy.proxied_clients is None:
            return None
        proxied = self.toxiproxy.proxied_clients(self.name)
        if proxied is None:
            return None
        ports = [port for host, port in known if host == proxied.host and port is not None]
        return dict(zip(ports, proxied.ports, strict=True)) if len(ports) == len(proxied.ports) else {}

    def delete(self) -> None:
        """Remove the proxy from its server."""
        self.toxiproxy.request("DELETE", self._path)

    def change_upstream(self, upstream: str) -> None:
        """Dial another address, "host:port", for new connections. Existing connections may be closed."""
        self.toxiproxy.request("POST", self._path, {"upstream": upstream})

    def add_accept_delay(self, milliseconds: int) -> None:
        """Delay the dial after a client has connected (an addition of our proxy). Several delays add up."""
        self._set_accept_delays([*self._accept_delays, milliseconds])

    def remove_accept_delay(self, milliseconds: int) -> None:
        """Remove one delay of this length. Other delays stay."""
        delays = list(self._accept_delays)
        if milliseconds in delays:
            delays.remove(milliseconds)
        self._set_accept_delays(delays)

    def _set_accept_delays(self, delays: list[int]) -> None:
        self.toxiproxy.request("POST", self._path, {"accept_delay": sum(delays)})
        self._accept_delays = delays

    def remove_toxic(self, name: str) -> None:
        """Remove a toxic. The proxy sends what it held, at once and in order."""
        self.toxiproxy.request("DELETE", f"{self._path}/toxics/{quote(name, safe='')}")

    def now(self) -> float:
        """Return the present moment of the clock that counters use."""
        return SYSTEM.now()

    def counters(self) -> ProxyCounters:
        """Read the counters."""
        if self.toxiproxy.has_counters is False:
            return self._backend_counters()
        try:
            raw = self.toxiproxy.request("GET", f"{self._path}/counters")
        except ToxiproxyError as refusal:
            if refusal.status != 404 or self.toxiproxy.has_counters:
                raise
            self.toxiproxy.has_counters = False
            return self._backend_counters()
        self.toxiproxy.has_counters = True
        return ProxyCounters(
            now=raw["now"],
            live=raw["connections"],
            accepted=read_tally(raw["accepted"]) or Tally(),
            refused=read_tally(raw["refused"]),
            cut=read_tally(raw["cut"]) or Tally(),
            unattributed=raw["refused"].get("unattributed", 0),
            toxics={name: read_tally(toxic) or Tally() for name, toxic in raw["toxics"].items()},
            rules=read_rules(raw["toxics"]),
            verbs=raw.get("statements", {}),
            unreadable=raw.get("unreadable", {}),
        )

    def _backend_counters(self) -> ProxyCounters:
        """Return the counters of a real Toxiproxy, with the counts of the backend."""
        counts = self.toxiproxy.connection_counts(self.name) if self.toxiproxy.connection_counts is not None else None
        return ProxyCounters(
            now=self.now(),
            live=None,
            accepted=Tally(counts.accepted if counts is not None else 0),
            refused=None,
            cut=None,
            toxics=None,
            backend_counts=counts,
            closed_bytes=self.toxiproxy.closed_bytes(self.name),
        )

    def reset(self) -> None:
        """Enable this proxy and remove its toxics, as the server's reset does with all proxies."""
        state = self.toxiproxy.request("GET", self._path)
        if not state["enabled"]:
            self.toxiproxy.request("POST", self._path, {"enabled": True})
        for toxic in state["toxics"]:
            self.remove_toxic(toxic["name"])
        self.mark_enabled()

    def create_again(self, toxiproxy: ToxiproxyClient, upstream: str) -> None:
        """Create the proxy on its port, because clients have the address, after the process that had it has ended.

        Args:
            toxiproxy: the client of the new process.
            upstream: the address of the server.
        """
        self.toxiproxy = toxiproxy
        toxiproxy.request("POST", "/populate", [{"name": self.name, "listen": self.listen, "upstream": upstream}])
        self.mark_enabled()

    def mark_enabled(self) -> None:
        """Forget all calls of `disable` and all delays, because the server has reset or created the proxy."""
        self._disabled_by = 0
        self._accept_delays = []

    def as_toxiproxy_python(self) -> toxiproxy.Proxy:
        """Return toxiproxy-python's object for this proxy."""
        proxy = self.toxiproxy.as_toxiproxy_python().get_proxy(self.name)
        assert proxy is not None, f"the server has no proxy {self.name}"
        return proxy


def create_proxy(toxiproxy: ToxiproxyClient, name: str, listen: str, upstream: str) -> ProxyHandle:
    """Create a proxy.

    Raises:
        ToxiproxyError: the server refused it, because the name or the port is taken.
    """
    created = toxiproxy.request("POST", "/proxies", {"name": name, "listen": listen, "upstream": upstream})
    return ProxyHandle(toxiproxy, created["name"], created["listen"])


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
