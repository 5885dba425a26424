"""One direction of a proxy in which everything is held, and from which single messages are let through."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import CannotInject
from ..proxy_client.client import ToxiproxyError
from ..proxy_client.counters import ConnectionState
from ..proxy_client.handle import ProxyHandle


class Traffic(NamedTuple):
    """The traffic of a proxy at one moment, as seen from a held direction.

    Args:
        held: bytes that are held in this direction.
        holding: connections on which they are held and which have had bytes in the other direction since the hold began. So an
            answer to a request from before the hold does not count.
        other: bytes received so far in the other direction, over all connections.
    """

    held: int
    holding: int
    other: int


def open_connections(proxy: ProxyHandle, label: str) -> list[ConnectionState]:
    """Return the open connections of a proxy.

    Raises:
        CannotInject: the proxy is a real Toxiproxy. The message begins with the label.
    """
    try:
        return proxy.connections()
    except ToxiproxyError as error:
        raise CannotInject(f"{label}: the real Toxiproxy does not report what it holds on each connection") from error


class HeldStream:
    """One direction of all connections of a proxy, held from now on until `release`.

    Args:
        proxy: the proxy.
        upward: True for the clients' messages, False for the server's answers.
        label: the name of the fault, for errors and the name of the toxic.

    Raises:
        CannotInject: the proxy is a real Toxiproxy.
    """

    def __init__(self, proxy: ProxyHandle, *, upward: bool, label: str) -> None:
        self._proxy = proxy
        self._upward = upward
        self._received = dict(self._counts(open_connections(proxy, label)))
        self._at_begin = dict(self._received)
        self._number, self._other = (
            0,
            -1,
        )  # of the last message, and what the other side had sent when the message was counted
        stream = "upstream" if upward else "downstream"
        # A bandwidth of 0 holds, as in the fault blackhole.
        self._toxic: str | None = proxy.add_toxic("bandwidth", stream=stream, attributes={"rate": 0}, label="held")

    def traffic(self) -> Traffic:
        """Return the present traffic. That of closed connections counts too."""
        connections = self._proxy.connections()
        self._received.update(self._counts(connections))
        held = {each.number: each.held_up if self._upward else each.held_down for each in connections}
        begun = [n for n, size in held.items() if size and self._received[n] > self._at_begin.get(n, 0)]
        return Traffic(sum(held.values()), len(begun), sum(self._received.values()))

    def number_of(self, traffic: Traffic) -> int:
        """Return the number of the message that is held now, from 1. Call this for each one before it is let through.

        Data is a further part of the last message as long as the other side has not sent anything behind the message.
        """
        if traffic.other > self._other:
            self._number += 1
        self._other = traffic.other
        return self._number

    def let_through(self) -> None:
        """Let the oldest chunk of each connection pass."""
        assert self._toxic is not None, "the stream is held"
        self._proxy.release_chunk(self._toxic)

    def release(self) -> None:
        """Let everything pass from now on. A second call does nothing."""
        toxic, self._toxic = self._toxic, None
        if toxic is not None:
            self._proxy.remove_toxic(toxic)

    def _counts(self, connections: list[ConnectionState]) -> list[tuple[int, int]]:
        """Return the bytes received in the other direction, by the number of the connection."""
        return [(each.number, each.down if self._upward else each.up) for each in connections]
