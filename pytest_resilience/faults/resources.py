"""Faults of a process that runs short of something other than memory: descriptors, processor time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from ..errors import CannotInject, SetupError
from .fault import Fault, Hold, Strike, Target, at_least, held


class Means(Protocol):
    """What processes may use, as far as it can be taken away from outside."""

    def limit_descriptors(self, left: int) -> Hold | None:
        """Let each process open `left` descriptors more; returns None where the platform can't."""

    def crowd(self, rivals: int) -> Hold | None:
        """Bind the processes to one processor with that many busy rivals; returns None where the platform can't."""


class NeedyTarget(Target, Protocol):
    """A target that can be kept short."""

    @property
    def means(self) -> Means: ...


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

    def strike(self, target: NeedyTarget) -> Strike:
        hold = target.means.limit_descriptors(self.left)
        return _struck(
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

    def strike(self, target: NeedyTarget) -> Strike:
        hold = target.means.crowd(max(1, round(1 / self.share) - 1))
        return _struck(self, target, hold, "this platform binds no process to a processor from outside (Linux does)")


def _struck(fault: Fault, target: NeedyTarget, hold: Hold | None, otherwise: str) -> Strike:
    if hold is None:
        raise CannotInject(f"{fault.label(target)}: {otherwise}")
    return held(fault, target, hold)
