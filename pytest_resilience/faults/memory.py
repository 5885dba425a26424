"""Faults of memory: less of it than the process was used to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from ..errors import CannotInject
from .fault import Fault, Strike, Target, at_least, on_one_process

MIB = 2**20


class Means(Protocol):
    """A process whose data limit can be moved while it runs."""

    def lower_data_limit(self, headroom_bytes: int) -> Callable[[], None] | None:
        """Set the limit to present use plus headroom; returns what restores it, or None where the platform has no such limit."""

    def enclose(self, headroom_bytes: int) -> Callable[[], None]:
        """Have the kernel kill the process when it takes more than that; returns what takes it back."""


class MemoryTarget(Target, Protocol):
    """A target whose memory can be squeezed."""

    @property
    def means(self) -> Means: ...


@dataclass(frozen=True)
class MemoryPressure(Fault):
    """Lower the process's data limit (RLIMIT_DATA, Linux) to its present use plus a headroom.

    The process can still be given memory up to the limit; past it allocations fail with MemoryError. Nothing is taken from
    the host's free memory.

    Args:
        headroom_mb: MiB that it may still grow by; at least 0.
    """

    name: ClassVar[str] = "memory_pressure"
    targets: ClassVar[tuple[str, ...]] = ("service",)
    headroom_mb: float = 0.0

    def __post_init__(self) -> None:
        at_least("headroom_mb", self.headroom_mb, 0, "MiB")

    def strike(self, target: MemoryTarget) -> Strike:
        restore = target.means.lower_data_limit(round(self.headroom_mb * MIB))
        if restore is None:
            raise CannotInject(
                f"{self.label(target)}: this platform has no data limit that can be set from outside (Linux has)"
            )
        return on_one_process(self, target, restore)


@dataclass(frozen=True)
class MemoryLimit(Fault):
    """Put the process into a control group that lets it take a little more memory, and beyond that the kernel kills it (SIGKILL).

    What a container's limit does; unlike `memory_pressure` no allocation fails, and nobody gets to say goodbye. The heal takes the process
    out of the group and does not start it again. Linux, where this user may make control groups.

    Args:
        headroom_mb: MiB that it may still take; at least 1.
    """

    name: ClassVar[str] = "memory_limit"
    targets: ClassVar[tuple[str, ...]] = ("service",)
    headroom_mb: float = 1.0

    def __post_init__(self) -> None:
        at_least("headroom_mb", self.headroom_mb, 1, "MiB")

    def strike(self, target: MemoryTarget) -> Strike:
        return on_one_process(self, target, target.means.enclose(round(self.headroom_mb * MIB)))
