"""This process: its file descriptors (Linux), threads and tasks, and where they come from."""

from __future__ import annotations

import functools
import gc
import io
import os
import re
import socket
import sys
import sysconfig
import threading
import tracemalloc
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..coroutines import frames_of
from .compare import Resource

if TYPE_CHECKING:
    import asyncio

DESCRIPTORS = "/proc/self/fd"
STANDARD = 2  # stdin, stdout and stderr are always there, and pytest changes what they are
# Threads of ours, and those that an event loop keeps for as long as it lives.
MACHINERY = re.compile(r"(pytest-)?resilience-|asyncio_\d+$|AnyIO worker thread|Trio thread \d+$")
MACHINERY_TASK = re.compile(r"TestRunner\._")  # anyio's, which waits while a test runs
BY_NUMBER = re.compile(r"Task-\d+$")


# -- file descriptors


class Descriptor(NamedTuple):
    """An open file or socket.

    Args:
        number: the descriptor.
        target: what /proc says that it is: a path, "socket:[INODE]", "pipe:[INODE]".
        local: a socket's own address.
        remote: the other end's; None where it has none.
    """

    number: int
    target: str
    local: Any = None
    remote: Any = None

    @property
    def is_socket(self) -> bool:
        return self.target.startswith("socket:")

    @property
    def is_unix(self) -> bool:
        return self.is_socket and not isinstance(self.local, tuple)


def descriptors() -> list[Descriptor]:
    """What is open now; empty where the system does not say (off Linux)."""
    try:
        numbers = [int(name) for name in os.listdir(DESCRIPTORS)]  # noqa: PTH208  # twice in every test: pathlib takes longer
    except OSError:
        return []
    found = []
    for number in numbers:
        try:
            target = os.readlink(f"{DESCRIPTORS}/{number}") if number > STANDARD else ""  # noqa: PTH115  # the same
        except OSError:  # the one that read the list
            continue
        if target:
            ends = _ends(number) if target.startswith("socket:") else (None, None)
            found.append(Descriptor(number, target, *ends))
    return found


def _ends(number: int) -> tuple[Any, Any]:
    """A socket's local and remote address, asked through a copy, so that its owner's stays as it is."""
    try:
        copy = os.dup(number)
    except OSError:
        return None, None
    try:
        sock = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        return None, None
    with sock:
        try:
            return sock.getsockname(), sock.getpeername()
        except OSError:
            return sock.getsockname(), None


def descriptor_trace(descriptor: Descriptor) -> Resource:
    """A descriptor, by the name that a marker can give it: socket:HOST:PORT of the other end, fd:/path, fd:pipe."""
    if not descriptor.is_socket:
        name = re.sub(r"^anon_inode:\[?([^]]*)]?$|^(\w+):\[\d+]$", r"\1\2", descriptor.target)
        return Resource("fd", name, (descriptor.number, descriptor.target), descriptor)
    address = descriptor.remote or descriptor.local
    if descriptor.is_unix:
        path = os.fsdecode(address) if address else ""
        name = f"unix:{path}" if path else "unix"
    else:
        name = f"{address[0]}:{address[1]}"
    return Resource("socket", name, descriptor.target, descriptor)


def opened_at(descriptor: Descriptor, root: Path) -> str:
    """Where it was opened, if tracemalloc has seen it."""
    if not tracemalloc.is_tracing():
        return ""
    kinds = socket.socket, io.FileIO
    for candidate in gc.get_objects():
        try:
            if isinstance(candidate, kinds) and candidate.fileno() == descriptor.number:
                trace = tracemalloc.get_object_traceback(candidate)
                break
        except (ValueError, ReferenceError):  # it is closed, or gone
            continue
    else:
        return ""
    place = shown_traceback(trace, root)
    return f"opened at {place}" if place else ""


def shown_traceback(trace: tracemalloc.Traceback | None, root: Path) -> str:
    """Return the file and line of a traceback where a user's code was last; "" if there is none."""
    if not trace:
        return ""
    newest_first = [(frame.filename, frame.lineno) for frame in reversed(trace)]
    file, line = next((each for each in newest_first if is_of_users(each[0])), newest_first[0])
    return f"{shown(file, root)}:{line}"


def kept_by_python() -> set[int]:
    """Descriptors that multiprocessing opens once for the whole process and keeps."""
    tracker = sys.modules.get("multiprocessing.resource_tracker")
    forkserver = sys.modules.get("multiprocessing.forkserver")
    kept = [getattr(getattr(tracker, "_resource_tracker", None), "_fd", None)]
    kept += [getattr(getattr(forkserver, "_forkserver", None), name, None) for name in ("_forkserver_alive_fd",)]
    return {number for number in kept if isinstance(number, int)}


# -- threads and tasks


def threads() -> list[Resource]:
    """Threads that Python started and that have not ended, ours left out."""
    return [
        Resource("thread", thread.name, thread.native_id, thread)
        for thread in threading.enumerate()
        if not MACHINERY.match(thread.name) and type(thread).__name__ != "_DummyThread"  # somebody else's, seen once
    ]


def tasks(loops: Iterable[asyncio.AbstractEventLoop] = (), *, ours: Container[object] = ()) -> list[Resource]:
    """Tasks that are pending, on loops that are not closed.

    Args:
        loops: loops that are known; Python before 3.14 knows all that have tasks.
        ours: loops to leave out.
    """
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return []
    known = {*loops, *(task.get_loop() for task in _registered())}
    return [
        Resource("task", task_name(task), id(task), task)
        for loop in known
        if loop not in ours and not loop.is_closed()
        for task in asyncio.all_tasks(loop)
        if not MACHINERY_TASK.match(task_name(task))
    ]


def _registered() -> list[Any]:
    """The tasks that Python's own weak sets have: `_all_tasks` up to 3.11, then two."""
    module = sys.modules.get("asyncio.tasks")
    found: list[Any] = []
    for name in ("_all_tasks", "_scheduled_tasks", "_eager_tasks"):
        for _ in range(100):
            try:
                found += list(getattr(module, name, ()))
                break
            except RuntimeError:  # another thread made or ended one meanwhile
                continue
    return found


def task_name(task: asyncio.Task[Any]) -> str:
    """Its name, or its coroutine's where nobody gave it one."""
    name = task.get_name()
    return getattr(task.get_coro(), "__qualname__", name) if BY_NUMBER.match(name) else name


def thread_stands(thread: threading.Thread, root: Path) -> str:
    """Where a thread is now."""
    frame = sys._current_frames().get(thread.ident or 0)
    return _stands(_outwards(frame), root)


def task_stands(task: asyncio.Task[Any], root: Path) -> str:
    """Where a task waits."""
    return _stands(reversed(list(frames_of(task.get_coro()))), root)


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _stands(innermost_first: Iterable[FrameType], root: Path) -> str:
    frames = list(innermost_first)
    if not frames:
        return ""
    frame = next((each for each in frames if is_of_users(each.f_code.co_filename)), frames[0])
    return f"stands at {shown(frame.f_code.co_filename, root)}:{frame.f_lineno} in {frame.f_code.co_name}"


# -- files


@functools.cache
def _not_of_users() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    package = str(Path(__file__).parent.parent)
    return (*{paths[name] + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")}, package + os.sep, "<")


def is_of_users(file: str) -> bool:
    """Whether code is neither Python's nor an installed package's nor ours."""
    return not file.startswith(_not_of_users())


def shown(file: str, root: Path) -> str:
    """A path as messages show it: from the root of the tests, if it is below."""
    prefix = str(root) + os.sep
    return file.removeprefix(prefix)
