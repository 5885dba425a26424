"""Read figures of a process from /proc. Each function raises psutil.NoSuchProcess after the exit of the process."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn


class AddressSpace(NamedTuple):
    """Bytes of a process's address space.

    Args:
        data: the bytes that count against RLIMIT_DATA now (VmData).
        peak: the largest total address space so far (VmPeak).
    """

    data: int
    peak: int


class SchedulerTimes(NamedTuple):
    """Seconds of one thread, as counted by the scheduler.

    Args:
        ran: running on a CPU.
        waited: runnable, and waiting for a CPU.
    """

    ran: float
    waited: float


def memory(pid: int) -> AddressSpace:
    """Return the size of the address space."""
    status = _status(pid)
    return AddressSpace(int(status["VmData"].split()[0]) * 1024, int(status["VmPeak"].split()[0]) * 1024)


def table_size(pid: int) -> int:
    """Return the size of the descriptor table. It never shrinks, so no descriptor beyond it was ever open."""
    return int(_status(pid)["FDSize"])


def open_descriptors(pid: int) -> set[int]:
    """Return the numbers of the open descriptors."""
    with _gone(pid):
        return {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}


def rlimit_for(taken: set[int], left: int) -> int:
    """Return the smallest RLIMIT_NOFILE with which `left` more descriptors can be opened. Each gets the lowest free number."""
    limit = 0
    while True:
        if limit not in taken:
            if left == 0:
                return limit
            left -= 1
        limit += 1


def threads(pid: int) -> list[int]:
    """Return the ids of the threads."""
    with _gone(pid):
        return [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]


def waiting(pid: int) -> dict[int, SchedulerTimes] | None:
    """Return the scheduler times of each thread, by its id, or None if the kernel does not count them."""
    found = {}
    for thread in threads(pid):
        try:
            ran, waited = Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/task/{thread}").exists():
                return None
            continue
        found[thread] = SchedulerTimes(int(ran) / 1e9, int(waited) / 1e9)
    return found


def has_unaccepted(pid: int) -> bool:
    """True if a connection waits in the backlog of one of the TCP listeners of the process."""
    inodes = sockets(pid)
    with _gone(pid):
        for name in "tcp", "tcp6":
            for row in _rows(Path(f"/proc/{pid}/net/{name}")):
                if row[3] == "0A" and int(row[9]) in inodes and int(row[4].partition(":")[2], 16) > 0:
                    return True
    return False


def sockets(pid: int) -> set[int]:
    """Return the inodes of the open sockets."""
    return {int(found[1]) for link in _links(pid) if (found := re.fullmatch(r"socket:\[(\d+)\]", link))}


def _links(pid: int) -> Iterator[str]:
    for number in open_descriptors(pid):
        try:
            yield os.readlink(f"/proc/{pid}/fd/{number}")  # noqa: PTH115  # runs every 10 ms; pathlib is slower
        except FileNotFoundError:
            continue


def _rows(table: Path) -> list[list[str]]:
    return [line.split() for line in table.read_text().splitlines()[1:]] if table.exists() else []


def _status(pid: int) -> dict[str, str]:
    with _gone(pid):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = {name: value for name, _, value in (line.partition(":") for line in lines)}
    if "VmData" not in status:  # a zombie has no memory
        _raise(pid)
    return status


@contextmanager
def _gone(pid: int) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, ProcessLookupError):
        _raise(pid)


def _raise(pid: int) -> NoReturn:
    import psutil

    raise psutil.NoSuchProcess(pid)
