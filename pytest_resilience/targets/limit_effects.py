"""What a lack of resources has done to a tree of processes, as far as the kernel or the processes themselves say.

The kernel does not count refused allocations or refused descriptors. So a receipt of such a fault says one of three things: a process was
seen at its limit, or said in its log that it was refused something (hit); no process can have met its limit, or none had anything to do
(0); or neither (None).
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

SAMPLE_INTERVAL = 0.01  # seconds between two looks
NEAR_SHARE = 0.1  # of the headroom: a process that has no more than that left counts as one that met its limit
FAR_BYTES = (
    1 << 30
)  # with so much left at its peak a process can't have met its limit, unless it asked for more than that in one piece
IDLE_CPU = 0.02  # seconds on a processor, and of each second thereafter, that an idle service may take for its timers
IDLE_CPU_SHARE = 0.02
MIN_WAIT = 0.01  # seconds that a process has to wait for a processor before it counts
UNIT = "processes"

Log = Callable[[], str]  # what the processes have written since the strike


class Sampler:
    """A thread that looks every 10 ms, until it is stopped.

    Args:
        look: takes one look.
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
            except Exception:  # noqa: BLE001  # whatever keeps it from looking is reported by the look before the heal
                return

    def stop(self) -> None:
        """End it; returns when no look is under way."""
        self._over.set()
        self._thread.join()


class LimitDetector(Protocol):
    """How near a process is to a limit."""

    log_pattern: re.Pattern[str]

    def begin(self, process: psutil.Process) -> None:
        """Remember a process as it was when it was first seen under the limit."""

    def met(self, process: psutil.Process, limit: int) -> bool:
        """True if the process meets its limit now."""

    def is_far(self, process: psutil.Process, limit: int) -> bool:
        """True if the process can't have met its limit so far."""


class LimitHold:
    """A limit lowered for a tree, and what came of it.

    Args:
        tree: the processes.
        lowered: their limit, in force from now on.
        gauge: measures how near they are to it.
        log: returns what they have written since the strike; None where nobody can read it.
        clock: tells when they met it.
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
        self._met: dict[psutil.Process, float] = {}  # when each was first seen at its limit
        self._last = 0.0
        self._begun: set[psutil.Process] = set()
        self._may_have_met = False
        self._lock = threading.Lock()
        lowered.lower()
        for process in lowered.processes:
            self._begin(process)
        self._activity = CpuActivity(lowered.processes, clock)
        # A service is asked over TCP. Another process may be asked over a pipe or have work of its own.
        self._traffic = TcpTraffic(tree) if log is not None else None
        self._sampler = Sampler(self._sample)

    def release(self) -> None:
        """Put the limit back for every process that has it."""
        self._sampler.stop()
        if self._traffic is not None:
            self._traffic.close()
        self._lowered.restore()

    def receipt(self) -> Receipt:
        """Return how many processes met the limit."""
        self._sample()
        said = self._log is not None and self._detector.log_pattern.search(self._log()) is not None
        if self._met:
            return Receipt(len(self._met), UNIT, min(self._met.values()), self._last)
        if said:
            return Receipt(1, UNIT)  # one at least
        gone = any(not process.is_running() for process in self._lowered.processes)
        is_far = not (self._may_have_met or gone)
        return Receipt(0 if is_far or self._was_idle() else None, UNIT)

    def _was_idle(self) -> bool:
        """True if the processes have not run, or ran hardly and nothing asked them to."""
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
                except PermissionError:  # it has become another user's
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
    """How much the processes of a tree have run since.

    Args:
        processes: the tree as it is now.
        clock: tells how long ago that was.
    """

    def __init__(self, processes: list[psutil.Process], clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._started = clock.now()
        self._ran = {process: _seconds(process) for process in processes}

    def is_none(self) -> bool:
        """True if each process is still there, and none of its threads has been on a processor."""
        return all(ran is not None and _seconds(process) == ran for process, ran in self._ran.items())

    def is_idle(self, processes: list[psutil.Process]) -> bool:
        """True if the tree has the processes that it had, and they ran no more than idle ones that look around now and then."""
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
    """Seconds on a processor of each thread; None when the process has gone or the kernel does not count them."""
    import psutil

    try:
        waiting = procfs.waiting(process.pid) if process.is_running() else None
    except psutil.NoSuchProcess:
        return None
    return None if waiting is None else {thread: seconds.ran for thread, seconds in waiting.items()}


class DataLimitDetector:
    """How near a process's data segment is to RLIMIT_DATA.

    Args:
        headroom: bytes that a process was left to grow by.
    """

    log_pattern = re.compile(
        r"(?<![A-Za-z])MemoryError|java\.lang\.OutOfMemoryError|cannot allocate memory|std::bad_alloc|failed to allocate memory"
        r"|out of memory|memory allocation of \d+ bytes failed|\bENOMEM\b",
        re.IGNORECASE,
    )

    def __init__(self, headroom: int) -> None:
        self._headroom = headroom

    def begin(self, process: psutil.Process) -> None:
        """Nothing to remember: the limit says it all."""

    def met(self, process: psutil.Process, limit: int) -> bool:
        # Without a headroom every process is at its limit from the first, whether it asks for memory or not.
        return self._headroom > 0 and procfs.memory(process.pid).data >= limit - NEAR_SHARE * self._headroom

    def is_far(self, process: psutil.Process, limit: int) -> bool:
        return procfs.memory(process.pid).peak <= limit - FAR_BYTES


class DescriptorLimitDetector:
    """How near a process is to its last descriptor (RLIMIT_NOFILE)."""

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
        if taken != self._first.get(process):  # full, and by what it opened under the fault
            return True
        # It may have been full from the first: then only a connection that it does not take shows that it was refused a descriptor.
        if process.status() == psutil.STATUS_STOPPED or not procfs.has_unaccepted(process.pid):
            self._waiting.discard(process)
            return False
        waited = process in self._waiting
        self._waiting.add(process)
        return waited

    def is_far(self, process: psutil.Process, limit: int) -> bool:
        return procfs.table_size(process.pid) < limit
