"""Any process of the user's own that he names by its id: a worker, a sidecar, something that a test has started."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from ..backends.backend import Backend
from ..clock import SYSTEM
from ..errors import SetupError
from ..faults.fault import Strike
from ..faults.process import Body, Kill, Pause, Terminate
from .means import Means
from .target import Ledger, NeedyFaults

if TYPE_CHECKING:
    import psutil

GONE_WITHIN = 10.0  # seconds from a signal to the end of the process


class NamedBody:
    """A process that we did not start, so that we can't start it again."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process

    def processes(self) -> list[int]:
        return [self._process.pid] if self._lives() else []

    def kill(self) -> None:
        self._send(signal.SIGKILL)
        self._gone()

    def terminate(self) -> None:
        self._send(signal.SIGTERM)
        self._gone()

    def pause(self) -> None:
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        self._send(signal.SIGCONT)

    def start(self) -> None:
        """Nothing: whoever started it knows how."""

    def _send(self, number: signal.Signals) -> None:
        if self._lives():  # psutil knows a process by its start too, so nobody gets the signal who has its number now
            self._process.send_signal(number)

    def _lives(self) -> bool:
        import psutil

        try:
            return self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:  # between the two questions
            return False

    def _gone(self) -> None:
        """Wait for the end, and leave it to its parent to ask for the exit code."""
        give_up = SYSTEM.now() + GONE_WITHIN
        while self._lives():
            if SYSTEM.now() > give_up:
                raise SetupError(f"process {self._process.pid} is still there {GONE_WITHIN:g} s after the signal")
            SYSTEM.sleep(0.002)


class NamedProcess(NeedyFaults):
    """A process that the user names by its id.

    Args:
        ledger: where its strikes are written.
        pid: its id.
        backend: runs what has to run beside it.

    Raises:
        SetupError: there is no such process, or it is this one or one that this one hangs on.
    """

    def __init__(self, ledger: Ledger, pid: int, backend: Backend) -> None:
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
    def body(self) -> Body:
        return NamedBody(self._process)

    @property
    def means(self) -> Means:
        return Means(self._process, self._backend)

    def kill(self) -> Strike:
        """SIGKILL; there is no heal for that: whoever started it has to start it again."""
        return Kill().strike(self)

    def terminate(self) -> Strike:
        """SIGTERM, and wait for the end; there is no heal for that either."""
        return Terminate().strike(self)

    def pause(self) -> Strike:
        """SIGSTOP; the heal lets it run on."""
        return Pause().strike(self)

    def __repr__(self) -> str:
        return f"<NamedProcess {self._process.pid}>"
