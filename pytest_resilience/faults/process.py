"""Faults of a process: killed, frozen, ended, started anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from ..errors import SetupError
from .fault import Fault, FaultTarget, Receipt, Strike


class ProcessControl(Protocol):
    """The processes of a target, and what can be done to them."""

    def processes(self) -> list[int]:
        """Process ids that live now."""

    def kill(self) -> None:
        """SIGKILL to all of them; returns when they are gone."""

    def terminate(self) -> None:
        """SIGTERM, as an orchestrator would; returns when they are gone."""

    def pause(self) -> None:
        """SIGSTOP to all of them; returns when they stand still."""

    def resume(self) -> None:
        """SIGCONT to all of them."""

    def start(self) -> None:
        """Start again on the same port with the same data, and wait until it answers; nothing when it runs."""


@runtime_checkable
class SnapshotControl(ProcessControl, Protocol):
    """One that can write its data down."""

    def save(self) -> None:
        """Write all data to disk, where the next start finds it."""

    def discard_snapshot(self) -> None:
        """Remove what was written."""


class HasProcesses(FaultTarget, Protocol):
    """A target that is a process of ours."""

    @property
    def process_control(self) -> ProcessControl: ...


class ProcessFault(Fault):
    """A fault that strikes all processes of a target at once."""

    targets: ClassVar[tuple[str, ...]] = ("postgres", "redis", "service")

    def strike(self, target: HasProcesses) -> Strike:
        pids = target.process_control.processes()
        if not pids:
            raise SetupError(f"{self.label(target)} cannot strike: {target.name} is not running")
        inject, heal = self._inject_and_heal(target.process_control)
        receipt = Receipt(len(pids), "processes", first=0.0, last=0.0)
        try:
            inject()
        except BaseException:
            heal()
            raise
        return target.register(Strike(self.label(target), self, heal=heal, read_receipt=lambda: receipt))

    def _inject_and_heal(self, processes: ProcessControl) -> tuple[Callable[[], None], Callable[[], None]]:
        raise AssertionError(f"{type(self).__name__} says neither how it hurts nor how it heals")


@dataclass(frozen=True)
class Kill(ProcessFault):
    """SIGKILL: gone at once, connections with it; the heal starts it again on the same port with the data that survived."""

    name: ClassVar[str] = "kill"

    def _inject_and_heal(self, processes: ProcessControl) -> tuple[Callable[[], None], Callable[[], None]]:
        return processes.kill, processes.start


@dataclass(frozen=True)
class Pause(ProcessFault):
    """SIGSTOP: connections stay open and nothing answers; the heal lets it run on."""

    name: ClassVar[str] = "pause"

    def _inject_and_heal(self, processes: ProcessControl) -> tuple[Callable[[], None], Callable[[], None]]:
        return processes.pause, processes.resume


@dataclass(frozen=True)
class Terminate(ProcessFault):
    """SIGTERM and wait for the end: an orderly stop; the heal starts it again."""

    name: ClassVar[str] = "terminate"
    targets: ClassVar[tuple[str, ...]] = ("service",)

    def _inject_and_heal(self, processes: ProcessControl) -> tuple[Callable[[], None], Callable[[], None]]:
        return processes.terminate, processes.start


@dataclass(frozen=True)
class Restart(ProcessFault):
    """End it in good order and start it again on the same port, before the call returns.

    Args:
        data: of a Redis: "kept" (it saves before and loads after) or "lost"; None for what the server does by itself: Postgres keeps
            what was committed, our Redis loses all.
    """

    name: ClassVar[str] = "restart"
    data: str | None = None

    def __post_init__(self) -> None:
        if self.data not in (None, "kept", "lost"):
            raise SetupError(f"data must be 'kept' or 'lost', got {self.data!r}")

    def strike(self, target: HasProcesses) -> Strike:
        if self.data is not None and not isinstance(target.process_control, SnapshotControl):
            raise SetupError(f"{self.label(target)}: data= is for Redis")
        return super().strike(target)

    def _inject_and_heal(self, processes: ProcessControl) -> tuple[Callable[[], None], Callable[[], None]]:
        def again() -> None:
            if self.data == "kept":
                assert isinstance(processes, SnapshotControl)
                processes.save()
            processes.terminate()
            if self.data == "lost":
                assert isinstance(processes, SnapshotControl)
                processes.discard_snapshot()
            processes.start()
            if self.data == "kept":
                assert isinstance(processes, SnapshotControl)
                processes.discard_snapshot()

        return again, processes.start
