"""The threads and asyncio tasks of this process."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..coroutines import frames_of
from .compare import Resource
from .source_locations import is_user_code, relative_path

if TYPE_CHECKING:
    import asyncio

# The threads of the plugin, and those that an event loop keeps for as long as it lives.
OWN_THREADS = re.compile(r"(pytest-)?resilience-|asyncio_\d+$|AnyIO worker thread|Trio thread \d+$")
RUNNER_TASKS = re.compile(r"TestRunner\._")  # a task of anyio, which waits while a test runs
UNNAMED_TASK = re.compile(r"Task-\d+$")


def threads() -> list[Resource]:
    """Return the running threads that Python started, without those of the plugin."""
    return [
        Resource("thread", thread.name, thread.native_id, thread)
        for thread in threading.enumerate()
        if not OWN_THREADS.match(thread.name)
        and type(thread).__name__ != "_DummyThread"  # a thread of C code that has called Python
    ]


def tasks(loops: Iterable[asyncio.AbstractEventLoop] = (), *, excluded: Container[object] = ()) -> list[Resource]:
    """Return the pending tasks of event loops that are not closed.

    Args:
        loops: loops to search, beside the one that runs in this thread. Before 3.14, Python lists all loops that have tasks.
        excluded: loops to leave out.
    """
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return []
    known = {*loops, *(task.get_loop() for task in _pending_tasks())}
    if (running := asyncio._get_running_loop()) is not None:
        known.add(running)
    return [
        Resource("task", task_name(task), id(task), task)
        for loop in known
        if loop not in excluded and not loop.is_closed()
        for task in asyncio.all_tasks(loop)
        if not RUNNER_TASKS.match(task_name(task))
    ]


def _pending_tasks() -> list[Any]:
    """Return the tasks in the weak sets of asyncio: `_all_tasks` up to 3.11, then two."""
    module = sys.modules.get("asyncio.tasks")
    found: list[Any] = []
    for name in ("_all_tasks", "_scheduled_tasks", "_eager_tasks"):
        for _ in range(100):
            try:
                found += list(getattr(module, name, ()))
                break
            except RuntimeError:  # another thread has changed the set
                continue
    return found


def task_name(task: asyncio.Task[Any]) -> str:
    """Return the name of a task, or that of its coroutine if the task was not named."""
    name = task.get_name()
    return getattr(task.get_coro(), "__qualname__", name) if UNNAMED_TASK.match(name) else name


def thread_location(thread: threading.Thread, root: Path) -> str:
    """Return the line that a thread executes, preferably of user code, "" if it has ended."""
    frame = sys._current_frames().get(thread.ident or 0)
    return _location(_outer_frames(frame), root)


def task_location(task: asyncio.Task[Any], root: Path) -> str:
    """Return the line at which a task waits, preferably of user code."""
    return _location(reversed(list(frames_of(task.get_coro()))), root)


def _outer_frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _location(innermost_first: Iterable[FrameType], root: Path) -> str:
    frames = list(innermost_first)
    if not frames:
        return ""
    frame = next((each for each in frames if is_user_code(each.f_code.co_filename)), frames[0])
    return f"at {relative_path(frame.f_code.co_filename, root)}:{frame.f_lineno} in {frame.f_code.co_name}"
