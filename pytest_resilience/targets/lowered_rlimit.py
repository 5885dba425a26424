"""Lower a resource limit (setrlimit(2)) for a whole process tree, and restore it for every process that has it by then."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from .process_tree import ProcessTree

if TYPE_CHECKING:
    import psutil

# The limits in force, the oldest first. A later one may lower an earlier one further.
_ACTIVE: list[LoweredRlimit] = []
_LOCK = threading.Lock()


class LoweredRlimit:
    """A lowered soft limit for each process of a tree. A child process inherits the limit of its parent.

    Args:
        tree: the processes.
        which: the resource, such as psutil.RLIMIT_NOFILE.
        limit_of: returns the new soft limit of a process. A process keeps a limit that is already lower.
    """

    def __init__(self, tree: ProcessTree, which: int, limit_of: Callable[[psutil.Process], int]) -> None:
        self._tree = tree
        self._which = which
        self._limit_of = limit_of
        # Previous soft and hard limits, by the soft limit that was set. For each process: that soft limit and its previous limits.
        self._before: dict[int, tuple[int, int]] = {}
        self._own: dict[psutil.Process, tuple[int, tuple[int, int]]] = {}

    def lower(self) -> None:
        """Lower the limit for every process of the tree.

        Raises:
            psutil.AccessDenied: a process belongs to another user. No limit has changed then.
        """
        with _LOCK:
            try:
                self._tree.each(self._lower_one)
            except BaseException:
                self._restore_all()
                raise
            _ACTIVE.append(self)

    def restore(self) -> None:
        """Restore the limit, also for processes that started since. A process that has set another limit since keeps it.

        Raises:
            psutil.AccessDenied: a process has changed its user. The limits of all other processes are restored.
        """
        with _LOCK:
            if self in _ACTIVE:
                _ACTIVE.remove(self)
            self._transfer_previous()
            if denied := self._restore_all():
                raise denied[0]
            self._tree.each_stray(self._restore_one)

    def on(self, process: psutil.Process) -> int | None:
        """Return the limit in force for a process, or None if the process has set another one."""
        soft = process.rlimit(self._which)[0]
        return soft if soft in self._before else None

    @property
    def processes(self) -> list[psutil.Process]:
        """The processes that existed when the limit was lowered."""
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
        if before[0] == soft:  # the limit was no higher before
            return False
        process.rlimit(self._which, before)
        return True

    def _transfer_previous(self) -> None:
        """Hand the previous limits to a later strike on the same processes, which then restores the state before both."""
        for other in _ACTIVE:
            if (
                other._which != self._which or not self._own.keys() & other._own.keys()
            ):  # both are instances of this class
                continue
            for process, (limit, before) in other._own.items():  # private, as above
                if process in self._own and before[0] == self._own[process][0]:
                    other._own[process] = limit, self._own[process][1]  # private, as above
                    other._before[limit] = self._own[process][1]  # private, as above
                    self._before.pop(limit, None)  # the later strike restores the limit that it has set
