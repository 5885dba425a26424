"""Faults of a process that runs short of something other than memory: descriptors, processor time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from ..errors import CannotInject, SetupError
from .fault import Fault, Strike, Target, at_least, on_one_process


class Means(Protocol):
    """What a process may use, as far as it can be taken away from outside."""

    def limit_descriptors(self, left: int) -> Callable[[], None] | None:
        """Let it open so many descriptors more; returns what restores it, or None where the platform can't."""

    def crowd(self, rivals: int) -> Callable[[], None] | None:
        """Have it share one processor with so many busy rivals; returns what ends that, or None where the platform can't."""


class NeedyTarget(Target, Protocol):
    """A target that can be kept short."""

    @property
    def means(self) -> Means: ...


@dataclass(frozen=True)
class ExhaustDescriptors(Fault):
    """No file descriptors left (EMFILE): whatever opens a file, a connection or accepts one fails; what is open goes on. Linux.

    Args:
        left: how many it may still open.
    """

    name: ClassVar[str] = "exhaust_descriptors"
    targets: ClassVar[tuple[str, ...]] = ("service",)
    left: int = 0

    def __post_init__(self) -> None:
        at_least("left", self.left, 0, "descriptors that are left")

    def strike(self, target: NeedyTarget) -> Strike:
        restore = target.means.limit_descriptors(self.left)
        return _struck(
            self, target, restore, "this platform has no limit of descriptors that can be set from outside (Linux has)"
        )


@dataclass(frozen=True)
class StarveCpu(Fault):
    """Little processor time: the process is bound to one processor and shares it with busy rivals, which end by themselves after 60 s.

    The other processors are left alone.

    Args:
        share: of that one processor's time that the process gets, about; 0.02 to 0.5.
    """

    name: ClassVar[str] = "starve_cpu"
    targets: ClassVar[tuple[str, ...]] = ("service",)
    share: float = 0.1

    def __post_init__(self) -> None:
        if not 0.02 <= self.share <= 0.5:
            raise SetupError(f"share must be 0.02 to 0.5 of a processor, got {self.share!r}")

    def strike(self, target: NeedyTarget) -> Strike:
        restore = target.means.crowd(max(1, round(1 / self.share) - 1))
        return _struck(self, target, restore, "this platform binds no process to a processor from outside (Linux does)")


def _struck(fault: Fault, target: NeedyTarget, restore: Callable[[], None] | None, otherwise: str) -> Strike:
    if restore is None:
        raise CannotInject(f"{fault.label(target)}: {otherwise}")
    return on_one_process(fault, target, restore)
