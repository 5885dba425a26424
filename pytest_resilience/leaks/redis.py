"""The clients of a Redis and their subscriptions, from CLIENT LIST and PUBSUB CHANNELS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .compare import UNNAMED, Resource

PATTERN = "(pattern)"  # Redis does not report the pattern itself


class ClientRow(NamedTuple):
    """One row of CLIENT LIST."""

    number: str
    name: str
    address: str
    command: str
    channels: int
    patterns: int

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> ClientRow:
        """Return the client of a row of CLIENT LIST."""
        counts = int(row.get("sub", 0)), int(row.get("psub", 0))
        return cls(str(row["id"]), row.get("name") or UNNAMED, row["addr"], row.get("cmd", ""), *counts)

    @property
    def port(self) -> int | None:
        """The client's port, or None for a unix socket."""
        port = self.address.rpartition(":")[2]
        return int(port) if port.isdigit() else None

    @property
    def host(self) -> str:
        """The client's address."""
        return self.address.rpartition(":")[0]

    def describe(self) -> str:
        """Return the last command, of which Redis keeps no arguments."""
        return f"a client, last command: {self.command}" if self.command not in ("", "NULL") else "a client"


def client_endpoints(clients: Iterable[ClientRow]) -> list[tuple[str, int | None]]:
    """Return address and port of the clients in the order of connecting, which is that of their numbers."""
    return [(client.host, client.port) for client in sorted(clients, key=lambda client: int(client.number))]


def resources(clients: Iterable[ClientRow], server: str) -> list[Resource]:
    """Return the clients of a server and their subscriptions.

    A subscription has the name of its client, because Redis does not report the channels of a client.
    """
    found = []
    for client in clients:
        key = server, client.number, client.address
        found.append(Resource("redis", client.name, key, client, server))
        for kind, count in (("subscription", client.channels), ("pattern", client.patterns)):
            found += [Resource(kind, client.name, (*key, turn), client, server) for turn in range(count)]
    return found


def channel_names(count: int, before: Sequence[str], after: Sequence[str]) -> list[str]:
    """Return the names of `count` new subscriptions, the new channels or else all channels that they may have."""
    new = sorted(set(after) - set(before)) or sorted(after)
    return new if len(new) == count else [" or ".join(new) or UNNAMED] * count
