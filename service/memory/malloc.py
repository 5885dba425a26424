"""The allocators of CPython and of the C library: their settings, and the bytes that they hold."""

from __future__ import annotations

import ctypes
import os
import re
import sys

MIB = 1 << 20


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


def trim() -> None:
    """Return free pages to the kernel, where the C library can."""
    if _libc is not None and hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


def external_bytes() -> int | None:
    """Return the bytes in use by malloc, or None where it does not report them."""
    if _libc is None or not hasattr(_libc, "mallinfo2"):
        return None
    info = _libc.mallinfo2()
    return int(info.uordblks + info.hblkhd)


def free_bytes() -> int:
    """Return the bytes that malloc holds free."""
    return int(_libc.mallinfo2().fordblks) if _libc is not None and hasattr(_libc, "mallinfo2") else 0


_IN_USE = re.compile(rb"# bytes in allocated blocks\s*=\s*([\d,]+)")
_ARENAS = re.compile(rb"arenas \* \d+ bytes/arena\s*=\s*([\d,]+)")


def heap_bytes() -> tuple[int | None, int | None]:
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
        saved = os.dup(2)
    except OSError:
        return b""
    try:
        file = os.memfd_create("malloc-stats")
    except OSError:
        os.close(saved)
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
