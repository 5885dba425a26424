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
MIN_LIMIT_BYTES = 1 << 20  # below that, the kernel kills a process for a system call
# A process that used this part of the limit has met it. A service may watch the limit and free memory in time.
NEAR_LIMIT = 0.9
LIMIT_FILES = {1: "memory.limit_in_bytes", 2: "memory.max"}  # by the version of control groups
REMOVE_ATTEMPTS = 200  # to remove a group, 10 ms apart, because its last process may still be exiting


class CgroupUnavailable(Exception):
    """No memory cgroup can be used here. The message has the reason in a few words."""


class MemoryCgroup:
    """A memory cgroup for a tree of processes, created in the cgroup of the first one.

    Args:
        pid: the first process.
        limit: memory that all of them together may still allocate, in bytes.

    Raises:
        CgroupUnavailable: this platform or user can't create one.
    """

    def __init__(self, pid: int, limit: int) -> None:
        parent, self._version = _find_parent(pid)
        self._limit = max(limit, MIN_LIMIT_BYTES)
        self.path = os.path.join(parent, f"{PREFIX}{os.getpid()}-{pid}")  # noqa: PTH118  # no pathlib here
        try:
            os.mkdir(self.path)  # noqa: PTH102  # no pathlib here
        except OSError as error:
            raise CgroupUnavailable(f"no cgroup can be created in {parent} ({error.strerror})") from None
        try:
            _write(f"{self.path}/{LIMIT_FILES[self._version]}", self._limit)
        except OSError as error:
            remove_group(self.path)
            raise CgroupUnavailable(f"{self.path} accepts no memory limit ({error.strerror})") from None

    def add(self, pid: int) -> bool:
        """Move a process into the group, in which its new children start. Return False if it is a member already, or has exited.

        Raises:
            CgroupUnavailable: the process can't be moved.
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
        """Return the number of processes that the kernel killed, or of all members if the group used nine tenths of its limit.

        Returns:
            0 if neither happened, and None where the kernel does not report it.
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
        """Return the number of killed processes, the number of hits of the limit, and the peak of memory in bytes."""
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
        """Move all processes out of the group and remove it."""
        _move_processes_to_parent(self.path)
        remove_group(self.path)


def _find_parent(pid: int) -> tuple[str, int]:
    """Return the directory of the memory cgroup of a process, and its cgroup version."""
    if not sys.platform.startswith("linux"):
        raise CgroupUnavailable("only Linux has cgroups")
    with open("/proc/self/mounts") as file:  # noqa: PTH123  # no pathlib here
        mounts = [line.split() for line in file]
    with open(f"/proc/{pid}/cgroup") as file:  # noqa: PTH123  # no pathlib here
        groups = {line.split(":")[1]: line.rstrip("\n").split(":", 2)[2] for line in file}
    for _, mount_point, kind, options, *_ in mounts:
        if kind == "cgroup" and "memory" in options.split(","):
            return mount_point + groups.get("memory", "/").rstrip("/"), 1
        if kind == "cgroup2" and "" in groups:
            directory = mount_point + groups[""].rstrip("/")
            try:
                with open(f"{directory}/cgroup.subtree_control") as file:  # noqa: PTH123  # no pathlib here
                    if "memory" in file.read().split():
                        return directory, 2
            except OSError:
                continue
    raise CgroupUnavailable("no cgroup with a memory controller is delegated to this user")


def remove_group(path: str) -> None:
    """Remove a group and the groups inside it. Processes that are still members move to the parent group."""
    for _ in range(REMOVE_ATTEMPTS):
        for inner in _child_groups(path):
            remove_group(inner)
        try:
            os.rmdir(path)  # noqa: PTH106  # no pathlib here
        except FileNotFoundError:
            return
        except OSError:
            _move_processes_to_parent(path)
            select.select([], [], [], 0.01)  # `time` is for clock.py, which this file can't import
        else:
            return


def _child_groups(path: str) -> list[str]:
    """Return the groups directly inside a group."""
    try:
        with os.scandir(path) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []  # the group has been removed


def _move_processes_to_parent(path: str) -> None:
    try:
        with open(f"{path}/cgroup.procs") as file:  # noqa: PTH123  # no pathlib here
            for pid in file.read().split():
                _write(f"{os.path.dirname(path)}/cgroup.procs", int(pid))  # noqa: PTH120  # no pathlib here
    except OSError:
        pass  # the process has exited, and perhaps the group has been removed


def _read(path: str) -> str:
    with open(path) as file:  # noqa: PTH123  # no pathlib here
        return file.read()


def _read_table(path: str) -> dict[str, str]:
    """Return the values of a file with lines such as "oom_kill 0"."""
    return dict(line.split() for line in _read(path).splitlines())


def _write(path: str, value: int) -> None:
    with open(path, "w") as file:  # noqa: PTH123  # no pathlib here
        file.write(str(value))


def main(path: str) -> None:
    """Remove the group of a session that has ended."""
    remove_group(path)
