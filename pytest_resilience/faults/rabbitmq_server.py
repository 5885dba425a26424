"""Faults inside RabbitMQ: its alarms, and a queue that takes no more messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from ..errors import SetupError
from .fault import Fault, FaultTarget, Hold, Need, Strike, strike_hold

Alarm = Literal["memory", "disk"]


class RabbitmqControl(Protocol):
    """The administrator of a RabbitMQ."""

    def raise_alarm(self, alarm: Alarm) -> Hold:
        """Raise an alarm, which blocks the connections that publish."""

    def fill_queue(self, queue: str, vhost: str, fault: str) -> Hold:
        """Let a queue refuse all messages that are published."""


class HasRabbitmq(FaultTarget, Protocol):
    """A RabbitMQ with an administrator."""

    @property
    def admin(self) -> RabbitmqControl: ...


class RabbitmqFault(Fault):
    """A fault inside a RabbitMQ."""

    targets: ClassVar[tuple[str, ...]] = ("rabbitmq",)

    def strike_needs(self) -> tuple[Need, ...]:
        return ("process", "answers")

    def heal_needs(self) -> tuple[Need, ...]:
        return ("process", "answers")


@dataclass(frozen=True)
class MemoryAlarm(RabbitmqFault):
    """Raise the alarm of memory: RabbitMQ reads no more from each connection that publishes, and sends it `connection.blocked`.

    Connections that only consume go on.
    """

    name: ClassVar[str] = "memory_alarm"
    unit: ClassVar[str] = "connections"

    def strike(self, target: HasRabbitmq) -> Strike:
        return strike_hold(self, target, target.admin.raise_alarm("memory"))


@dataclass(frozen=True)
class DiskAlarm(RabbitmqFault):
    """Raise the alarm of the free disk space, which has the effect of `memory_alarm`."""

    name: ClassVar[str] = "disk_alarm"
    unit: ClassVar[str] = "connections"

    def strike(self, target: HasRabbitmq) -> Strike:
        return strike_hold(self, target, target.admin.raise_alarm("disk"))


@dataclass(frozen=True)
class QueueFull(RabbitmqFault):
    """Let a queue refuse all messages, as one does that is full (`max-length`, `overflow: reject-publish`).

    A publisher with confirms gets `basic.nack`. For other publishers the messages are lost. Messages in the queue stay.

    Args:
        queue: the name of the queue, which must exist.
        vhost: its virtual host.
    """

    name: ClassVar[str] = "queue_full"
    unit: ClassVar[str] = "messages"
    queue: str
    vhost: str = "/"

    def __post_init__(self) -> None:
        if not self.queue:
            raise SetupError("queue must be the name of a queue, got ''")

    def strike(self, target: HasRabbitmq) -> Strike:
        return strike_hold(self, target, target.admin.fill_queue(self.queue, self.vhost, self.label(target)))
