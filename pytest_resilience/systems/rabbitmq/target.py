"""The target RabbitMQ."""

from __future__ import annotations

from collections.abc import Mapping

from ...backends.backend import SystemProgram
from ...faults.close_connections import CloseConnections
from ...faults.rabbitmq_server import DiskAlarm, MemoryAlarm, QueueFull
from ...targets.fault_method import fault_method
from ...targets.target import StrikeRegistry
from ...targets.tcp import TcpSystem
from ..system import ReadySystem, SystemTarget
from .admin import RabbitmqAdmin
from .program import USER, VHOST, RabbitmqProgram


class RabbitmqTarget(SystemTarget[RabbitmqAdmin]):
    """RabbitMQ behind its proxy.

    Attributes:
        kind: "rabbitmq".
        user, password, vhost: for clients that take no URL.
    """

    kind = "rabbitmq"
    user = USER
    vhost = VHOST

    @property
    def password(self) -> str:
        """The password of the user."""
        return self._admin.program.password

    memory_alarm = fault_method(MemoryAlarm)
    disk_alarm = fault_method(DiskAlarm)
    close_connections = fault_method(CloseConnections)
    queue_full = fault_method(QueueFull)


class RabbitmqSystem(ReadySystem):
    """A RabbitMQ.

    Args:
        image: its image.
    """

    kind = "rabbitmq"
    admin: RabbitmqAdmin

    def __init__(self, image: str) -> None:
        self._program = RabbitmqProgram(image)

    def program(self) -> SystemProgram:
        return self._program

    def begin(self) -> None:
        self.admin = RabbitmqAdmin(self.server, self._program)
        self.admin.take_baseline()

    def target(
        self, name: str, registry: StrikeRegistry, system: TcpSystem, cannot: Mapping[str, str]
    ) -> RabbitmqTarget:
        return RabbitmqTarget(name, registry, system, server=self.server, admin=self.admin, cannot=cannot)
