"""Any process of the user's own that he names by its id: a worker, a sidecar, something that a test has started."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..backends.backend import Backend
from ..clock import wait_until
from ..errors import SetupError
from ..faults.process import Kill, Pause, ProcessControl, Terminate
from .fault_method import fault_method
from .process_limits import ProcessLimits
from .process_tree import ForeignProcessTree
from .target import ResourceFaults, StrikeRegistry

if TYPE_CHECKING:
    import psutil

EXIT_TIMEOUT = 10.0  # seconds from a signal to the end of the process


class ForeignProcessControl:
    """A process that we did not start, so that we can't start it again, and all that descends from it."""

    can_start = False

    def __init__(self, process: psutil.Process) -> None:
        self._tree = ForeignProcessTree(process)
        self._paused: list[psutil.Process] = []

    def processes(self) -> list[int]:
        return [process.pid for process in self._tree.members()]

    def kill(self) -> None:
        frozen = self._stop_tree()
        for process in frozen:
            _signal(process, signal.SIGKILL)
        _wait_until_gone(frozen)

    def terminate(self) -> None:
        """SIGTERM to the first process, as an orchestrator would; what is left of the tree when that has ended is killed."""
        descendants = self._tree.members()
        _signal(self._tree.root, signal.SIGTERM)
        _wait_until_gone([self._tree.root])
        left = [process for process in {*descendants, *self._stop_tree()} if process.is_running()]
        for process in left:
            _signal(process, signal.SIGKILL)
        _wait_until_gone(left)

    def pause(self) -> None:
        self._paused = self._stop_tree()

    def resume(self) -> None:
        for process in reversed(self._paused):
            _signal(process, signal.SIGCONT)

    def start(self) -> None:
        """Nothing: whoever started it knows how."""

    def _stop_tree(self) -> list[psutil.Process]:
        """Stop the tree until it has stopped growing."""
        import psutil

        stopped: list[psutil.Process] = []

        def stop(process: psutil.Process) -> bool:
            if process in stopped:
                return process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
            _signal(process, signal.SIGSTOP)
            stopped.append(process)
            return True

        self._tree.each(stop)
        return stopped


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    import psutil

    try:
        # psutil knows a process by its start too: a stranger with the same id is left alone.
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _is_alive(process: psutil.Process) -> bool:
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # between the two questions
        return False


def _wait_until_gone(processes: Iterable[psutil.Process]) -> None:
    """Wait for the end, and leave it to their parents to ask for the exit codes."""
    left = list(processes)

    def all_gone() -> bool:
        left[:] = filter(_is_alive, left)
        return not left

    if not wait_until(all_gone, within=EXIT_TIMEOUT, every=0.002):
        raise SetupError(f"process {left[0].pid} is still there {EXIT_TIMEOUT:g} s after the signal")


class ForeignProcess(ResourceFaults):
    """A process that the user names by its id, and all that descends from it.

    Args:
        ledger: where its strikes are written.
        pid: its id.
        backend: runs what has to run beside it.

    Raises:
        SetupError: there is no such process, or it is this one or one that this one hangs on.
    """

    def __init__(self, ledger: StrikeRegistry, pid: int, backend: Backend) -> None:
        import psutil

        super().__init__("process", ledger)
        if type(pid) is not int or not psutil.pid_exists(pid):
            raise SetupError(f"process({pid!r}): there is no such process")
        above = {parent.pid for parent in psutil.Process().parents()}
        if pid in above | {os.getpid(), 0, 1}:
            raise SetupError(f"process({pid}): the test itself hangs on that process")
        self._process = psutil.Process(pid)
        self._backend = backend

    @property
    def process(self) -> psutil.Process:
        """The process."""
        return self._process

    @property
    def process_control(self) -> ProcessControl:
        return ForeignProcessControl(self._process)

    @property
    def limits(self) -> ProcessLimits:
        return ProcessLimits(ForeignProcessTree(self._process), self._backend)

    kill = fault_method(Kill)
    terminate = fault_method(Terminate)
    pause = fault_method(Pause)

    def __repr__(self) -> str:
        return f"<NamedProcess {self._process.pid}>"
