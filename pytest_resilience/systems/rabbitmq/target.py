"""The target RabbitMQ."""

from __future__ import annotations

from ...faults.close_connections import CloseConnections
from ...faults.rabbitmq_server import DiskAlarm, MemoryAlarm, QueueFull
from ...targets.fault_method import fault_method
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

    memory_alarm = fault_method(MemoryAlarm)
    disk_alarm = fault_method(DiskAlarm)
    close_connections = fault_method(CloseConnections)
    queue_full = fault_method(QueueFull)


class RabbitmqSystem(ReadySystem[RabbitmqProgram]):
    """A RabbitMQ.

    Args:
        image: its image.
    """

    target_type = RabbitmqTarget

    def __init__(self, image: str) -> None:
        super().__init__(RabbitmqProgram(image))

    def create_admin(self) -> RabbitmqAdmin:
        return RabbitmqAdmin(self.server, self.program)
