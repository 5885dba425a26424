"""Memory use and limits of this process. Each reading takes both, because a limit may be lowered at any time."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from . import malloc

UNLIMITED = 1 << 60  # cgroup v1 reports "no limit" as 9223372036854771712, and RLIM_INFINITY is larger, too


@dataclass(frozen=True, slots=True)
class MemoryUsage:
    """The bytes in use under one limit.

    Args:
        used: bytes that count towards the limit.
        limit: bytes.
        resource: name of the limited resource.
        reusable: bytes of `used` that malloc holds free. RLIMIT_DATA counts addresses, freed memory included, but the next
            allocation uses that memory first.
    """

    used: int
    limit: int
    resource: str
    reusable: int = 0

    @property
    def ratio(self) -> float:
        return self.used / self.limit

    @property
    def needed_ratio(self) -> float:
        """Return the share of the limit that is in use, without reusable bytes."""
        return (self.used - self.reusable) / self.limit


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """The kernel's counts for this process. `data` is the size under RLIMIT_DATA, 0 where it is not available."""

    rss: int
    data: int


class MemoryReader:
    """A reader of use and limits. Each call reads both, because a limit may be lowered at any time.

    Args:
        limit: the configured limit in bytes.
        reserve_spent: returns the bytes of the emergency reserve that are released. They count as used, so that releasing
            the reserve does not end an episode.
    """

    def __init__(self, limit: int, reserve_spent: Callable[[], int] = lambda: 0) -> None:
        self._limit = min(limit, _total_memory())
        self._reserve_spent = reserve_spent

    def worst(self) -> MemoryUsage:
        """Return the use that is closest to its limit."""
        return max(self._usages(), key=lambda usage: (usage.ratio, usage.needed_ratio))

    def _usages(self) -> Iterator[MemoryUsage]:
        process = process_memory()
        yield MemoryUsage(process.rss, self._limit, "RSS")
        data_limit = _data_limit()
        if process.data and 0 < data_limit < UNLIMITED:
            yield MemoryUsage(
                process.data + self._reserve_spent(), data_limit, "RLIMIT_DATA", min(process.data, malloc.free_bytes())
            )
        for cgroup in _cgroups():  # read each time, because a process can be moved
            usage = cgroup.read_usage()
            if usage is not None:
                yield usage


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One level of the control group tree. Reclaimable page cache does not count as use."""

    limit: Path
    usage: Path
    stat: Path
    inactive_key: str

    def read_usage(self) -> MemoryUsage | None:
        try:
            limit = int(self.limit.read_text())  # ValueError if it is "max" (version 2)
            if not 0 < limit < UNLIMITED:
                return None
            used = int(self.usage.read_text())
            for line in self.stat.read_text().splitlines():
                if line.startswith(self.inactive_key):
                    used -= int(line.rpartition(" ")[2])
        except (OSError, ValueError):
            return None
        return MemoryUsage(max(0, used), limit, "cgroup")


def _cgroups() -> Iterator[Cgroup]:
    """Yield the groups of this process up to the root, of versions 2 and 1."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                for level in _ancestors(Path("/sys/fs/cgroup"), path, "memory.max"):
                    yield Cgroup(
                        level / "memory.max", level / "memory.current", level / "memory.stat", "inactive_file "
                    )
            elif "memory" in controllers.split(","):
                for level in _ancestors(Path("/sys/fs/cgroup/memory"), path, "memory.limit_in_bytes"):
                    yield Cgroup(
                        level / "memory.limit_in_bytes",
                        level / "memory.usage_in_bytes",
                        level / "memory.stat",
                        "total_inactive_file ",
                    )


def _ancestors(root: Path, path: str, file: str) -> Iterator[Path]:
    """Yield the group and its parents. In a container only the root may be visible, if the path is the host's."""
    group = root / path.lstrip("/")
    for level in (group, *group.parents):
        if (level / file).exists():
            yield level
        if level == root:
            return


def process_memory() -> ProcessMemory:
    """Return the memory of this process. If no file descriptor is free, return the last reading."""
    try:
        status = Path("/proc/self/status").read_bytes()
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE) and _last_reading:
            return _last_reading[0]
        import psutil

        return ProcessMemory(psutil.Process().memory_info().rss, 0)
    reading = ProcessMemory(_kilobytes(status, b"VmRSS:") << 10, _kilobytes(status, b"VmData:") << 10)
    _last_reading[:] = [reading]
    return reading


_last_reading: list[ProcessMemory] = []


def _kilobytes(status: bytes, name: bytes) -> int:
    start = status.find(name)
    return int(status[start + len(name) :].split(None, 1)[0]) if start >= 0 else 0


def _data_limit() -> int:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return soft if soft != resource.RLIM_INFINITY else UNLIMITED


def _total_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return UNLIMITED
