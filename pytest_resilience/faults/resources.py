"""Faults of a process that runs short of something: memory, descriptors, processor time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from ..errors import CannotInject, SetupError
from .fault import Fault, FaultTarget, Hold, Strike, at_least, strike_hold

MIB = 2**20


class LimitControl(Protocol):
    """What processes may use, as far as it can be taken away from outside."""

    def lower_data_limit(self, headroom_bytes: int) -> Hold | None:
        """Set each process's limit to its present use plus a headroom; returns None where the platform has no such limit."""

    def limit_memory(self, headroom_bytes: int) -> Hold:
        """Have the kernel kill a process when all of them together take more than that."""

    def limit_descriptors(self, left: int) -> Hold | None:
        """Let each process open `left` descriptors more; returns None where the platform can't."""

    def contend_cpu(self, hogs: int) -> Hold | None:
        """Bind the processes to one processor with that many busy processes (hogs); returns None where the platform can't."""


class HasLimits(FaultTarget, Protocol):
    """A target that can be kept short."""

    @property
    def limits(self) -> LimitControl: ...


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

    def strike(self, target: HasLimits) -> Strike:
        hold = target.limits.lower_data_limit(round(self.headroom_mb * MIB))
        if hold is None:
            raise CannotInject(
                f"{self.label(target)}: this platform has no data limit that can be set from outside (Linux has)"
            )
        return strike_hold(self, target, hold)


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

    def strike(self, target: HasLimits) -> Strike:
        return strike_hold(self, target, target.limits.limit_memory(round(self.headroom_mb * MIB)))


@dataclass(frozen=True)
class ExhaustDescriptors(Fault):
    """No file descriptors left (EMFILE): whatever opens a file, a connection or accepts one fails; what is open goes on. Linux.

    A process that is born meanwhile inherits its parent's limit.

    Args:
        left: how many descriptors each process may still open.
    """

    name: ClassVar[str] = "exhaust_descriptors"
    targets: ClassVar[tuple[str, ...]] = ("service",)
    left: int = 0

    def __post_init__(self) -> None:
        at_least("left", self.left, 0, "descriptors that are left")

    def strike(self, target: HasLimits) -> Strike:
        hold = target.limits.limit_descriptors(self.left)
        return _strike_hold(
            self, target, hold, "this platform has no limit of descriptors that can be set from outside (Linux has)"
        )


@dataclass(frozen=True)
class StarveCpu(Fault):
    """Little processor time: its processes are bound to one processor and share it with busy rivals, which end after 60 s.

    A process that is born meanwhile is bound too. The other processors are left alone.

    Args:
        share: of that one processor's time that a busy process gets, about, while no other of the tree is busy; 0.02 to 0.5.
    """

    name: ClassVar[str] = "starve_cpu"
    targets: ClassVar[tuple[str, ...]] = ("service",)
    share: float = 0.1

    def __post_init__(self) -> None:
        if not 0.02 <= self.share <= 0.5:
            raise SetupError(f"share must be 0.02 to 0.5 of a processor, got {self.share!r}")

    def strike(self, target: HasLimits) -> Strike:
        hold = target.limits.contend_cpu(max(1, round(1 / self.share) - 1))
        return _strike_hold(
            self, target, hold, "this platform binds no process to a processor from outside (Linux does)"
        )


def _strike_hold(fault: Fault, target: HasLimits, hold: Hold | None, otherwise: str) -> Strike:
    if hold is None:
        raise CannotInject(f"{fault.label(target)}: {otherwise}")
    return strike_hold(fault, target, hold)
