"""The directory of a session, and the removal of the directories of sessions that were killed together with their supervisor."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from ... import supervisor
from ...errors import BackendUnavailable
from .child_environ import python_environ
from .isolated_python import isolated_command

PREFIX = "pytest-resilience-"
# The process of a session and its supervisor hold a shared lock on this file until they exit. Unlike process ids, that works across pid
# namespaces. The supervisor outlives a killed session, and its cleanup needs the files of the directory.
OWNER = supervisor.OWNER
CLEANUP_PLAN = "cleanup.json"  # what a session has created on servers of the user, for backends/external/cleanup.py
SHORTAGES = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
MIN_FREE_BYTES = 512 * 2**20  # bytes; Docker gives containers 64 MiB in /dev/shm


class SessionDirectory:
    """A directory that only this user can enter, with a lock that marks it as in use.

    The paths are chosen before the directory exists, so that the supervisor can be instructed first to delete them.

    Args:
        root: the parent directory; None for `default_root`.

    Attributes:
        path: the directory.
        paths: its path during `create`, and its final path.
        owner: the file that is locked while the directory is in use.
    """

    def __init__(self, root: Path | None = None) -> None:
        root = root or default_root()
        self.path = root / f"{PREFIX}{secrets.token_hex(6)}"
        self._unpublished = root / f".{self.path.name}"
        self.paths = self._unpublished, self.path
        self.owner = self.path / OWNER
        self._owner: TextIO | None = None

    def create(self) -> None:
        """Create the directory."""
        self._unpublished.mkdir(mode=0o700)
        self._owner = os.fdopen(os.open(self._unpublished / OWNER, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w")
        fcntl.flock(self._owner, fcntl.LOCK_SH)
        self._owner.write(f"{os.getpid()}\n")
        self._owner.flush()
        self._unpublished.rename(self.path)  # `remove_stale` sees the directory only after it is locked

    def release(self) -> None:
        """Release the lock of this process. The supervisor deletes the directory."""
        if self._owner is not None:
            self._owner.close()


def default_root() -> Path:
    """Return /dev/shm if it has room for a few data directories, else the directory for temporary files."""
    memory = Path("/dev/shm")
    try:
        room = os.statvfs(memory)
        if os.access(memory, os.W_OK | os.X_OK) and room.f_bavail * room.f_frsize >= MIN_FREE_BYTES:
            return memory
    except OSError:
        pass
    return Path(tempfile.gettempdir())


def unusable_directory(directory: Path | None, problem: OSError) -> BackendUnavailable:
    """Return the error for an unusable session directory, or for a machine without free processes, memory or descriptors.

    Args:
        directory: the directory; None if there was no directory to create it in.
        problem: the error of the system call.
    """
    if problem.errno in SHORTAGES:
        return BackendUnavailable(
            f"this machine is short of processes, memory or descriptors: {type(problem).__name__}: {problem}"
        )
    place = (
        f"the directory of this session, {directory}, can't be used" if directory else "there is no place for sessions"
    )
    return BackendUnavailable(
        f"{place}: {type(problem).__name__}: {problem}; make room there, or let TMPDIR name a directory with 512 MB"
    )


@contextlib.contextmanager
def private_umask() -> Iterator[None]:
    """Create files for this user only, with all permissions even if the umask would remove them."""
    before = os.umask(0o077)
    if not before & 0o700:
        os.umask(before)
    try:
        yield
    finally:
        os.umask(before)


def remove_stale(roots: list[Path] | None = None) -> list[Path]:
    """Delete the directories of this user's sessions that were killed together with their supervisor.

    Objects that such a session has created on servers of the user are removed first.

    Returns:
        The deleted directories.
    """
    removed = []
    for root in roots or [Path("/dev/shm"), Path(tempfile.gettempdir())]:
        for path in root.glob(f"{PREFIX}*"):
            if _remove_if_stale(path):
                removed.append(path)
    return removed


def is_locked(owner: Path) -> bool:
    """True if a session or its supervisor holds the lock on `owner`, the file `OWNER` of its directory."""
    try:
        with owner.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:  # locked, or not readable for this user
        return True
    return False


def _remove_if_stale(path: Path) -> bool:
    try:
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            return False
        with (path / OWNER).open("r+") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for pid_file in path.glob("*/postmaster.pid"):
                supervisor.release_shared_memory(str(pid_file))
            _run_cleanup(path / CLEANUP_PLAN)
            supervisor.remove_tree(str(path))
            return True
    except OSError:  # in use, being deleted, or not the directory of a session
        return False


def _run_cleanup(plan: Path) -> None:
    """Run the cleanup of a session with the external backend, if it has left the plan for it."""
    if not plan.exists():
        return
    with contextlib.suppress(
        subprocess.TimeoutExpired
    ):  # a server that is gone must not keep this session from starting
        subprocess.run(
            isolated_command("backends.external.cleanup", str(plan)),
            env=python_environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=supervisor.EXIT_COMMAND_TIMEOUT,
            check=False,
        )
