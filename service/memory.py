"""Memory use and limits, the decision when to act, and the release of memory.

Statistics, in bytes until they are printed (1 MB is 2^20 bytes):
    heap        Python objects up to 512 bytes: bytes in use and bytes reserved (pymalloc's arenas)
    external    all other memory from malloc: larger objects, buffers, C libraries
    RSS         memory that the kernel counts as resident
The heap fills its arenas to nearly 100 % in any healthy process, so the guard compares use with a limit instead.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import gc
import logging
import mmap
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

log = logging.getLogger("service.memory")

MIB = 1 << 20
UNLIMITED = 1 << 60  # cgroup v1 reports "no limit" as 9223372036854771712, and RLIM_INFINITY is larger, too
COLLECT_ABOVE, CALM_BELOW = 0.90, 0.80
REFUSE_FROM, SERVE_BELOW = 0.95, 0.93
CALM_SAMPLES = 3
COOLDOWN = 10.0
RESERVE_BYTES = 8 * MIB


# --- use and limits ---


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
                process.data + self._reserve_spent(), data_limit, "RLIMIT_DATA", min(process.data, _free_in_malloc())
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


# --- decisions ---


class MemoryGuard:
    """The decisions about memory, from samples of use over limit. It does no I/O and reads no clock.

    An episode begins above 90 % and ends when three consecutive samples need less than 80 %. Each episode is announced
    once. A collection is forced at its begin, and again after every cooldown while more than 90 % is needed, unless the
    last collection was long and freed nothing. At 95 % needed, work that is not essential is refused.
    """

    def __init__(self) -> None:
        self.in_episode = False
        self._calm_samples = 0
        self._not_before = 0.0
        self.refusing = False

    def sample(self, usage: MemoryUsage, now: float) -> Literal["announce", "again"] | None:
        """Return the action for a new sample.

        Returns:
            "announce" to force a collection and log the episode, "again" to force another collection, None to do nothing.
        """
        self.update(usage)
        if self.in_episode:
            self._calm_samples = self._calm_samples + 1 if usage.needed_ratio < CALM_BELOW else 0
            if self._calm_samples >= CALM_SAMPLES:
                self.in_episode = False
        if usage.ratio <= COLLECT_ABOVE or usage.needed_ratio < CALM_BELOW:
            return None
        if not self.in_episode:
            self.in_episode, self._calm_samples = True, 0
            self._not_before = now + COOLDOWN
            return "announce"
        if now < self._not_before or usage.needed_ratio <= COLLECT_ABOVE:
            return None
        self._not_before = now + COOLDOWN
        return "again"

    def update(self, usage: MemoryUsage) -> None:
        """Refuse work from 95 % needed, until less than 93 % is needed."""
        self.refusing = usage.needed_ratio >= REFUSE_FROM or (self.refusing and usage.needed_ratio >= SERVE_BELOW)

    def record_collection(self, now: float, *, seconds: float, freed_share: float) -> None:
        """Record a forced collection. One that blocked the process for long and freed nothing is not repeated soon."""
        if seconds > 0.25 and freed_share < 0.01:
            self._not_before = now + 30 * COOLDOWN


# --- collection and release ---


@dataclass(frozen=True, slots=True)
class MemoryStats:
    """One reading of all statistics. `heap_*` and `external` are None on platforms that do not report them."""

    rss: int
    heap_used: int | None
    heap_total: int | None
    external: int | None

    def log_line(self, usage: MemoryUsage) -> str:
        """Return the log line of the statistics."""
        parts = [f"RSS: {format_mb(self.rss)}"]
        if self.heap_used is not None and self.heap_total:
            share = 100 * self.heap_used / self.heap_total
            parts.append(f"Heap: {self.heap_used / MIB:.2f}/{format_mb(self.heap_total)} ({share:.2f}%)")
        if self.external is not None:
            parts.append(f"External: {format_mb(self.external)}")
        parts.append(f"Limit: {usage.used / MIB:.2f}/{format_mb(usage.limit)} ({100 * usage.ratio:.2f}%)")
        return "[Memory Stats] " + " | ".join(parts)


@dataclass(frozen=True, slots=True)
class GcResult:
    """The bytes that a collection freed, as before minus after. Negative if use has grown."""

    heap: int
    external: int
    rss: int
    seconds: float

    def log_line(self) -> str:
        return (
            f"[GC] Freed {format_mb(self.heap)} heap, {format_mb(self.external)} external, {format_mb(self.rss)} total"
        )


def format_mb(size: int) -> str:
    """Return a size in bytes as text in MB for the log."""
    return f"{size / MIB:.2f}MB"


class GarbageCollector:
    """A garbage collector that returns free pages to the kernel.

    Args:
        clock: measures how long a collection blocks the event loop, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="malloc-trim")
        self._reserve: mmap.mmap | None = None
        self._last_rss = 0
        self._not_before = 0.0

    def start(self) -> None:
        """Start the thread, hold the reserve, and freeze all present objects, while there is enough memory."""
        self._executor.submit(_trim).result()
        self.hold_reserve()
        gc.collect()
        gc.freeze()
        self._last_rss = process_memory().rss

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)
        self.release_reserve()

    def hold_reserve(self) -> None:
        """Reserve address space to release when an allocation fails. The pages stay untouched and cost no memory."""
        if self._reserve is None:
            with suppress(OSError, ValueError):
                self._reserve = mmap.mmap(-1, RESERVE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def release_reserve(self) -> None:
        """Release the reserve, so that essential work can allocate."""
        reserve, self._reserve = self._reserve, None
        if reserve is not None:
            reserve.close()

    def reserve_spent(self) -> int:
        """Return the bytes of the reserve that are not held."""
        return 0 if self._reserve is not None else RESERVE_BYTES

    async def collect(self, evict: Callable[[], object] = lambda: None) -> GcResult:
        """Collect all garbage and trim the heap. Only the collection blocks the event loop, and the trim does not.

        Args:
            evict: called first, to release memory that can be spared.
        """
        before = read_memory_stats()
        evict()
        started = self._clock()
        gc.collect()
        seconds = self._clock() - started
        await asyncio.get_running_loop().run_in_executor(self._executor, _trim)
        after = read_memory_stats()
        self._last_rss = after.rss
        self._not_before = started + 100 * seconds
        return GcResult(
            (before.heap_used or 0) - (after.heap_used or 0),
            (before.external or 0) - (after.external or 0),
            before.rss - after.rss,
            seconds,
        )

    def is_worthwhile(self) -> bool:
        """Return True if memory has changed since the last collection and collections take at most 1 % of the time."""
        moved = gc.get_count()[2] > 0 or abs(process_memory().rss - self._last_rss) > MIB
        return moved and self._clock() >= self._not_before


def tune_malloc() -> None:
    """Configure malloc and the thread stacks of this process. Call before any thread starts.

    Stacks are small, because RLIMIT_DATA counts all of each. One arena, and a fixed size above which a block is a separate
    mapping, let freed memory return to the kernel. asyncio reads into blocks of 256 KiB, which stay below that size.
    """
    import threading

    threading.stack_size(512 * 1024)
    if _libc is not None and hasattr(_libc, "mallopt"):
        _libc.mallopt(-8, 1)  # M_ARENA_MAX
        _libc.mallopt(-3, 512 * 1024)  # M_MMAP_THRESHOLD
        _libc.mallopt(-1, 2 * MIB)  # M_TRIM_THRESHOLD


def read_memory_stats() -> MemoryStats:
    """Read all statistics."""
    used, total = _heap()
    return MemoryStats(process_memory().rss, used, total, _external())


class _Mallinfo2(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def _load_libc() -> ctypes.CDLL | None:
    """Return the C library. musl and macOS have neither mallinfo2 nor malloc_trim."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallinfo2"):
            libc.mallinfo2.restype = _Mallinfo2
        return libc
    except OSError:
        return None


_libc = _load_libc()


def _trim() -> None:
    if _libc is not None and hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


def _external() -> int | None:
    if _libc is None or not hasattr(_libc, "mallinfo2"):
        return None
    info = _libc.mallinfo2()
    return int(info.uordblks + info.hblkhd)


def _free_in_malloc() -> int:
    return int(_libc.mallinfo2().fordblks) if _libc is not None and hasattr(_libc, "mallinfo2") else 0


_IN_USE = re.compile(rb"# bytes in allocated blocks\s*=\s*([\d,]+)")
_ARENAS = re.compile(rb"arenas \* \d+ bytes/arena\s*=\s*([\d,]+)")


def _heap() -> tuple[int | None, int | None]:
    """Return the bytes in pymalloc's blocks and in its arenas."""
    text = _malloc_stats()
    used, total = _IN_USE.search(text), _ARENAS.search(text)
    if used is None or total is None:
        return None, None
    return int(used[1].replace(b",", b"")), int(total[1].replace(b",", b""))


def _malloc_stats() -> bytes:
    """Return the output of sys._debugmallocstats.

    CPython prints it to descriptor 2 only, which is redirected to a file in memory for that time. The log uses a duplicate.
    """
    if not hasattr(sys, "_debugmallocstats") or not hasattr(os, "memfd_create"):
        return b""
    try:
        saved, file = os.dup(2), os.memfd_create("malloc-stats")
    except OSError:
        return b""
    try:
        os.dup2(file, 2)
        try:
            sys._debugmallocstats()
        finally:
            os.dup2(saved, 2)
        return os.pread(file, os.fstat(file).st_size, 0)
    finally:
        os.close(saved)
        os.close(file)
