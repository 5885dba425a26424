"""The processes of a target: its first one and all that descend from it, those that are born meanwhile included."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ..clock import SYSTEM
from ..supervisor import descendants, process_table

if TYPE_CHECKING:
    import psutil

REACH_TIMEOUT = 1.5  # seconds to reach every process of a tree; only one stuck in the kernel needs more than a few ms


class ProcessTree:
    """A tree of processes, listed anew at each look.

    Args:
        root: its first process.
        pids: lists the ids of the processes that are there now.
    """

    def __init__(self, root: psutil.Process, pids: Callable[[], Iterable[int]]) -> None:
        self.root = root
        self._pids = pids
        self._known: dict[int, psutil.Process] = {root.pid: root}

    def members(self) -> list[psutil.Process]:
        """Return the processes that are there now, zombies aside; the same object for the same process each time."""
        import psutil

        found = []
        for pid in self._pids():
            try:
                process = self._known.get(pid)
                # A process is known by its start, too, because ids are used again.
                if process is None or not process.is_running():
                    process = self._known[pid] = psutil.Process(pid)
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def each(self, act: Callable[[psutil.Process], bool]) -> None:
        """Call `act` for every process, until two looks in a row have found nothing to do.

        A process that was not reached yet may have a child between two reads of one look. The next look finds that child, and the child of
        a process that was reached has inherited what was done to its parent.

        Args:
            act: returns True when there was something to do.
        """
        import psutil

        quiet, give_up = 0, SYSTEM.now() + REACH_TIMEOUT
        while quiet < 2 and SYSTEM.now() < give_up:
            busy = False
            for process in self.members():
                try:
                    busy |= act(process)
                except psutil.NoSuchProcess:
                    continue
            quiet = 0 if busy else quiet + 1
            if busy:
                SYSTEM.sleep(0.001)

    def each_stray(self, act: Callable[[psutil.Process], bool]) -> None:
        """Call `act` for every process that may descend from the tree and is not listed by it.

        The supervisor lists all that descend from its children.
        """


class ForeignProcessTree(ProcessTree):
    """The tree of a process that the supervisor did not start.

    A process that detaches from the tree (its parent ends) stays in it once it was seen.
    """

    def __init__(self, root: psutil.Process) -> None:
        import psutil

        super().__init__(root, self._list)
        self._before = set(psutil.pids())
        try:
            self._above = {parent.pid for parent in root.parents()} | {1}
        except psutil.NoSuchProcess:  # it has ended: an empty tree
            self._above = set()
        self._seen: dict[int, psutil.Process] = {root.pid: root}

    def _list(self) -> list[int]:
        import psutil

        found: dict[int, None] = {}
        for pid, process in list(self._seen.items()):
            if pid in found:
                continue
            if not process.is_running():
                del self._seen[pid]
                continue
            found |= dict.fromkeys(descendants([pid], process_table(pid)))
        for pid in found:
            if pid not in self._seen:
                try:
                    self._seen[pid] = psutil.Process(pid)
                except psutil.NoSuchProcess:
                    continue
        return list(found)

    def each_stray(self, act: Callable[[psutil.Process], bool]) -> None:
        """Call `act` for the processes that started since and whose parent is one that inherits orphans of this tree."""
        import psutil

        heirs = self._above - {os.getpid()}
        for process in psutil.process_iter():
            try:
                if process.pid not in self._before and process.pid not in self._seen and process.ppid() in heirs:
                    act(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
