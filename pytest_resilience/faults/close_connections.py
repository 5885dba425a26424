"""A fault by which a server closes the connections of all clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from .fault import Fault, FaultTarget, Need, Strike, strike_at_once


class ConnectionsControl(Protocol):
    """An administrator of a server."""

    def close_connections(self) -> int:
        """Close the connections of all clients. Return their number."""


class HasConnections(FaultTarget, Protocol):
    """A server that can close the connections of its clients."""

    @property
    def admin(self) -> ConnectionsControl: ...

    def settle_connections(self) -> None:
        """Wait until the connections are closed that clients have closed before."""


@dataclass(frozen=True)
class CloseConnections(Fault):
    """Let the server close the connections of all clients, as an administrator does.

    MySQL kills their sessions, and RabbitMQ sends 320 CONNECTION_FORCED. The server stays up, so there is nothing to heal.
    """

    name: ClassVar[str] = "close_connections"
    targets: ClassVar[tuple[str, ...]] = ("mysql", "rabbitmq")
    unit: ClassVar[str] = "connections"
    heals: ClassVar[bool] = False

    def strike_needs(self) -> tuple[Need, ...]:
        return ("process", "answers")

    def strike(self, target: HasConnections) -> Strike:
        target.settle_connections()
        return strike_at_once(self, target, target.admin.close_connections())
