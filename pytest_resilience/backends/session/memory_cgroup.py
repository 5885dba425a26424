"""A memory cgroup with a limit, around a tree of processes (Linux, where a cgroup is delegated to this user).

Memory that the processes already use stays charged to their old cgroup, so the limit applies to new allocations only.
Beyond the limit the kernel kills one of the processes.
The supervisor runs `main` when a session ends, so this file imports nothing of the package.
"""

from __future__ import annotations

import os
import select
import sys

PREFIX = "pytest-resilience-"
MIN_LIMIT_BYTES = 1 << 20  # bytes; below that the kernel kills the process for a system call
NEAR_LIMIT = 0.9  # of the limit: whoever came so near has met it, as a service does that watches the limit and gives memory back in time
LIMIT_FILES = {1: "memory.limit_in_bytes", 2: "memory.max"}  # by the version of control groups
REMOVE_ATTEMPTS = 200  # to remove a group, 10 ms apart: its process may be on its way out


class CgroupUnavailable(Exception):
    """There is no such thing here; the message says why, in a few words."""


class MemoryCgroup:
    """A group for a tree of processes, made beside them: in the group that the first one is in.

    Args:
        pid: the first process.
        limit: bytes that all of them may still take.

    Raises:
        CgroupUnavailable: this platform or user can't.
    """

    def __init__(self, pid: int, limit: int) -> None:
        parent, self._version = _find_parent(pid)
        self._limit = max(limit, MIN_LIMIT_BYTES)
        self.path = os.path.join(parent, f"{PREFIX}{os.getpid()}-{pid}")  # noqa: PTH118  # no pathlib here
        try:
            os.mkdir(self.path)  # noqa: PTH102  # the same
        except OSError as error:
            raise CgroupUnavailable(f"no control group can be made at {parent} ({error.strerror})") from None
        try:
            _write(f"{self.path}/{LIMIT_FILES[self._version]}", self._limit)
        except OSError as error:
            remove_group(self.path)
            raise CgroupUnavailable(f"{self.path} takes no limit of memory ({error.strerror})") from None

    def add(self, pid: int) -> bool:
        """Put a process into the group; its children will be born there. False when it is there already, or has gone.

        Raises:
            CgroupUnavailable: it can't be moved.
        """
        if pid in self._members():
            return False
        try:
            _write(f"{self.path}/cgroup.procs", pid)
        except ProcessLookupError:
            return False
        except OSError as error:
            raise CgroupUnavailable(f"process {pid} can't be moved to {self.path} ({error.strerror})") from None
        return True

    def affected_processes(self) -> int | None:
        """Count the processes that the kernel killed or, when the group came within a tenth of its limit, those in it.

        Returns:
            0 when neither happened; None where the kernel does not say.
        """
        try:
            killed, hits, peak = self._events()
        except (OSError, KeyError, ValueError):
            return None
        if killed:
            return killed
        if hits or (peak is not None and peak >= NEAR_LIMIT * self._limit):
            return max(1, len(self._members()))
        return 0 if peak is not None else None

    def _events(self) -> tuple[int, int, int | None]:
        """How many processes were killed, how often the limit was hit, and the most that was ever taken."""
        if self._version == 1:
            killed = int(_read_table(f"{self.path}/memory.oom_control")["oom_kill"])
            return (
                killed,
                int(_read(f"{self.path}/memory.failcnt")),
                int(_read(f"{self.path}/memory.max_usage_in_bytes")),
            )
        events = _read_table(f"{self.path}/memory.events")
        try:
            peak = int(_read(f"{self.path}/memory.peak"))
        except FileNotFoundError:  # before Linux 5.19
            peak = None
        return int(events["oom_kill"]), int(events["max"]), peak

    def _members(self) -> list[int]:
        return [int(pid) for pid in _read(f"{self.path}/cgroup.procs").split()]

    def remove(self) -> None:
        """Take all processes out of the group and remove it."""
        _move_processes_to_parent(self.path)
        remove_group(self.path)


def _find_parent(pid: int) -> tuple[str, int]:
    """The group that a process is in, as a directory, and the version of control groups that it belongs to."""
    if not sys.platform.startswith("linux"):
        raise CgroupUnavailable("only Linux has control groups")
    with open("/proc/self/mounts") as file:  # noqa: PTH123  # no pathlib here
        mounts = [line.split() for line in file]
    with open(f"/proc/{pid}/cgroup") as file:  # noqa: PTH123  # the same
        groups = {line.split(":")[1]: line.rstrip("\n").split(":", 2)[2] for line in file}
    for _, place, kind, options, *_ in mounts:
        if kind == "cgroup" and "memory" in options.split(","):
            return place + groups.get("memory", "/").rstrip("/"), 1
        if kind == "cgroup2" and "" in groups:
            directory = place + groups[""].rstrip("/")
            try:
                with open(f"{directory}/cgroup.subtree_control") as file:  # noqa: PTH123  # the same
                    if "memory" in file.read().split():
                        return directory, 2
            except OSError:
                continue
    raise CgroupUnavailable("no control group here hands on the limit of memory")


def remove_group(path: str) -> None:
    """Remove a group and the groups that a process has made in it. Processes that are still there go back to where the group was made."""
    for _ in range(REMOVE_ATTEMPTS):
        for inner in _child_groups(path):
            remove_group(inner)
        try:
            os.rmdir(path)  # noqa: PTH106  # no pathlib here
        except FileNotFoundError:
            return
        except OSError:
            _move_processes_to_parent(path)
            select.select([], [], [], 0.01)  # `time` is for clock.py, which can't be had here
        else:
            return


def _child_groups(path: str) -> list[str]:
    """The groups directly in a group."""
    try:
        with os.scandir(path) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []  # it is gone


def _move_processes_to_parent(path: str) -> None:
    try:
        with open(f"{path}/cgroup.procs") as file:  # noqa: PTH123  # no pathlib here
            for pid in file.read().split():
                _write(f"{os.path.dirname(path)}/cgroup.procs", int(pid))  # noqa: PTH120  # the same
    except OSError:
        pass  # it has ended meanwhile, as has the group perhaps


def _read(path: str) -> str:
    with open(path) as file:  # noqa: PTH123  # no pathlib here
        return file.read()


def _read_table(path: str) -> dict[str, str]:
    """A file of lines such as "oom_kill 0"."""
    return dict(line.split() for line in _read(path).splitlines())


def _write(path: str, value: int) -> None:
    with open(path, "w") as file:  # noqa: PTH123  # no pathlib here
        file.write(str(value))


def main(path: str) -> None:
    """Remove what a session left."""
    remove_group(path)
