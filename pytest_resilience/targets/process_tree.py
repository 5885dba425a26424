"""The process tree of a target: the root and all its descendants, including later ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ..clock import SYSTEM
from ..supervisor import descendants, process_table

if TYPE_CHECKING:
    import psutil

REACH_TIMEOUT = (
    1.5  # seconds to reach every process of a tree; only a process stuck in the kernel needs more than a few ms
)


class ProcessTree:
    """A tree of processes, read again for each call.

    Args:
        root: the root process.
        pids: returns the process ids of the tree now.
    """

    def __init__(self, root: psutil.Process, pids: Callable[[], Iterable[int]]) -> None:
        self.root = root
        self._pids = pids
        self._known: dict[int, psutil.Process] = {root.pid: root}

    def members(self) -> list[psutil.Process]:
        """Return the present processes without zombies. The same process is always the same object."""
        import psutil

        found = []
        for pid in self._pids():
            try:
                process = self._known.get(pid)
                # psutil compares the start time too, because ids are reused.
                if process is None or not process.is_running():
                    process = self._known[pid] = psutil.Process(pid)
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def each(self, act: Callable[[psutil.Process], bool]) -> None:
        """Call `act` for every process, until two passes in a row have changed nothing.

        A process that was not reached yet may fork during a pass. The next pass finds that child. A child of a process that was
        reached has inherited the change.

        Args:
            act: changes a process; returns True if there was something to change.
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
        """Call `act` for every process that may descend from the tree but is not listed by it.

        There is none here: the supervisor lists all descendants of its children.
        """


class ForeignProcessTree(ProcessTree):
    """The tree of a process that the supervisor did not start.

    A process that was seen once stays in the tree, even if its parent exits.
    """

    def __init__(self, root: psutil.Process) -> None:
        import psutil

        super().__init__(root, self._list)
        self._before = set(psutil.pids())
        try:
            self._above = {parent.pid for parent in root.parents()} | {1}
        except psutil.NoSuchProcess:  # it has exited: an empty tree
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
        """Call `act` for processes that started since and whose parent adopts orphans of this tree."""
        import psutil

        heirs = self._above - {os.getpid()}
        for process in psutil.process_iter():
            try:
                if process.pid not in self._before and process.pid not in self._seen and process.ppid() in heirs:
                    act(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
