"""The connections that this process dialled to its own proxies. They show when a proxy leads back to itself.

A chain of proxies in one process is legal. A circle is not: one client would make the process dial itself until it has no
descriptor left.
"""

from __future__ import annotations

from typing import Any

Endpoint = tuple[str, int]


class SelfConnections:
    """A registry of the proxies of this process that each accepted connection has come through.

    Attributes:
        ports: how many listeners of this process there are at each TCP port.
    """

    __slots__ = ("_chains", "ports")

    def __init__(self) -> None:
        self.ports: dict[int, int] = {}
        self._chains: dict[Endpoint, tuple[object, ...]] = {}

    def add_listener(self, port: int) -> None:
        """Count a listener at `port`."""
        self.ports[port] = self.ports.get(port, 0) + 1

    def remove_listener(self, port: int) -> None:
        """Remove a listener at `port`."""
        left = self.ports.get(port, 0) - 1
        if left > 0:
            self.ports[port] = left
        else:
            self.ports.pop(port, None)

    def add_connection(self, local: Any, chain: tuple[object, ...]) -> Endpoint:
        """Register the connection from `local` with the proxies that it has come through. Return the key for `remove_connection`."""
        key = _endpoint(local)
        self._chains[key] = chain
        return key

    def remove_connection(self, key: Endpoint) -> None:
        """Remove a closed connection."""
        self._chains.pop(key, None)

    def chain_of(self, client: Any) -> tuple[object, ...]:
        """Return the proxies of this process that a client's connection has come through. Other clients have none."""
        if not self._chains or not isinstance(client, tuple):
            return ()
        return self._chains.get(_endpoint(client), ())


def _endpoint(address: Any) -> Endpoint:
    """Return host and port. A listener for IPv4 and IPv6 shows an IPv4 client as `::ffff:127.0.0.1`."""
    return address[0].removeprefix("::ffff:"), address[1]
