"""The clients of a Redis and what they subscribe to: what to say of CLIENT LIST and PUBSUB CHANNELS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .compare import UNNAMED, Resource

PATTERN = "(pattern)"  # Redis does not say which


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
        """Out of a row as redis-py reads it."""
        counts = int(row.get("sub", 0)), int(row.get("psub", 0))
        return cls(str(row["id"]), row.get("name") or UNNAMED, row["addr"], row.get("cmd", ""), *counts)

    @property
    def port(self) -> int | None:
        """Its end's port; None where it has none (a unix socket)."""
        port = self.address.rpartition(":")[2]
        return int(port) if port.isdigit() else None

    @property
    def host(self) -> str:
        """Its end's address."""
        return self.address.rpartition(":")[0]

    def describe(self) -> str:
        """What it did last. Redis keeps no arguments."""
        return f"a client, last command: {self.command}" if self.command not in ("", "NULL") else "a client"


def client_endpoints(clients: Iterable[ClientRow]) -> list[tuple[str, int | None]]:
    """The clients by address and port, in the order in which they came: Redis numbers them."""
    return [(client.host, client.port) for client in sorted(clients, key=lambda client: int(client.number))]


def resources(clients: Iterable[ClientRow], server: str) -> list[Resource]:
    """The clients of a server and their subscriptions, each by its client's name: Redis does not say which channel is whose."""
    found = []
    for client in clients:
        key = server, client.number, client.address
        found.append(Resource("redis", client.name, key, client, server))
        for kind, count in (("subscription", client.channels), ("pattern", client.patterns)):
            found += [Resource(kind, client.name, (*key, turn), client, server) for turn in range(count)]
    return found


def channel_names(count: int, before: Sequence[str], after: Sequence[str]) -> list[str]:
    """What so many new subscriptions are called: the new channels, or all that they may be."""
    new = sorted(set(after) - set(before)) or sorted(after)
    return new if len(new) == count else [" or ".join(new) or UNNAMED] * count
