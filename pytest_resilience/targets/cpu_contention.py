"""CPU contention: bind a process tree to one CPU, together with busy processes."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..backends.backend import Backend
from ..clock import SYSTEM, Clock, wait_until
from ..errors import ResilienceError
from ..faults.fault import Receipt
from . import procfs
from .limit_effects import MIN_WAIT, UNIT, Sampler
from .process_tree import ProcessTree

if TYPE_CHECKING:
    import psutil

READY_WITHIN = 10.0  # seconds for the hogs to start; it takes 20 ms
# The contention in force, the oldest first. A later one on the same processes finds them bound already.
_ACTIVE: list[CpuContention] = []
# A process that keeps one CPU busy for at most a minute, in case that the session is killed together with its supervisor.
# Each hog has its own session, because Linux may distribute CPU time by sessions (autogroup).
CPU_HOG = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
for _ in range(int(sys.argv[2]) - 1):
    if os.fork() == 0:
        os.setsid()
        break
end = time.monotonic() + 60
while time.monotonic() < end:
    pass
"""


class CpuContention:
    """A process tree that shares one CPU with busy processes, and the time for which it had to wait.

    Args:
        tree: the processes.
        hogs: the number of busy processes.
        backend: starts the hogs.
        clock: the clock for waiting and for the times of the receipt.
    """

    def __init__(self, tree: ProcessTree, hogs: int, backend: Backend, clock: Clock = SYSTEM) -> None:
        self._tree = tree
        self._clock = clock
        self._before: dict[tuple[psutil.Process, int], set[int]] = {}
        self._lock = threading.Lock()
        self._processors = os.sched_getaffinity(tree.root.pid)
        self._processor = min(self._processors)
        self._hogs = backend.spawn(
            "cpu-hog", [sys.executable, "-I", "-S", "-c", CPU_HOG, str(self._processor), str(hogs)], env={}
        )
        try:
            self._wait_for_hogs(hogs)
            tree.each(self._set_affinity)
        except BaseException:
            self._restore_affinity()
            raise
        self._started = clock.now()
        self._waits: dict[
            tuple[psutil.Process, int], tuple[float, float]
        ] = {}  # for each thread: seconds waited at first, and now
        self._waited: dict[psutil.Process, float] = {}  # the time at which each process had waited long enough
        self._last = 0.0
        self._counts = True
        self._watched = False
        self._sample()
        self._sampler = Sampler(self._sample)
        _ACTIVE.append(self)

    def _wait_for_hogs(self, count: int) -> None:
        def started() -> bool:
            return len(self._hogs.processes()) >= count

        wait_until(lambda: started() or not self._hogs.running, within=READY_WITHIN, every=0.001, clock=self._clock)
        if not started():
            raise ResilienceError(f"the {count} CPU hogs did not start: {self._hogs.log_text().strip()}")

    def release(self) -> None:
        """End the hogs and restore the affinity of every thread."""
        self._sampler.stop()
        later = self._later()
        if self in _ACTIVE:
            _ACTIVE.remove(self)
        if later is None:
            self._restore_affinity()
            return
        self._hogs.kill()
        later._processors = self._processors  # of this class, as in the next line
        later._before.update(self._before)

    def _later(self) -> CpuContention | None:
        """Return the next contention on the same processes, which restores the affinity from before both."""
        after = _ACTIVE[_ACTIVE.index(self) + 1 :] if self in _ACTIVE else []
        return next((each for each in after if each._tree.root == self._tree.root), None)  # of this class

    def receipt(self) -> Receipt:
        """Return the number of processes that had to wait for the CPU."""
        self._sample()
        if self._waited:
            return Receipt(len(self._waited), UNIT, min(self._waited.values()), self._last)
        return Receipt(0 if self._counts else None, UNIT)

    def _sample(self) -> None:
        import psutil

        with self._lock:
            for process in self._tree.members():
                try:
                    threads = procfs.waiting(process.pid)
                except psutil.NoSuchProcess:
                    continue
                if threads is None:
                    self._counts = False
                    continue
                for thread, seconds in threads.items():
                    born = (
                        0.0 if self._watched else seconds.waited
                    )  # a thread that started during the fault counts from 0
                    first = self._waits.get((process, thread), (born, born))[0]
                    self._waits[process, thread] = first, seconds.waited
                total = sum(now - first for (known, _), (first, now) in self._waits.items() if known == process)
                if total >= MIN_WAIT:
                    self._last = self._clock.now() - self._started
                    self._waited.setdefault(process, self._last)
            self._watched = True

    def _set_affinity(self, process: psutil.Process) -> bool:
        busy = False
        for thread in procfs.threads(process.pid):
            processors = affinity(thread)
            if processors is None or processors == {self._processor}:
                continue
            self._before[process, thread] = processors
            set_affinity(thread, {self._processor})
            busy = True
        return busy

    def _restore_affinity(self) -> None:
        self._hogs.kill()
        self._tree.each(self._restore_affinity_of)
        self._tree.each_stray(self._restore_affinity_of)

    def _restore_affinity_of(self, process: psutil.Process) -> bool:
        busy = False
        for thread in procfs.threads(process.pid):
            before = self._before.get(
                (process, thread), self._processors
            )  # a new thread inherits the affinity of its parent
            if affinity(thread) == {self._processor} != before:
                set_affinity(thread, before)
                busy = True
        return busy


def affinity(thread: int) -> set[int] | None:
    """Return the CPUs on which a thread may run, or None after its exit."""
    try:
        return set(os.sched_getaffinity(thread))
    except ProcessLookupError:
        return None


def set_affinity(thread: int, processors: Iterable[int]) -> None:
    """Set the CPUs of a thread, if it still exists."""
    try:
        os.sched_setaffinity(thread, processors)
    except ProcessLookupError:
        return
