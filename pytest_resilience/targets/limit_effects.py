"""The effect of a resource limit on a process tree.

The kernel does not count refused allocations or refused descriptors. So the receipt of such a fault has one of three values:
- hit: a process was seen at its limit, or its log reports a refused allocation or descriptor;
- 0: no process can have reached its limit, or all were idle;
- None: neither is certain.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from ..clock import SYSTEM, Clock
from ..faults.fault import Receipt
from . import procfs
from .lowered_rlimit import LoweredRlimit
from .process_tree import ProcessTree
from .tcp_traffic import TcpTraffic

if TYPE_CHECKING:
    import psutil

SAMPLE_INTERVAL = 0.01  # seconds
NEAR_SHARE = 0.1  # of the headroom; a process with less left counts as one that reached its limit
FAR_BYTES = (
    1 << 30
)  # a process with so much left at its peak has not reached its limit, except by one larger allocation
IDLE_CPU = 0.02  # seconds of CPU time that an idle service may use for its timers
IDLE_CPU_SHARE = 0.02  # the same for each further second
MIN_WAIT = 0.01  # seconds of waiting for a CPU from which a process counts as affected
UNIT = "processes"

Log = Callable[[], str]  # returns the output of the processes since the strike


class Sampler:
    """A thread that takes a sample every 10 ms, until it is stopped.

    Args:
        look: takes one sample.
    """

    def __init__(self, look: Callable[[], None]) -> None:
        self._sample = look
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="resilience-sampler", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(SAMPLE_INTERVAL):
            try:
                self._sample()
            except Exception:  # noqa: BLE001  # the sample before the heal raises the same error
                return

    def stop(self) -> None:
        """Stop the thread. Return when no sample is in progress."""
        self._over.set()
        self._thread.join()


class LimitDetector(Protocol):
    """Detects that a process has reached a limit."""

    log_pattern: re.Pattern[str]

    def begin(self, process: psutil.Process) -> None:
        """Record the state of a process when it was first seen under the limit."""

    def met(self, process: psutil.Process, limit: int) -> bool:
        """True if the process is at its limit now."""

    def is_far(self, process: psutil.Process, limit: int) -> bool:
        """True if the process can't have reached its limit so far."""


class LimitHold:
    """A lowered limit of a process tree, with its effect.

    Args:
        tree: the processes.
        lowered: the limit, in force from now on.
        detector: detects processes at the limit.
        log: returns the output of the processes since the strike; None if it can't be read.
        clock: the clock for the times of the receipt.
    """

    def __init__(
        self, tree: ProcessTree, lowered: LoweredRlimit, detector: LimitDetector, log: Log | None, clock: Clock = SYSTEM
    ) -> None:
        self._tree = tree
        self._lowered = lowered
        self._detector = detector
        self._log = log
        self._clock = clock
        self._started = clock.now()
        self._met: dict[psutil.Process, float] = {}  # the time at which each was first seen at its limit
        self._last = 0.0
        self._begun: set[psutil.Process] = set()
        self._may_have_met = False
        self._lock = threading.Lock()
        # Both begin before the limit, because a process that reaches the limit at once may run no more.
        self._activity = CpuActivity(tree.members(), clock)
        # A service gets its work over TCP. Other processes may get work over a pipe, or create it.
        self._traffic = TcpTraffic(tree) if log is not None else None
        try:
            lowered.lower()
        except BaseException:
            if self._traffic is not None:
                self._traffic.close()
            raise
        for process in lowered.processes:
            self._begin(process)
        self._sampler = Sampler(self._sample)

    def release(self) -> None:
        """Restore the limit of every process that has it."""
        self._sampler.stop()
        if self._traffic is not None:
            self._traffic.close()
        self._lowered.restore()

    def receipt(self) -> Receipt:
        """Return the number of processes that reached the limit."""
        self._sample()
        logged = self._log is not None and self._detector.log_pattern.search(self._log()) is not None
        if self._met:
            return Receipt(len(self._met), UNIT, min(self._met.values()), self._last)
        if logged:
            return Receipt(1, UNIT)  # at least one
        gone = any(not process.is_running() for process in self._lowered.processes)
        is_far = not (self._may_have_met or gone)
        return Receipt(0 if is_far or self._was_idle() else None, UNIT)

    def _was_idle(self) -> bool:
        """True if the processes have used no CPU time, or little of it and no request has arrived."""
        if self._activity.is_none():
            return True
        if self._traffic is None or not self._activity.is_idle(self._tree.members()):
            return False
        return self._traffic.none()

    def _sample(self) -> None:
        import psutil

        with self._lock:
            for process in self._tree.members():
                try:
                    limit = self._lowered.on(process)
                    if limit is None:
                        continue
                    self._begin(process)
                    if self._detector.met(process, limit):
                        self._last = self._clock.now() - self._started
                        self._met.setdefault(process, self._last)
                    elif not self._detector.is_far(process, limit):
                        self._may_have_met = True
                except psutil.NoSuchProcess:
                    self._may_have_met = True
                except (PermissionError, psutil.AccessDenied):  # the process has changed its user
                    self._may_have_met = True

    def _begin(self, process: psutil.Process) -> None:
        import psutil

        if process not in self._begun:
            self._begun.add(process)
            try:
                self._detector.begin(process)
            except (psutil.NoSuchProcess, PermissionError):
                self._may_have_met = True


class CpuActivity:
    """The CPU time that the processes of a tree have used since now.

    Args:
        processes: the present processes of the tree.
        clock: the clock for the elapsed time.
    """

    def __init__(self, processes: list[psutil.Process], clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._started = clock.now()
        self._ran = {process: _seconds(process) for process in processes}

    def is_none(self) -> bool:
        """True if each process still exists and none of its threads has run."""
        return all(ran is not None and _seconds(process) == ran for process, ran in self._ran.items())

    def is_idle(self, processes: list[psutil.Process]) -> bool:
        """True if the tree has the same processes, and they used no more CPU time than idle processes do."""
        if set(processes) != self._ran.keys():
            return False
        total = 0.0
        for process, before in self._ran.items():
            now = _seconds(process)
            if before is None or now is None:
                return False
            total += sum(seconds - before.get(thread, 0.0) for thread, seconds in now.items())
        return total <= IDLE_CPU + IDLE_CPU_SHARE * (self._clock.now() - self._started)


def _seconds(process: psutil.Process) -> dict[int, float] | None:
    """Return the CPU seconds of each thread, or None if the process has exited or the kernel does not count them."""
    import psutil

    try:
        waiting = procfs.waiting(process.pid) if process.is_running() else None
    except psutil.NoSuchProcess:
        return None
    return None if waiting is None else {thread: seconds.ran for thread, seconds in waiting.items()}


class DataLimitDetector:
    """Detects that the data segment of a process has reached RLIMIT_DATA.

    Args:
        headroom: the bytes by which a process may grow.
    """

    log_pattern = re.compile(
        r"(?<![A-Za-z])MemoryError|java\.lang\.OutOfMemoryError|cannot allocate memory|std::bad_alloc|failed to allocate memory"
        r"|out of memory|memory allocation of \d+ bytes failed|array buffer allocation failed|\bENOMEM\b",
        re.IGNORECASE,
    )

    def __init__(self, headroom: int) -> None:
        self._headroom = headroom

    def begin(self, process: psutil.Process) -> None:
        """Record nothing, because the limit alone is enough."""

    def met(self, process: psutil.Process, limit: int) -> bool:
        # Without a headroom every process is at its limit from the start, even if it allocates nothing.
        return self._headroom > 0 and procfs.memory(process.pid).data >= limit - NEAR_SHARE * self._headroom

    def is_far(self, process: psutil.Process, limit: int) -> bool:
        return procfs.memory(process.pid).peak <= limit - FAR_BYTES


class DescriptorLimitDetector:
    """Detects that a process has no free descriptor left (RLIMIT_NOFILE)."""

    log_pattern = re.compile(r"too many open files|\bEMFILE\b|\bErrno 24\b", re.IGNORECASE)

    def __init__(self) -> None:
        self._first: dict[psutil.Process, set[int]] = {}
        self._waiting: set[psutil.Process] = set()

    def begin(self, process: psutil.Process) -> None:
        self._first[process] = procfs.open_descriptors(process.pid)

    def met(self, process: psutil.Process, limit: int) -> bool:
        import psutil

        taken = procfs.open_descriptors(process.pid)
        if procfs.rlimit_for(taken, 0) < limit:
            self._waiting.discard(process)
            return False
        if taken != self._first.get(process):  # the table is full, because of descriptors opened during the fault
            return True
        # The table may have been full from the start. Then only a connection that is not accepted proves a refused descriptor.
        if process.status() == psutil.STATUS_STOPPED or not procfs.has_unaccepted(process.pid):
            self._waiting.discard(process)
            return False
        waited = process in self._waiting
        self._waiting.add(process)
        return waited

    def is_far(self, process: psutil.Process, limit: int) -> bool:
        return procfs.table_size(process.pid) < limit
