"""Faults that kill, stop, terminate or restart a process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Protocol, runtime_checkable

from ..errors import SetupError
from .fault import Fault, FaultTarget, Receipt, Strike


class ProcessControl(Protocol):
    """Control of the processes of a target.

    Attributes:
        can_start: True if `start` can start the processes again.
    """

    can_start: bool

    def processes(self) -> list[int]:
        """Return the ids of the live processes."""

    def kill(self) -> None:
        """Send SIGKILL to all of them. Return when they are gone."""

    def terminate(self) -> None:
        """Send SIGTERM, as an orchestrator does. Return when they are gone."""

    def pause(self) -> None:
        """Send SIGSTOP to all of them. Return when they are stopped."""

    def resume(self) -> None:
        """Send SIGCONT to all of them."""

    def start(self) -> None:
        """Start the target on the same port with the same data, and wait until it is ready. Do nothing if it runs."""


@runtime_checkable
class SnapshotControl(ProcessControl, Protocol):
    """Control of the processes of a target that can save its data."""

    def save(self) -> None:
        """Save all data to disk. The next start loads it."""

    def discard_snapshot(self) -> None:
        """Delete the saved data."""


class HasProcesses(FaultTarget, Protocol):
    """A target with processes that can be controlled."""

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
        """Return the function that injects the fault and the one that heals it."""
        raise AssertionError(f"{type(self).__name__} does not override _inject_and_heal")


class _EndingFault(ProcessFault):
    """A process fault that the start of the target heals."""

    def heals_on(self, target: HasProcesses) -> bool:
        return target.process_control.can_start


@dataclass(frozen=True)
class Kill(_EndingFault):
    """Kill all processes at once (SIGKILL). The heal starts the target again on the same port with the data that survived."""

    name: ClassVar[str] = "kill"

    def _inject_and_heal(self, processes: ProcessControl) -> tuple[Callable[[], None], Callable[[], None]]:
        return processes.kill, processes.start


@dataclass(frozen=True)
class Pause(ProcessFault):
    """Stop all processes (SIGSTOP), so that connections stay open and get no answer. The heal continues the processes."""

    name: ClassVar[str] = "pause"

    def _inject_and_heal(self, processes: ProcessControl) -> tuple[Callable[[], None], Callable[[], None]]:
        return processes.pause, processes.resume


@dataclass(frozen=True)
class Terminate(_EndingFault):
    """Shut down in order (SIGTERM) and wait for the end. The heal starts the target again."""

    name: ClassVar[str] = "terminate"
    targets: ClassVar[tuple[str, ...]] = ("service",)

    def _inject_and_heal(self, processes: ProcessControl) -> tuple[Callable[[], None], Callable[[], None]]:
        return processes.terminate, processes.start


@dataclass(frozen=True)
class Restart(_EndingFault):
    """Shut down in order and start again on the same port, before the call returns.

    Args:
        data: for Redis, "kept" (save before, load after) or "lost". None for the server's default: Postgres keeps committed data, the
            plugin's Redis loses all.
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
        def restart() -> None:
            processes.terminate()
            processes.start()

        if self.data is not None:
            assert isinstance(processes, SnapshotControl), "checked by strike"
            return partial(_restart_keeping if self.data == "kept" else _restart_losing, processes), processes.start
        return restart, processes.start


def _restart_keeping(processes: SnapshotControl) -> None:
    processes.save()
    processes.terminate()
    processes.start()
    processes.discard_snapshot()


def _restart_losing(processes: SnapshotControl) -> None:
    processes.terminate()
    processes.discard_snapshot()
    processes.start()
