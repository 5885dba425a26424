"""Faults of memory: less of it than the processes were used to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from ..errors import CannotInject
from .fault import Fault, Hold, Strike, Target, at_least, held

MIB = 2**20


class Means(Protocol):
    """Processes whose memory can be limited while they run."""

    def lower_data_limit(self, headroom_bytes: int) -> Hold | None:
        """Set each process's limit to its present use plus a headroom; returns None where the platform has no such limit."""

    def enclose(self, headroom_bytes: int) -> Hold:
        """Have the kernel kill a process when all of them together take more than that."""


class MemoryTarget(Target, Protocol):
    """A target whose memory can be limited."""

    @property
    def means(self) -> Means: ...


@dataclass(frozen=True)
class MemoryPressure(Fault):
    """Lower the data limit (RLIMIT_DATA, Linux) of each of its processes to its present use plus a headroom.

    A process gets memory up to its limit; beyond the limit allocations fail with MemoryError. A process that is born meanwhile inherits its
    parent's limit. Nothing is taken from the host's free memory.

    Args:
        headroom_mb: MiB that each process may still grow by; at least 0.
    """

    name: ClassVar[str] = "memory_pressure"
    targets: ClassVar[tuple[str, ...]] = ("service",)
    headroom_mb: float

    def __post_init__(self) -> None:
        at_least("headroom_mb", self.headroom_mb, 0, "MiB")

    def strike(self, target: MemoryTarget) -> Strike:
        hold = target.means.lower_data_limit(round(self.headroom_mb * MIB))
        if hold is None:
            raise CannotInject(
                f"{self.label(target)}: this platform has no data limit that can be set from outside (Linux has)"
            )
        return held(self, target, hold)


@dataclass(frozen=True)
class MemoryLimit(Fault):
    """Put its processes into a control group that may take a little more memory; beyond that the kernel kills one (SIGKILL).

    A container's limit works like this. Unlike `memory_pressure` no allocation fails, and no process gets to say goodbye. A process
    that is born meanwhile is born in the group. The heal takes the processes out of the group and starts none again. Linux, where
    this user may make control groups.

    Args:
        headroom_mb: MiB that all its processes together may still take; at least 1.
    """

    name: ClassVar[str] = "memory_limit"
    targets: ClassVar[tuple[str, ...]] = ("service",)
    headroom_mb: float

    def __post_init__(self) -> None:
        at_least("headroom_mb", self.headroom_mb, 1, "MiB")

    def strike(self, target: MemoryTarget) -> Strike:
        return held(self, target, target.means.enclose(round(self.headroom_mb * MIB)))
