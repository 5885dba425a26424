"""Processor time of a tree of processes, taken by busy rivals on the one processor that all of them are bound to."""

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
from . import kernel
from .effects import UNIT, WAITED, Sampler
from .tree import Tree

if TYPE_CHECKING:
    import psutil

READY_WITHIN = 10.0  # seconds for the rivals to be there; it takes 20 ms
# Bound to one processor and busy, for a minute at most: nobody suffers for long from a session that was killed with its supervisor.
# Each in a session of its own, because Linux may share out its time by sessions.
RIVALS = """
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


class CrowdedProcessor:
    """A tree bound to one processor with rivals, and how long it had to wait.

    Args:
        tree: the processes.
        rivals: how many busy processes they share the processor with.
        backend: runs the rivals.
        clock: waits for the rivals, and tells when a process had to wait.
    """

    def __init__(self, tree: Tree, rivals: int, backend: Backend, clock: Clock = SYSTEM) -> None:
        self._tree = tree
        self._clock = clock
        self._before: dict[tuple[psutil.Process, int], set[int]] = {}
        self._lock = threading.Lock()
        self._processors = os.sched_getaffinity(tree.root.pid)
        self._processor = min(self._processors)
        self._rivals = backend.spawn(
            "rival", [sys.executable, "-I", "-S", "-c", RIVALS, str(self._processor), str(rivals)], env={}
        )
        try:
            self._wait_for_rivals(rivals)
            tree.each(self._bind)
        except BaseException:
            self._unbind()
            raise
        self._began = clock.now()
        self._waits: dict[tuple[psutil.Process, int], tuple[float, float]] = {}  # of a thread: at first, and by now
        self._waited: dict[psutil.Process, float] = {}  # when each process had waited for long enough
        self._last = 0.0
        self._counts = True
        self._watched = False
        self._look()
        self._sampler = Sampler(self._look)

    def _wait_for_rivals(self, count: int) -> None:
        def started() -> bool:
            return len(self._rivals.processes()) >= count

        wait_until(lambda: started() or not self._rivals.running, within=READY_WITHIN, every=0.001, clock=self._clock)
        if not started():
            raise ResilienceError(f"the {count} rivals did not start: {self._rivals.log_text().strip()}")

    def release(self) -> None:
        """End the rivals and let every thread run where it ran before."""
        self._sampler.stop()
        self._unbind()

    def receipt(self) -> Receipt:
        """Return how many processes had to wait for the processor."""
        self._look()
        if self._waited:
            return Receipt(len(self._waited), UNIT, min(self._waited.values()), self._last)
        return Receipt(0 if self._counts else None, UNIT)

    def _look(self) -> None:
        import psutil

        with self._lock:
            for process in self._tree.members():
                try:
                    threads = kernel.waiting(process.pid)
                except psutil.NoSuchProcess:
                    continue
                if threads is None:
                    self._counts = False
                    continue
                for thread, seconds in threads.items():
                    born = 0.0 if self._watched else seconds.waited  # born under the fault: all its waiting counts
                    first = self._waits.get((process, thread), (born, born))[0]
                    self._waits[process, thread] = first, seconds.waited
                total = sum(now - first for (known, _), (first, now) in self._waits.items() if known == process)
                if total >= WAITED:
                    self._last = self._clock.now() - self._began
                    self._waited.setdefault(process, self._last)
            self._watched = True

    def _bind(self, process: psutil.Process) -> bool:
        busy = False
        for thread in kernel.threads(process.pid):
            processors = affinity(thread)
            if processors is None or processors == {self._processor}:
                continue
            self._before[process, thread] = processors
            bind(thread, {self._processor})
            busy = True
        return busy

    def _unbind(self) -> None:
        self._rivals.kill()
        self._tree.each(self._unbind_one)
        self._tree.each_stray(self._unbind_one)

    def _unbind_one(self, process: psutil.Process) -> bool:
        busy = False
        for thread in kernel.threads(process.pid):
            before = self._before.get((process, thread), self._processors)  # born meanwhile, by a thread that was bound
            if affinity(thread) == {self._processor} != before:
                bind(thread, before)
                busy = True
        return busy


def affinity(thread: int) -> set[int] | None:
    """Return the processors that a thread may run on; None when it has gone."""
    try:
        return set(os.sched_getaffinity(thread))
    except ProcessLookupError:
        return None


def bind(thread: int, processors: Iterable[int]) -> None:
    """Bind a thread, if it is still there."""
    try:
        os.sched_setaffinity(thread, processors)
    except ProcessLookupError:
        return
