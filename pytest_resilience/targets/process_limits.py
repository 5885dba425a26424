"""Limit the memory, descriptors and CPU time of a process tree from outside, and restore them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..backends.backend import Backend, CgroupLimit
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
    """The resource limits of a process tree.

    Args:
        tree: the processes.
        backend: creates cgroups and runs CPU hogs.
        log: returns the output of the processes from now on; None if it can't be read.
    """

    def __init__(self, tree: ProcessTree, backend: Backend, log: Log | None = None) -> None:
        self._tree = tree
        self._backend = backend
        self._log = log

    def lower_data_limit(self, headroom_bytes: int) -> Hold | None:
        """Set RLIMIT_DATA of each process to its present use plus a headroom. Return None on other systems than Linux."""
        if sys.platform != "linux":
            return None
        import psutil

        def limit_of(process: psutil.Process) -> int:
            return procfs.memory(process.pid).data + headroom_bytes

        return self._lower(psutil.RLIMIT_DATA, limit_of, DataLimitDetector(headroom_bytes))

    def limit_descriptors(self, left: int) -> Hold | None:
        """Set RLIMIT_NOFILE of each process so that it can open `left` more descriptors. Return None on other systems than Linux."""
        if sys.platform != "linux":
            return None
        import psutil

        def limit_of(process: psutil.Process) -> int:
            return procfs.rlimit_for(procfs.settled_descriptors(process.pid), left)

        return self._lower(psutil.RLIMIT_NOFILE, limit_of, DescriptorLimitDetector())

    def _lower(self, which: int, limit_of: Callable[[psutil.Process], int], detector: LimitDetector) -> Hold:
        import psutil

        self._require_processes()
        try:
            return LimitHold(self._tree, LoweredRlimit(self._tree, which, limit_of), detector, self._log)
        except (psutil.AccessDenied, PermissionError) as problem:
            raise CannotInject(f"a process of the tree belongs to another user: {problem}") from None

    def limit_memory(self, headroom_bytes: int) -> Hold:
        """Make the kernel kill a process when the tree allocates more than `headroom_bytes` in total.

        Raises:
            CannotInject: the platform, user or backend does not support a memory cgroup.
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
        """Bind all processes to one CPU, together with `hogs` busy processes. Return None on other systems than Linux."""
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
    """A process tree in a memory cgroup."""

    def __init__(self, group: CgroupLimit) -> None:
        self._group = group

    def release(self) -> None:
        """Move the processes back and remove the cgroup."""
        self._group.remove()

    def receipt(self) -> Receipt:
        """Return the number of processes that the kernel killed, or that shared a limit when it was reached."""
        return Receipt(self._group.affected_processes(), UNIT)
