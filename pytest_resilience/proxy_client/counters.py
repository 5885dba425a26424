"""What a proxy has counted, and what its backend knows where the proxy does not count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Tally:
    """What came by, counted: connections, bytes, and when (seconds of the monotonic clock)."""

    connections: int = 0
    bytes: int = 0
    first: float | None = None
    last: float | None = None

    def since(self, before: Tally) -> Tally:
        """What came by after `before` was counted."""
        count = self.connections - before.connections
        new_first = self.first if before.connections == 0 else None
        return Tally(
            count, self.bytes - before.bytes, (new_first or self.last) if count else None, self.last if count else None
        )


class ConnectionCounts(NamedTuple):
    """How many connections of a proxy have begun and ended so far, by what its backend can see."""

    accepted: int
    closed: int


class ProxiedClients(NamedTuple):
    """Whom a proxy serves now, by what its backend can see.

    Args:
        host: the address by which the servers know the proxy.
        ports: its clients', in the order in which it dialled for them.
    """

    host: str
    ports: Sequence[int]


@dataclass(frozen=True)
class ProxyCounters:
    """What one proxy has counted.

    `refused` is None where refusals can't be seen; `unattributed` counts clients that may have been refused here or elsewhere.

    The real Toxiproxy counts next to nothing: `live`, `cut` and `toxics` are None then, `backend_counts` is what its backend knows in their
    place, and `closed_bytes` is what the connections that have ended had carried, where its metrics are switched on.
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


def read_tally(raw: Mapping[str, Any]) -> Tally | None:
    """Read one counter of the API; None where the proxy does not count."""
    count = raw.get("count", raw.get("connections"))
    if count is None:
        return None
    return Tally(count, raw.get("bytes", 0), raw.get("first"), raw.get("last"))


def received_bytes(metrics: str, proxy: str) -> int:
    """The bytes that a proxy's closed connections had carried, out of the server's metrics."""
    label = f'proxy="{proxy}"'
    lines = (
        line
        for line in metrics.splitlines()
        if line.startswith("toxiproxy_proxy_received_bytes_total{") and label in line
    )
    return sum(int(float(line.rpartition(" ")[2])) for line in lines)
