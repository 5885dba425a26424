"""Numbers that Linux keeps of a process, read from /proc; each raises psutil.NoSuchProcess where the process has gone."""

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
        data: what counts against RLIMIT_DATA now (VmData).
        peak: the largest address space that it ever had (VmPeak), data and all else.
    """

    data: int
    peak: int


class SchedulerTimes(NamedTuple):
    """Seconds of one thread, as the scheduler counts them.

    Args:
        ran: it has been on a processor.
        waited: it was ready to run, and no processor was free for it.
    """

    ran: float
    waited: float


def memory(pid: int) -> AddressSpace:
    """Return what the address space holds."""
    status = _status(pid)
    return AddressSpace(int(status["VmData"].split()[0]) * 1024, int(status["VmPeak"].split()[0]) * 1024)


def table_size(pid: int) -> int:
    """Return the size of the table of descriptors: it grows and never shrinks, so no number beyond it was ever given."""
    return int(_status(pid)["FDSize"])


def open_descriptors(pid: int) -> set[int]:
    """Return the numbers of the descriptors that are open."""
    with _gone(pid):
        return {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}


def rlimit_for(taken: set[int], left: int) -> int:
    """Return the smallest limit of descriptors under which `left` more can be opened: each gets the lowest number that is free."""
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
    """Return the scheduler's seconds of each thread, by its id; None where the kernel does not count them."""
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
    """True if a connection waits at one of the process's TCP listeners to be accepted."""
    inodes = sockets(pid)
    with _gone(pid):
        for name in "tcp", "tcp6":
            for row in _rows(Path(f"/proc/{pid}/net/{name}")):
                if row[3] == "0A" and int(row[9]) in inodes and int(row[4].partition(":")[2], 16) > 0:
                    return True
    return False


def sockets(pid: int) -> set[int]:
    """Return the inodes of the sockets that are open."""
    return {int(found[1]) for link in _links(pid) if (found := re.fullmatch(r"socket:\[(\d+)\]", link))}


def _links(pid: int) -> Iterator[str]:
    for number in open_descriptors(pid):
        try:
            yield os.readlink(f"/proc/{pid}/fd/{number}")  # noqa: PTH115  # every 10 ms: pathlib takes longer
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
