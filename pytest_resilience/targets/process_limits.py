"""What a tree of processes may use, taken away from outside and given back: memory, descriptors, processor time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..backends.backend import Backend, MemoryLimit
from ..backends.session.memory_cgroup import CgroupUnavailable
from ..errors import CannotInject, SetupError
from ..faults.fault import Hold, Receipt
from . import procfs
from .cpu_contention import CpuContention
from .limit_effects import UNIT, DataLimitDetector, DescriptorLimitDetector, LimitDetector, LimitHold, Log
from .lowered_rlimit import LoweredRlimit
from .process_tree import ProcessTree

if TYPE_CHECKING:
    import psutil


class ProcessLimits:
    """The resources of a tree of processes.

    Args:
        tree: the processes.
        backend: makes the control groups and runs the rivals.
        log: returns what the processes write from now on; None where it can't be read.
    """

    def __init__(self, tree: ProcessTree, backend: Backend, log: Log | None = None) -> None:
        self._tree = tree
        self._backend = backend
        self._log = log

    def lower_data_limit(self, headroom_bytes: int) -> Hold | None:
        """Set each process's RLIMIT_DATA to its present use plus a headroom; returns None off Linux."""
        if sys.platform != "linux":
            return None
        import psutil

        def limit_of(process: psutil.Process) -> int:
            return procfs.memory(process.pid).data + headroom_bytes

        return self._lower(psutil.RLIMIT_DATA, limit_of, DataLimitDetector(headroom_bytes))

    def limit_descriptors(self, left: int) -> Hold | None:
        """Set each process's RLIMIT_NOFILE so that it can open `left` more; returns None off Linux."""
        if sys.platform != "linux":
            return None
        import psutil

        def limit_of(process: psutil.Process) -> int:
            return procfs.rlimit_for(procfs.open_descriptors(process.pid), left)

        return self._lower(psutil.RLIMIT_NOFILE, limit_of, DescriptorLimitDetector())

    def _lower(self, which: int, limit_of: Callable[[psutil.Process], int], detector: LimitDetector) -> Hold:
        import psutil

        self._require_processes()
        try:
            return LimitHold(self._tree, LoweredRlimit(self._tree, which, limit_of), detector, self._log)
        except (psutil.AccessDenied, PermissionError) as problem:
            raise CannotInject(f"a process of the tree belongs to another user: {problem}") from None

    def limit_memory(self, headroom_bytes: int) -> Hold:
        """Let the kernel kill a process when all of them together take more than that.

        Raises:
            CannotInject: this platform, user or backend can't.
        """
        self._require_processes()
        group = self._backend.limit_memory(self._tree.root.pid, headroom_bytes)
        try:
            self._tree.each(lambda process: group.add(process.pid))
        except BaseException as problem:
            group.remove()
            if isinstance(problem, CgroupUnavailable):
                raise CannotInject(f"memory_limit: {problem}") from None
            raise
        return CgroupHold(group)

    def contend_cpu(self, hogs: int) -> Hold | None:
        """Bind all processes to one processor, with that many busy processes (hogs); returns None off Linux."""
        if sys.platform != "linux":
            return None
        self._require_processes()
        try:
            return CpuContention(self._tree, hogs, self._backend)
        except PermissionError as problem:
            raise CannotInject(f"a process of the tree belongs to another user: {problem}") from None

    def _require_processes(self) -> None:
        if not self._tree.members():
            raise SetupError(f"cannot strike: process {self._tree.root.pid} is not running")


class CgroupHold:
    """A tree in a control group."""

    def __init__(self, group: MemoryLimit) -> None:
        self._group = group

    def release(self) -> None:
        """Take the processes out and remove the group."""
        self._group.remove()

    def receipt(self) -> Receipt:
        """Return how many processes the kernel killed, or how many shared a limit that was met."""
        return Receipt(self._group.affected_processes(), UNIT)
