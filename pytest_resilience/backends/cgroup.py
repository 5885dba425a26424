"""A control group of our own around one process, with a limit of memory (Linux, where we may make one).

What a process holds already stays on the books of its old group, so the limit is what it may still take. When it takes more the kernel
kills it. The keeper runs `main` when a session ends, however it ends: so this file imports nothing of the package.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable

PREFIX = "pytest-resilience-"
LEAST = 1 << 20  # bytes; below that the kernel kills the process for a system call
TRIES = 200  # to remove a group, 10 ms apart: its process may be on its way out


class NotAllowed(Exception):
    """There is no such thing here; the message says why, in a few words."""


class Group:
    """A group for one process.

    Args:
        pid: the process.
        limit: bytes that it may still take.

    Raises:
        NotAllowed: this platform or user can't.
    """

    def __init__(self, pid: int, limit: int) -> None:
        self._pid = pid
        parent, file = _find(pid)
        self.path = os.path.join(parent, f"{PREFIX}{os.getpid()}-{pid}")  # noqa: PTH118  # no pathlib here
        try:
            os.mkdir(self.path)  # noqa: PTH102  # the same
        except OSError as error:
            raise NotAllowed(f"no control group can be made at {parent} ({error.strerror})") from None
        try:
            _write(f"{self.path}/{file}", max(limit, LEAST))
        except OSError as error:
            remove(self.path)
            raise NotAllowed(f"{self.path} takes no limit of memory ({error.strerror})") from None

    def enter(self) -> Callable[[], None]:
        """Put the process into the group; returns what takes it out again and removes the group."""
        _write(f"{self.path}/cgroup.procs", self._pid)

        def leave() -> None:
            _evict(self.path)
            remove(self.path)

        return leave


def _find(pid: int) -> tuple[str, str]:
    """The group that a process is in, as a directory, and the file that holds the limit."""
    if not sys.platform.startswith("linux"):
        raise NotAllowed("only Linux has control groups")
    with open("/proc/self/mounts") as file:  # noqa: PTH123  # no pathlib here
        mounts = [line.split() for line in file]
    with open(f"/proc/{pid}/cgroup") as file:  # noqa: PTH123  # the same
        groups = {line.split(":")[1]: line.rstrip("\n").split(":", 2)[2] for line in file}
    for _, place, kind, options, *_ in mounts:
        if kind == "cgroup" and "memory" in options.split(","):
            return place + groups.get("memory", "/").rstrip("/"), "memory.limit_in_bytes"
        if kind == "cgroup2" and "" in groups:
            directory = place + groups[""].rstrip("/")
            try:
                with open(f"{directory}/cgroup.subtree_control") as file:  # noqa: PTH123  # the same
                    if "memory" in file.read().split():
                        return directory, "memory.max"
            except OSError:
                continue
    raise NotAllowed("no control group here hands on the limit of memory")


def remove(path: str) -> None:
    """Remove a group; whoever is still in it goes back to where the group was made. Nothing when it is gone."""
    for _ in range(TRIES):
        try:
            os.rmdir(path)  # noqa: PTH106  # no pathlib here
        except FileNotFoundError:
            return
        except OSError:
            _evict(path)
            select.select([], [], [], 0.01)  # `time` is for clock.py, which can't be had here
        else:
            return


def _evict(path: str) -> None:
    try:
        with open(f"{path}/cgroup.procs") as file:  # noqa: PTH123  # no pathlib here
            for pid in file.read().split():
                _write(f"{os.path.dirname(path)}/cgroup.procs", int(pid))  # noqa: PTH120  # the same
    except OSError:
        pass  # it has ended meanwhile, as has the group perhaps


def _write(path: str, value: int) -> None:
    with open(path, "w") as file:  # noqa: PTH123  # no pathlib here
        file.write(str(value))


def main(path: str) -> None:
    """Remove what a session left."""
    remove(path)
