"""The counters of a proxy, and the counts of its backend for a proxy that does not count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Tally:
    """A count of connections and bytes, with the first and last moment in seconds of the monotonic clock."""

    connections: int = 0
    bytes: int = 0
    first: float | None = None
    last: float | None = None

    def since(self, before: Tally) -> Tally:
        """Return the count since `before`."""
        count = self.connections - before.connections
        new_first = self.first if before.connections == 0 else None
        return Tally(
            count, self.bytes - before.bytes, (new_first or self.last) if count else None, self.last if count else None
        )


class ConnectionCounts(NamedTuple):
    """The numbers of accepted and closed connections of a proxy, as seen by the backend."""

    accepted: int
    closed: int


class ProxiedClients(NamedTuple):
    """The clients connected through a proxy, as seen by the backend.

    Args:
        host: the proxy's address, as the servers see it.
        ports: the clients' ports, in the order in which the proxy dialled for them.
    """

    host: str
    ports: Sequence[int]


class RuleCount(NamedTuple):
    """The count of a rule for single statements.

    Args:
        matched: statements that have the verb, the text or key, and the client of the rule.
        acted: those on which the rule has acted.
        first, last: the moments of the first and the last act, in seconds of the monotonic clock; None without any.
        shown: the last of the statements that the rule has chosen, without literals.
    """

    matched: int = 0
    acted: int = 0
    first: float | None = None
    last: float | None = None
    shown: Sequence[str] = ()


@dataclass(frozen=True)
class ProxyCounters:
    """The counters of one proxy.

    The real Toxiproxy has few of them: `live`, `cut`, `refused` and `toxics` are None then, and the last two replace them.

    Args:
        now: the moment of the reading, in seconds of the machine's monotonic clock.
        live: open connections.
        accepted: accepted connections.
        refused: connections that the kernel refused while the proxy was disabled; None where the kernel does not report them.
        cut: connections that were closed because the proxy was disabled.
        unattributed: notices of connections that may have been refused here, and times at which the kernel dropped notices.
        toxics: for each toxic the connections and bytes on which it has worked, by its name.
        backend_counts: the connections that the backend has counted; None if it does not count.
        closed_bytes: bytes that closed connections had received; 0 if the metrics are off.
        rules: for each rule for single statements what it has counted, by its name.
        verbs: the number of statements by verb. Of Redis, these are the verbs of rules, while there is one.
        unreadable: the number of connections of which the statements can't be read, by reason, such as "encrypted".
    """

    now: float
    live: int | None
    accepted: Tally
    refused: Tally | None
    cut: Tally | None
    unattributed: int = 0
    toxics: Mapping[str, Tally] | None = field(default_factory=dict)
    backend_counts: ConnectionCounts | None = None
    closed_bytes: int = 0
    rules: Mapping[str, RuleCount] = field(default_factory=dict)
    verbs: Mapping[str, int] = field(default_factory=dict)
    unreadable: Mapping[str, int] = field(default_factory=dict)


class ConnectionState(NamedTuple):
    """One open connection of our proxy.

    Args:
        number: 1 for the first connection that the proxy has accepted.
        client: the address of the client, "host:port".
        up, down: bytes received so far from the client and from the server.
        held_up, held_down: bytes of these that the proxy has not sent on.
    """

    number: int
    client: str
    up: int
    down: int
    held_up: int
    held_down: int

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> ConnectionState:
        """Read an entry of GET /proxies/{p}/connections."""
        received, held = raw["bytes"], raw["held"]
        counts = received["upstream"], received["downstream"], held["upstream"], held["downstream"]
        return cls(raw["number"], raw["client"], *counts)


def read_tally(raw: Mapping[str, Any]) -> Tally | None:
    """Read one counter of the API. Return None if the proxy does not count."""
    count = raw.get("count", raw.get("connections"))
    if count is None:
        return None
    return Tally(count, raw.get("bytes", 0), raw.get("first"), raw.get("last"))


def read_rules(toxics: Mapping[str, Mapping[str, Any]]) -> dict[str, RuleCount]:
    """Read the counts of the rules among the toxics of the API."""
    return {
        name: RuleCount(*(raw[key] for key in RuleCount._fields)) for name, raw in toxics.items() if "matched" in raw
    }


def received_bytes(metrics: str, proxy: str) -> int:
    """Return the bytes that closed connections of a proxy had received, from the text of the server's metrics."""
    label = f'proxy="{proxy}"'
    lines = (
        line
        for line in metrics.splitlines()
        if line.startswith("toxiproxy_proxy_received_bytes_total{") and label in line
    )
    return sum(int(float(line.rpartition(" ")[2])) for line in lines)
