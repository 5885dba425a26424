"""A target for any process that a test names by its id, such as a worker or a sidecar."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..backends.backend import Backend
from ..clock import wait_until
from ..errors import ProcessEnded, SetupError
from ..faults.process import Kill, Pause, ProcessControl, Terminate
from .fault_method import fault_method
from .process_limits import ProcessLimits
from .process_tree import ForeignProcessTree
from .target import ResourceFaults, StrikeRegistry

if TYPE_CHECKING:
    import psutil

ENDED = "Strike before the end of the process. Its successor has another id: resilience.process(pid) takes the new one."
EXIT_TIMEOUT = 10.0  # seconds from a signal to the end of the process


class ForeignProcessControl:
    """Process control of a process tree that this session did not start and so can't restart."""

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
        """Send SIGTERM to the root process, as an orchestrator does. After its exit, kill the rest of the tree."""
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
        """Do nothing, because only the owner of the process can start it again."""

    def _stop_tree(self) -> list[psutil.Process]:
        """Send SIGSTOP until the tree has stopped growing."""
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
        # psutil compares the start time too, so another process with a reused id gets no signal.
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _is_alive(process: psutil.Process) -> bool:
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it exited between the two calls
        return False


def _wait_until_gone(processes: Iterable[psutil.Process]) -> None:
    """Wait until processes have exited. Their parents reap them."""
    left = list(processes)

    def all_gone() -> bool:
        left[:] = filter(_is_alive, left)
        return not left

    if not wait_until(all_gone, within=EXIT_TIMEOUT, every=0.002):
        raise SetupError(f"process {left[0].pid} still runs {EXIT_TIMEOUT:g} s after the signal")


def _process(pid: int) -> tuple[psutil.Process, str]:
    """Return a process that runs, and its name.

    Raises:
        SetupError: there is none with this id.
    """
    import psutil

    if type(pid) is not int or pid < 1:
        raise SetupError(f"process({pid!r}): the id of a process is an integer of at least 1")
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        name = process.name()
        if _is_alive(process):
            return process, name
    raise SetupError(f"process({pid!r}): there is no such process")


class ForeignProcess(ResourceFaults):
    """A process that a test names by its id, with all its descendants.

    Args:
        ledger: the registry of strikes.
        pid: the process id.
        backend: runs CPU hogs and creates cgroups.

    Raises:
        SetupError: there is no such process, or it is the test process, one of its ancestors, or init.
    """

    def __init__(self, ledger: StrikeRegistry, pid: int, backend: Backend) -> None:
        import psutil

        super().__init__("process", ledger)
        process, name = _process(pid)
        above = {parent.pid for parent in psutil.Process().parents()}
        if pid in above | {os.getpid(), 0, 1}:
            raise SetupError(f"cannot strike process {pid}: it is the test process, one of its ancestors, or init")
        self._process = process
        self._title = f"the process {name!r}"
        self._backend = backend

    @property
    def process(self) -> psutil.Process:
        """The process as a `psutil.Process`."""
        return self._process

    def ended(self) -> ProcessEnded | None:
        """Return the error for a strike on the process after its end, or None while the process runs."""
        return None if _is_alive(self._process) else ProcessEnded(self._title, self._process.pid, remedy=ENDED)

    @property
    def system(self) -> object:
        return self._process  # psutil compares the start time too

    @property
    def process_control(self) -> ProcessControl:
        return ForeignProcessControl(self._process)

    @property
    def limits(self) -> ProcessLimits:
        """The resource limits of the processes.

        Raises:
            ProcessEnded: the process has ended.
        """
        if (ended := self.ended()) is not None:
            raise ended
        return ProcessLimits(ForeignProcessTree(self._process), self._backend)

    kill = fault_method(Kill)
    terminate = fault_method(Terminate)
    pause = fault_method(Pause)

    def __repr__(self) -> str:
        return f"<ForeignProcess {self._process.pid}>"
