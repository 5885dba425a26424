"""One proxy of a Toxiproxy server: what strikes it, and what it counted."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from ..clock import SYSTEM
from .client import ToxiproxyClient, ToxiproxyError
from .counters import ProxyCounters, Tally, read_tally

if TYPE_CHECKING:
    import toxiproxy


class ProxyHandle:
    """One proxy: what strikes it, and what it counted.

    Args:
        toxiproxy: the server's API.
        name: the proxy's name.
        listen: where it listens, "host:port".

    Attributes:
        snapshots: what was counted each time that somebody shut it while it was open, so that no strike is credited with a later one's.
    """

    def __init__(self, toxiproxy: ToxiproxyClient, name: str, listen: str) -> None:
        self.toxiproxy = toxiproxy
        self.name = name
        self.listen = listen
        self._path = f"/proxies/{quote(name, safe='')}"
        self._disabled_by = 0
        self._enabled_at = float("-inf")
        self._names = itertools.count(1)
        self.snapshots: list[ProxyCounters] = []

    def disable(self) -> None:
        """Refuse and cut; counts, so that two who shut it must both open it again."""
        if self._disabled_by == 0:
            self.toxiproxy.request("POST", self._path, {"enabled": False})
        self._disabled_by += 1

    def enable(self) -> None:
        """Take one `shut` back; the last one lets connections in again."""
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
        """The moment of the last `enable` that let connections in again; minus infinity before the first."""
        return self._enabled_at

    def record_snapshot(self, counters: ProxyCounters) -> None:
        """Append counters to `snapshots`, if the proxy is enabled."""
        if self._disabled_by == 0:
            self.snapshots.append(counters)

    def drop_connections(self) -> None:
        """Close the connections that exist; new ones are refused for a millisecond, and let in then. Nothing when it is shut."""
        if self._disabled_by == 0:
            self.toxiproxy.request("POST", self._path, {"enabled": False})
            self.toxiproxy.request("POST", self._path, {"enabled": True})

    def add_toxic(
        self, kind: str, *, stream: str, attributes: Mapping[str, int], label: str, clients: Sequence[str] = ()
    ) -> str:
        """Add a toxic at the end of a stream's chain; returns its name, which starts with `label`.

        Args:
            kind: Toxiproxy's type.
            stream: "upstream" or "downstream".
            attributes: Toxiproxy's, in its units.
            label: what the name starts with.
            clients: "host:port" of the only connections that it shall work on (our proxy's addition); empty for all.
        """
        name = f"{label}-{next(self._names)}-{stream}"
        toxic: dict[str, object] = {"name": name, "type": kind, "stream": stream, "toxicity": 1.0}
        toxic["attributes"] = dict(attributes)
        if clients:
            toxic["connections"] = list(clients)
        self.toxiproxy.request("POST", f"{self._path}/toxics", toxic)
        return name

    def clients(self) -> list[str]:
        """The addresses of all who are connected now, "host:port" each (our proxy's addition)."""
        return [connection["client"] for connection in self.toxiproxy.request("GET", f"{self._path}/connections")]

    def by_upstream_port(self, known: Sequence[tuple[str, int | None]] = ()) -> dict[int, int] | None:
        """For each connection the port that the server knows it by, and its client's; None where neither proxy nor backend can tell.

        Args:
            known: the server's clients by address and port, in the order in which they came. The real Toxiproxy dials for one client
                after the other, in the order in which it accepted them, and says no more: so they are paired one by one, or not at all
                when there is one more on either side.
        """
        try:
            connections = self.toxiproxy.request("GET", f"{self._path}/connections")
        except ToxiproxyError:
            behind = self.toxiproxy.proxied_clients(self.name) if self.toxiproxy.proxied_clients is not None else None
            if behind is None:
                return None
            ports = [port for host, port in known if host == behind.host and port is not None]
            return dict(zip(ports, behind.ports, strict=True)) if len(ports) == len(behind.ports) else {}
        pairs = [(connection.get("via"), connection["client"]) for connection in connections]
        return {_port(via): _port(client) for via, client in pairs if via and client != "unix"}

    def set_accept_delay(self, milliseconds: int) -> None:
        """Wait so long between a client's connect and the dial (our proxy's addition)."""
        self.toxiproxy.request("POST", self._path, {"accept_delay": milliseconds})

    def remove_toxic(self, name: str) -> None:
        """Remove a toxic; what it held goes out, at once and in order."""
        self.toxiproxy.request("DELETE", f"{self._path}/toxics/{quote(name, safe='')}")

    def now(self) -> float:
        """The moment on the clock that counters use."""
        return SYSTEM.now()

    def counters(self) -> ProxyCounters:
        """What the proxy has counted so far."""
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
        )

    def _backend_counters(self) -> ProxyCounters:
        """What can be known of the real server."""
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
        """Enable this proxy and remove its toxics, as the server's reset does with all of them."""
        shown = self.toxiproxy.request("GET", self._path)
        if not shown["enabled"]:
            self.toxiproxy.request("POST", self._path, {"enabled": True})
        for toxic in shown["toxics"]:
            self.remove_toxic(toxic["name"])
        self.mark_enabled()

    def mark_enabled(self) -> None:
        """Forget who shut it: the server was reset."""
        self._disabled_by = 0

    def as_toxiproxy_python(self) -> toxiproxy.Proxy:
        """toxiproxy-python's object for this proxy."""
        proxy = self.toxiproxy.as_toxiproxy_python().get_proxy(self.name)
        assert proxy is not None, f"the proxy {self.name} is gone from its server"
        return proxy


def populate(toxiproxy: ToxiproxyClient, proxies: list[tuple[str, str, str]]) -> list[ProxyHandle]:
    """Create proxies, each given as (name, listen, upstream); returns them in order."""
    made = toxiproxy.request("POST", "/populate", [{"name": n, "listen": li, "upstream": up} for n, li, up in proxies])
    return [ProxyHandle(toxiproxy, proxy["name"], proxy["listen"]) for proxy in made["proxies"]]


def create_proxy(toxiproxy: ToxiproxyClient, name: str, listen: str, upstream: str) -> ProxyHandle:
    """Create one proxy, which must not be there yet.

    Raises:
        SetupError: the server refused it: the name is taken, or the port.
    """
    made = toxiproxy.request("POST", "/proxies", {"name": name, "listen": listen, "upstream": upstream})
    return ProxyHandle(toxiproxy, made["name"], made["listen"])


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
