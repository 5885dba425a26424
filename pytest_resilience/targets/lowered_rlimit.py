"""A resource limit (setrlimit(2)) lowered for a whole tree of processes, and put back for every process that has it by then."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from .process_tree import ProcessTree

if TYPE_CHECKING:
    import psutil

# Those in force, the oldest first: a later one may stand on top of an earlier one.
_ACTIVE: list[LoweredRlimit] = []
_LOCK = threading.Lock()


class LoweredRlimit:
    """The soft limit of each process of a tree, lowered. A process that is born under it inherits its parent's.

    Args:
        tree: the processes.
        which: the resource, such as psutil.RLIMIT_NOFILE.
        limit_of: the new soft limit of a process. A lower one that the process has already stays.
    """

    def __init__(self, tree: ProcessTree, which: int, limit_of: Callable[[psutil.Process], int]) -> None:
        self._tree = tree
        self._which = which
        self._limit_of = limit_of
        # By the soft limit that was set: the soft and hard limit as they were. By the process: both.
        self._before: dict[int, tuple[int, int]] = {}
        self._own: dict[psutil.Process, tuple[int, tuple[int, int]]] = {}

    def lower(self) -> None:
        """Lower it for every process of the tree.

        Raises:
            psutil.AccessDenied: a process belongs to another user; all limits are as before.
        """
        with _LOCK:
            try:
                self._tree.each(self._lower_one)
            except BaseException:
                self._restore_all()
                raise
            _ACTIVE.append(self)

    def restore(self) -> None:
        """Put it back: also for processes that were born meanwhile, and not for one that has set its own limit meanwhile.

        Raises:
            psutil.AccessDenied: a process has become another user's; those of all others are put back.
        """
        with _LOCK:
            if self in _ACTIVE:
                _ACTIVE.remove(self)
            self._transfer_previous()
            if denied := self._restore_all():
                raise denied[0]
            self._tree.each_stray(self._restore_one)

    def on(self, process: psutil.Process) -> int | None:
        """Return the limit that a process is held to, its own or inherited; None for one that escaped."""
        soft = process.rlimit(self._which)[0]
        return soft if soft in self._before else None

    @property
    def processes(self) -> list[psutil.Process]:
        """The processes that were there when it was lowered."""
        return list(self._own)

    def _lower_one(self, process: psutil.Process) -> bool:
        soft, hard = process.rlimit(self._which)
        if process in self._own or soft in self._before:
            return False
        limit = self._limit_of(process)
        if 0 <= soft < limit:  # RLIM_INFINITY is negative
            limit = soft
        process.rlimit(self._which, (limit, hard))
        self._before.setdefault(limit, (soft, hard))
        self._own[process] = limit, (soft, hard)
        return True

    def _restore_all(self) -> list[psutil.AccessDenied]:
        import psutil

        denied: list[psutil.AccessDenied] = []

        def restore(process: psutil.Process) -> bool:
            try:
                return self._restore_one(process)
            except psutil.AccessDenied as problem:
                denied.append(problem)
                return False

        self._tree.each(restore)
        return denied

    def _restore_one(self, process: psutil.Process) -> bool:
        soft = process.rlimit(self._which)[0]
        if soft not in self._before:
            return False
        limit, before = self._own.get(process, (None, None))
        if before is None or limit != soft:
            before = self._before[soft]
        if before[0] == soft:  # it had no more than that before
            return False
        process.rlimit(self._which, before)
        return True

    def _transfer_previous(self) -> None:
        """Where another strike was put on top of this one, it shall restore what was there before both."""
        for other in _ACTIVE:
            if other._which != self._which or not self._own.keys() & other._own.keys():  # of its own kind
                continue
            for process, (limit, before) in other._own.items():  # the same
                if process in self._own and before[0] == self._own[process][0]:
                    other._own[process] = limit, self._own[process][1]  # the same
                    other._before[limit] = self._own[process][1]  # the same
                    self._before.pop(limit, None)  # what the other one has set is the other one's to restore
