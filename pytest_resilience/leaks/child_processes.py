"""Processes that this process has started: children, what these have started, and what has got away from them (Linux).

A process belongs to a test when it has come since the test started and
- its parents, up to this process, have come since then too. The children of what was there before belong to that: to the service, to a
  server that a session's fixture has started; or
- it was daemonised, so that its parent is gone, but it still has the environment variable that pytest sets for the test, or is a fork
  of this process.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ..redaction import redacted_command
from .compare import Resource
from .source_locations import user_line

PROC = "/proc"
CHILD_VARIABLE = (
    "PYTEST_RESILIENCE_CHILD"  # the supervisor's, in the environment of what it has started; a test compares them
)
MAX_COMMAND_CHARS = 80  # characters of a command
TEST_VARIABLE = "PYTEST_CURRENT_TEST"


class ProcessStat(NamedTuple):
    """A process as the kernel shows it.

    Args:
        pid: its id.
        parent: its parent's id.
        state: such as "S"; "Z" when it has ended.
        started: when it started, in ticks since the machine has.
        origin: what a fork shares with the process that it is a fork of; "" where it may not be seen.
    """

    pid: int
    parent: int
    state: str
    started: int
    origin: str = ""


def process_ids() -> set[int]:
    """Return the ids of all processes; empty off Linux."""
    try:
        return {int(name) for name in os.listdir(PROC) if name.isdigit()}  # noqa: PTH208  # twice in every test: pathlib takes longer
    except OSError:
        return set()


def new_children(before: set[int]) -> list[Resource]:
    """Return the processes of this process that were not there before.

    Args:
        before: the processes that were, as `process_ids` has returned them.
    """
    every = process_ids()
    new = {pid: found for pid in sorted(every - before) if (found := _process(pid)) is not None}
    if not new:
        return []
    mine = {os.getpid(), *_forkservers()}
    me = _process(os.getpid())
    kept = _multiprocessing_helpers()
    resources: list[Resource] = []
    for process in new.values():
        if process.state in "ZX" or process.pid in kept:
            continue
        if _first_old_ancestor(process, new) in mine:
            resources.append(_resource(process, ""))
        elif not _descends_from_us(process.pid) and (daemonised := _daemonised(process, me)):
            resources.append(_resource(process, daemonised))
    return resources


def _process(pid: int) -> ProcessStat | None:
    try:
        text = _read(pid, "stat")
    except OSError:  # it has ended meanwhile
        return None
    fields = text.rpartition(")")[2].split()  # its name may have blanks and brackets
    started, stack = fields[19], fields[25]
    code = fields[45:49] if len(fields) > 48 else []
    origin = " ".join([stack, *code])
    return ProcessStat(pid, int(fields[1]), fields[0], int(started), origin if set(origin) - {"0", " "} else "")


def _read(pid: int, name: str) -> str:
    with open(f"{PROC}/{pid}/{name}", encoding="utf-8", errors="replace") as file:  # noqa: PTH123  # as above
        return file.read()


def _first_old_ancestor(process: ProcessStat, new: dict[int, ProcessStat]) -> int:
    """Return the first of its ancestors that is not new."""
    while process.parent in new:
        process = new[process.parent]
    return process.parent


def _descends_from_us(pid: int) -> bool:
    """True if one of its ancestors is this process: then it belongs to a child that was there before."""
    while pid > 1:
        process = _process(pid)
        if process is None:
            return False
        pid = process.parent
        if pid == os.getpid():
            return True
    return False


def _daemonised(process: ProcessStat, me: ProcessStat | None) -> str:
    """Return how a process that has lost its parent is known to be this test's; "" if it is not."""
    try:
        environment = _read(process.pid, "environ").split("\0")
    except OSError:  # another user's
        return ""
    if any(entry.startswith(f"{CHILD_VARIABLE}=") for entry in environment):
        return ""
    test = os.environ.get(TEST_VARIABLE, "").rpartition(" (")[0]
    if test and any(entry.startswith(f"{TEST_VARIABLE}={test} (") for entry in environment):
        return "daemonised"
    return "a daemonised fork of this process" if me is not None and process.origin == me.origin != "" else ""


def _resource(process: ProcessStat, how: str) -> Resource:
    command = _command(process.pid)
    name = _multiprocessing_name(process.pid) or (os.path.basename(command[0]) if command else "")  # noqa: PTH119  # no path of ours
    return Resource(
        "process", name or "unnamed", (process.pid, process.started), ChildProcess(process.pid, tuple(command), how)
    )


class ChildProcess(NamedTuple):
    """A process that was left behind.

    Args:
        pid: its id.
        command: its command line.
        how: how it got away, if it did.
    """

    pid: int
    command: tuple[str, ...]
    how: str

    def describe(self, root: Path) -> str:
        """Return its id, its command without secrets, and where it was started if tracemalloc has seen that."""
        line = " ".join(" ".join(redacted_command(self.command)).split())
        command = line if len(line) <= MAX_COMMAND_CHARS else line[: MAX_COMMAND_CHARS - 3] + "..."
        return ", ".join(
            filter(None, (f"pid {self.pid}", command and f"command: {command}", self.how, self._origin(root)))
        )

    def _origin(self, root: Path) -> str:
        if not tracemalloc.is_tracing():
            return ""
        for candidate in gc.get_objects():
            if isinstance(candidate, subprocess.Popen) and candidate.pid == self.pid:
                # An attribute that it makes first: of objects with a dictionary, Python 3.11 looks at the wrong address.
                first = getattr(candidate, "_waitpid_lock", candidate)
                place = user_line(tracemalloc.get_object_traceback(first), root)
                return f"started at {place}" if place else ""
        return ""


def _command(pid: int) -> list[str]:
    try:
        return _read(pid, "cmdline").split("\0")[:-1]
    except OSError:  # it has ended meanwhile
        return []


def _multiprocessing_name(pid: int) -> str:
    """Return the name of a child that multiprocessing has started."""
    module = sys.modules.get("multiprocessing.process")
    every: Iterable[Any] = list(getattr(module, "_children", ()))
    return next((str(child.name) for child in every if child.pid == pid), "")


def _forkservers() -> set[int]:
    server = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    return _integers(getattr(server, "_forkserver_pid", None))


def _multiprocessing_helpers() -> set[int]:
    """Return the processes that multiprocessing starts once and keeps."""
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    return _integers(getattr(tracker, "_pid", None)) | _forkservers()


def _integers(*values: object) -> set[int]:
    return {value for value in values if isinstance(value, int)}
