"""Faults of a process that runs short of memory, descriptors or processor time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from ..errors import CannotInject, SetupError
from .fault import Fault, FaultTarget, Hold, Need, Strike, at_least, strike_hold

MIB = 2**20


class LimitControl(Protocol):
    """Control of the resources that processes may use, from outside of these processes."""

    def lower_data_limit(self, headroom_bytes: int) -> Hold | None:
        """Lower each process's data limit to its present use plus a headroom. Return None if the platform has no such limit."""

    def limit_memory(self, headroom_bytes: int) -> Hold:
        """Make the kernel kill a process when all of them together use more than the present use plus a headroom."""

    def limit_descriptors(self, left: int) -> Hold | None:
        """Allow each process `left` more descriptors. Return None if the platform has no such limit."""

    def contend_cpu(self, hogs: int) -> Hold | None:
        """Bind the processes to one processor with a number of busy processes. Return None if the platform can't."""


class HasLimits(FaultTarget, Protocol):
    """A target with resources that can be limited."""

    @property
    def limits(self) -> LimitControl: ...


class ResourceFault(Fault):
    """A fault that limits the resources of a process."""

    targets: ClassVar[tuple[str, ...]] = ("service",)
    unit: ClassVar[str] = "processes"

    def strike_needs(self) -> tuple[Need, ...]:
        return ("process",)

    def _strike_hold(self, target: HasLimits, hold: Hold | None, unsupported: str) -> Strike:
        if hold is None:
            raise CannotInject(f"{self.label(target)}: {unsupported}")
        return strike_hold(self, target, hold)


@dataclass(frozen=True)
class MemoryPressure(ResourceFault):
    """Lower the data limit (RLIMIT_DATA, Linux) of each process to its present use plus a headroom.

    Beyond the limit, allocations fail with MemoryError. A process that is created under the fault inherits the limit of its parent. The
    free memory of the host does not change.

    Args:
        headroom_mb: MiB that each process may still allocate; at least 0.
    """

    name: ClassVar[str] = "memory_pressure"
    headroom_mb: float

    def __post_init__(self) -> None:
        at_least("headroom_mb", self.headroom_mb, 0, "MiB")

    def strike(self, target: HasLimits) -> Strike:
        hold = target.limits.lower_data_limit(round(self.headroom_mb * MIB))
        return self._strike_hold(
            target, hold, "this platform has no data limit that can be set from outside (Linux has)"
        )


@dataclass(frozen=True)
class MemoryLimit(ResourceFault):
    """Put the processes into a control group with a memory limit. Beyond the limit, the kernel kills a process (SIGKILL).

    A container's limit works like this. Unlike under `memory_pressure`, no allocation fails, and a process is killed without a chance
    to react. A process that is created under the fault is in the group, too. The heal takes the processes out of the group and starts
    none again. Linux, where this user may create control groups.

    Args:
        headroom_mb: MiB that all processes together may still use; at least 1.
    """

    name: ClassVar[str] = "memory_limit"
    headroom_mb: float

    def strike_needs(self) -> tuple[Need, ...]:
        return ("process", "cgroup")

    def takes(self) -> Mapping[Need, str]:
        return {"cgroup": "the processes of {target} are in a control group already"}

    def __post_init__(self) -> None:
        at_least("headroom_mb", self.headroom_mb, 1, "MiB")

    def strike(self, target: HasLimits) -> Strike:
        return strike_hold(self, target, target.limits.limit_memory(round(self.headroom_mb * MIB)))


@dataclass(frozen=True)
class ExhaustDescriptors(ResourceFault):
    """Leave no file descriptors (EMFILE, Linux), so that opening a file or a connection fails, and accepting one too.

    What is open stays open. A process that is created under the fault inherits the limit of its parent.

    Args:
        left: how many descriptors each process may still open; at least 0.
    """

    name: ClassVar[str] = "exhaust_descriptors"
    left: int = 0

    def __post_init__(self) -> None:
        at_least("left", self.left, 0, "descriptors that are left", whole=True)

    def strike(self, target: HasLimits) -> Strike:
        hold = target.limits.limit_descriptors(self.left)
        return self._strike_hold(
            target, hold, "this platform has no limit of descriptors that can be set from outside (Linux has)"
        )


@dataclass(frozen=True)
class StarveCpu(ResourceFault):
    """Bind all processes to one processor that they share with busy processes, which end after 60 s (Linux).

    A process that is created under the fault is bound too. The other processors are not affected.

    Args:
        share: of that processor's time that one busy process of the target gets, roughly; 0.02 to 0.5.
    """

    name: ClassVar[str] = "starve_cpu"
    share: float = 0.1

    def __post_init__(self) -> None:
        if not 0.02 <= self.share <= 0.5:
            raise SetupError(f"share must be 0.02 to 0.5 of a processor, got {self.share!r}")

    def strike(self, target: HasLimits) -> Strike:
        hold = target.limits.contend_cpu(max(1, round(1 / self.share) - 1))
        return self._strike_hold(
            target, hold, "this platform binds no process to a processor from outside (Linux does)"
        )
