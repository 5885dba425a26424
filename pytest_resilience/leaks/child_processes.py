"""The descendants of this process (Linux), daemons included.

A process belongs to a test if it was started after the begin of the test and
- all its ancestors up to this process were started after that too. Children of an older process belong to that one, such as
  the service or a server that a fixture of the session has started; or
- it is a daemon, so its parent has ended, and it has the environment variable that pytest sets for the test, or is a fork of
  this process.
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
CHILD_VARIABLE = "PYTEST_RESILIENCE_CHILD"  # set by the supervisor in its children; a test compares the names
MAX_COMMAND_CHARS = 80  # of a command in a report
TEST_VARIABLE = "PYTEST_CURRENT_TEST"


class ProcessStat(NamedTuple):
    """A process, as /proc shows it.

    Args:
        pid: the process id.
        parent: the id of the parent.
        state: the state, such as "S"; "Z" after its end.
        started: ticks from the start of the machine to that of the process.
        origin: the addresses that a fork shares with its original; "" where they are hidden.
    """

    pid: int
    parent: int
    state: str
    started: int
    origin: str = ""


def process_ids() -> set[int]:
    """Return the ids of all processes. Off Linux, there are none."""
    try:
        return {int(name) for name in os.listdir(PROC) if name.isdigit()}  # noqa: PTH208  # twice in every test: pathlib takes longer
    except OSError:
        return set()


def new_children(before: set[int]) -> list[Resource]:
    """Return the new descendants of this process.

    Args:
        before: the ids of the old processes, from `process_ids`.
    """
    new = {pid: found for pid in sorted(process_ids() - before) if (found := _process(pid)) is not None}
    if not new:
        return []
    own = {os.getpid(), *_forkservers()}
    reapers = _reapers()
    me = _process(os.getpid())
    helpers = _multiprocessing_helpers()
    resources: list[Resource] = []
    for process in new.values():
        if process.state in "ZX" or process.pid in helpers:
            continue
        ancestor = _first_old_ancestor(process, new)
        if ancestor in own:
            resources.append(_resource(process, ""))
        elif ancestor in reapers and (daemon := _as_daemon(process, me)):
            resources.append(_resource(process, daemon))
    return resources


def _process(pid: int) -> ProcessStat | None:
    try:
        text = _read(pid, "stat")
    except OSError:  # the process has ended
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may have blanks and brackets
    started, stack = fields[19], fields[25]
    code = fields[45:49] if len(fields) > 48 else []
    origin = " ".join([stack, *code])
    return ProcessStat(pid, int(fields[1]), fields[0], int(started), origin if set(origin) - {"0", " "} else "")


def _read(pid: int, name: str) -> str:
    with open(f"{PROC}/{pid}/{name}", encoding="utf-8", errors="replace") as file:  # noqa: PTH123  # as above
        return file.read()


def _first_old_ancestor(process: ProcessStat, new: dict[int, ProcessStat]) -> int:
    """Return the id of the nearest ancestor that is not new."""
    while process.parent in new:
        process = new[process.parent]
    return process.parent


def _reapers() -> set[int]:
    """Return init and the ancestors of this process, which may become parents of its orphans."""
    reapers, pid = {1}, os.getpid()
    while (process := _process(pid)) is not None and process.parent > 0:
        pid = process.parent
        reapers.add(pid)
    return reapers


def _as_daemon(process: ProcessStat, me: ProcessStat | None) -> str:
    """Return a description of a process without a parent, if it belongs to this test, else ""."""
    try:
        environment = _read(process.pid, "environ").split("\0")
    except OSError:  # of another user
        return ""
    if any(entry.startswith(f"{CHILD_VARIABLE}=") for entry in environment):
        return ""
    test = os.environ.get(TEST_VARIABLE, "").rpartition(" (")[0]
    if test and any(entry.startswith(f"{TEST_VARIABLE}={test} (") for entry in environment):
        return "daemonised"
    return "a daemonised fork of this process" if me is not None and process.origin == me.origin != "" else ""


def _resource(process: ProcessStat, daemon: str) -> Resource:
    command = _command(process.pid)
    name = _multiprocessing_name(process.pid) or (os.path.basename(command[0]) if command else "")  # noqa: PTH119  # not a path of this machine's file system
    return Resource(
        "process", name or "unnamed", (process.pid, process.started), ChildProcess(process.pid, tuple(command), daemon)
    )


class ChildProcess(NamedTuple):
    """A process that a test has leaked.

    Args:
        pid: the process id.
        command: the command line.
        daemon: a description of a daemon; "" for another process.
    """

    pid: int
    command: tuple[str, ...]
    daemon: str

    def describe(self, root: Path) -> str:
        """Return the id, the command without secrets, and the line that started it if tracemalloc has traced it."""
        line = " ".join(" ".join(redacted_command(self.command)).split())
        command = line if len(line) <= MAX_COMMAND_CHARS else line[: MAX_COMMAND_CHARS - 3] + "..."
        return ", ".join(
            filter(None, (f"pid {self.pid}", command and f"command: {command}", self.daemon, self._origin(root)))
        )

    def _origin(self, root: Path) -> str:
        if not tracemalloc.is_tracing():
            return ""
        for candidate in gc.get_objects():
            if isinstance(candidate, subprocess.Popen) and candidate.pid == self.pid:
                # The first attribute of Popen: Python 3.11 looks up objects with a dictionary by a wrong address.
                first = getattr(candidate, "_waitpid_lock", candidate)
                place = user_line(tracemalloc.get_object_traceback(first), root)
                return f"started at {place}" if place else ""
        return ""


def _command(pid: int) -> list[str]:
    try:
        return _read(pid, "cmdline").split("\0")[:-1]
    except OSError:  # the process has ended
        return []


def _multiprocessing_name(pid: int) -> str:
    """Return the name of a child that multiprocessing has started."""
    module = sys.modules.get("multiprocessing.process")
    children: Iterable[Any] = list(getattr(module, "_children", ()))
    return next((str(child.name) for child in children if child.pid == pid), "")


def _forkservers() -> set[int]:
    server = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    return _integers(getattr(server, "_forkserver_pid", None))


def _multiprocessing_helpers() -> set[int]:
    """Return the processes that multiprocessing starts once and keeps."""
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    return _integers(getattr(tracker, "_pid", None)) | _forkservers()


def _integers(*values: object) -> set[int]:
    return {value for value in values if isinstance(value, int)}
