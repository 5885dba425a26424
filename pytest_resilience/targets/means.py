"""What a process may use, taken away from outside and given back: its data limit, its descriptors, its processor time."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..backends.backend import Backend

if TYPE_CHECKING:
    import psutil

# Bound to one processor and busy, for a minute at most: nobody suffers for long from a session that was killed with its keeper.
RIVAL = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
end = time.monotonic() + 60
while time.monotonic() < end:
    pass
"""


class Means:
    """The limits of one process.

    Args:
        process: the process, as it is now.
        backend: runs its rivals.
    """

    def __init__(self, process: psutil.Process, backend: Backend) -> None:
        self._process = process
        self._backend = backend

    def lower_data_limit(self, headroom_bytes: int) -> Callable[[], None] | None:
        """Set RLIMIT_DATA to present use plus headroom; returns what restores it, or None off Linux."""
        process = self._process
        if not hasattr(process, "rlimit"):
            return None
        import psutil

        return self._limited(psutil.RLIMIT_DATA, data_bytes(process.pid) + headroom_bytes)

    def enclose(self, headroom_bytes: int) -> Callable[[], None]:
        """Let the kernel kill it when it takes more than so much; returns what takes that back.

        Raises:
            CannotInject: this platform, user or backend can't.
        """
        return self._backend.enclose(self._process.pid, headroom_bytes)

    def limit_descriptors(self, left: int) -> Callable[[], None] | None:
        """Set RLIMIT_NOFILE so that `left` more can be opened; returns what restores it, or None off Linux."""
        process = self._process
        if not hasattr(process, "rlimit"):
            return None
        import psutil

        return self._limited(psutil.RLIMIT_NOFILE, first_beyond(open_descriptors(process.pid), left))

    def _limited(self, which: int, limit: int) -> Callable[[], None]:
        process = self._process
        before = process.rlimit(which)
        process.rlimit(which, (limit, before[1]))

        def restore() -> None:
            if process.is_running():  # a service that died of it has no limit to restore
                process.rlimit(which, before)

        return restore

    def crowd(self, rivals: int) -> Callable[[], None] | None:
        """Bind it to one processor, with so many rivals; returns what ends that, or None off Linux."""
        process = self._process
        if not hasattr(process, "rlimit"):
            return None
        before = {thread.id: _affinity(thread.id) for thread in process.threads()}
        processor = min(before[process.pid])
        for known in before:
            _bind(known, {processor})
        argv = [sys.executable, "-I", "-S", "-c", RIVAL, str(processor)]
        running = [self._backend.spawn("rival", argv, env={}) for _ in range(rivals)]

        def restore() -> None:
            for rival in running:
                rival.kill()
            for known, processors in before.items():
                _bind(known, processors)
            for thread in process.threads() if process.is_running() else ():
                if thread.id not in before:  # made meanwhile, by one that was bound
                    _bind(thread.id, before[process.pid])

        return restore


def first_beyond(taken: set[int], left: int) -> int:
    """The smallest limit of descriptors under which `left` more can be opened: each gets the lowest number that is free."""
    limit = 0
    while True:
        if limit not in taken:
            if left == 0:
                return limit
            left -= 1
        limit += 1


def open_descriptors(pid: int) -> set[int]:
    """The numbers of the descriptors that a process has open (Linux)."""
    return {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}


def data_bytes(pid: int) -> int:
    """What the kernel holds against RLIMIT_DATA: VmData of /proc/PID/status, in bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmData:\s+(\d+) kB$", text, re.MULTILINE)
    assert found is not None, "every live process has a VmData line"
    return int(found[1]) * 1024


def _affinity(thread: int) -> set[int]:
    import os

    return set(os.sched_getaffinity(thread))


def _bind(thread: int, processors: set[int]) -> None:
    """Bind a thread, if it is still there."""
    import os

    try:
        os.sched_setaffinity(thread, processors)
    except ProcessLookupError:
        return
