"""Read figures of a process from /proc. Each function raises psutil.NoSuchProcess after the exit of the process."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

from ..clock import SYSTEM

SETTLE_TIMEOUT = 0.25  # seconds
SETTLE_INTERVAL = 0.001


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


def settled_descriptors(pid: int) -> set[int]:
    """Return the numbers of the descriptors that are open for longer than a moment.

    A process that runs may have a file open that it closes a microsecond later, such as one of /proc. So the descriptors are read while
    no thread runs. A process that does not rest within SETTLE_TIMEOUT has those that were open at every reading.
    """
    always: set[int] | None = None
    deadline = SYSTEM.now() + SETTLE_TIMEOUT
    while True:
        rest = _rest(pid)
        found = open_descriptors(pid)
        if rest is not None and _rest(pid) == rest:
            return found
        always = found if always is None else always & found
        if SYSTEM.now() > deadline:
            return always
        SYSTEM.sleep(SETTLE_INTERVAL)


def _rest(pid: int) -> dict[int, list[str]] | None:
    """Return the counts of context switches of each thread, which stay as they are until it runs again. None if one runs."""
    counts = {}
    for thread in threads(pid):
        try:
            lines = Path(f"/proc/{pid}/task/{thread}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            return None
        if not any(line.startswith(("State:\tS", "State:\tT", "State:\tt")) for line in lines):
            return None
        counts[thread] = [line for line in lines if "ctxt_switches" in line]
    return counts


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
