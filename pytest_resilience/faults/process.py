"""Faults that kill, stop, terminate or restart a process."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from ..errors import SetupError
from .fault import Fault, FaultTarget, Need, Receipt, Strike

NOT_RUNNING = "{target} is not running"


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

    targets: ClassVar[tuple[str, ...]] = ("postgres", "redis", "service", "mysql", "rabbitmq")
    unit: ClassVar[str] = "processes"

    def strike_needs(self) -> tuple[Need, ...]:
        return ("process",)

    def strike(self, target: HasProcesses) -> Strike:
        processes = target.process_control
        pids = processes.processes()
        if not pids:
            raise self.cannot_strike(target, "process", f"{target.name} is not running")
        receipt = Receipt(len(pids), self.unit, first=0.0, last=0.0)
        try:
            self._inject(processes)
        except BaseException:
            self._undo(processes)
            raise
        return target.register(
            Strike(
                self.label(target),
                self,
                heal=lambda: self._heal(target, processes),
                read_receipt=lambda: receipt,
                in_force=lambda: self._is_in_force(processes, pids),
            )
        )

    @abstractmethod
    def _inject(self, processes: ProcessControl) -> None:
        """Inject the fault."""

    @abstractmethod
    def _undo(self, processes: ProcessControl) -> None:
        """Undo the fault, or the half of it that was injected."""

    @abstractmethod
    def _is_in_force(self, processes: ProcessControl, struck: Sequence[int]) -> bool:
        """True if the fault still has its effect on the processes that it struck."""

    def _heal(self, target: HasProcesses, processes: ProcessControl) -> None:
        self._undo(processes)


class _EndingFault(ProcessFault):
    """A process fault that the start of the target heals."""

    def heals_on(self, target: HasProcesses) -> bool:
        return target.process_control.can_start

    def takes(self) -> Mapping[Need, str]:
        return {"process": NOT_RUNNING, "clients": NOT_RUNNING}

    def _undo(self, processes: ProcessControl) -> None:
        processes.start()

    def _is_in_force(self, processes: ProcessControl, struck: Sequence[int]) -> bool:
        return not processes.processes()


@dataclass(frozen=True)
class Kill(_EndingFault):
    """Kill all processes at once (SIGKILL). The heal starts the target again on the same port with the data that survived."""

    name: ClassVar[str] = "kill"

    def _inject(self, processes: ProcessControl) -> None:
        processes.kill()


@dataclass(frozen=True)
class Pause(ProcessFault):
    """Stop all processes (SIGSTOP), so that connections stay open and get no answer. The heal continues the processes."""

    name: ClassVar[str] = "pause"

    def takes(self) -> Mapping[Need, str]:
        return {"answers": "the processes of {target} are stopped", "session": "the processes of {target} are stopped"}

    def _inject(self, processes: ProcessControl) -> None:
        processes.pause()

    def _undo(self, processes: ProcessControl) -> None:
        processes.resume()

    def _is_in_force(self, processes: ProcessControl, struck: Sequence[int]) -> bool:
        return not set(struck).isdisjoint(processes.processes())

    def _heal(self, target: HasProcesses, processes: ProcessControl) -> None:
        pauses = [each for each in target.active_strikes() if isinstance(each.fault, Pause) and each.in_force]
        if len(pauses) <= 1:  # another pause goes on
            processes.resume()


@dataclass(frozen=True)
class Terminate(_EndingFault):
    """Shut down in order (SIGTERM) and wait for the end. The heal starts the target again."""

    name: ClassVar[str] = "terminate"
    targets: ClassVar[tuple[str, ...]] = ("service",)

    def _inject(self, processes: ProcessControl) -> None:
        processes.terminate()


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

    def strike_needs(self) -> tuple[Need, ...]:
        return ("process", "answers") if self.data == "kept" else ("process",)

    def takes(self) -> Mapping[Need, str]:
        return {}

    def _inject(self, processes: ProcessControl) -> None:
        if self.data is None:
            processes.terminate()
            processes.start()
            return
        assert isinstance(processes, SnapshotControl), "checked by strike"
        if self.data == "kept":
            _restart_keeping(processes)
        else:
            _restart_losing(processes)

    def _heal(self, target: HasProcesses, processes: ProcessControl) -> None:
        """Do nothing, because the target runs again since the strike. A later strike may have killed it."""


def _restart_keeping(processes: SnapshotControl) -> None:
    processes.save()
    processes.terminate()
    processes.start()
    processes.discard_snapshot()


def _restart_losing(processes: SnapshotControl) -> None:
    processes.terminate()
    processes.discard_snapshot()
    processes.start()
