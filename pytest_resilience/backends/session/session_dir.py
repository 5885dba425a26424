"""Directories for one session, and the removal of those whose session was killed together with its supervisor."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from ... import supervisor
from ...errors import BackendUnavailable

PREFIX = "pytest-resilience-"
OWNER = (
    supervisor.OWNER
)  # locked by the process that the directory belongs to for as long as that lives; works across pid namespaces
SHORTAGES = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
MIN_FREE_BYTES = 512 * 2**20  # bytes; Docker gives containers 64 MiB in /dev/shm


class SessionDirectory:
    """A directory that only we can enter, marked as in use.

    Its names are known before it is made, so that somebody can be told to delete it who outlives us.

    Args:
        root: where; None for memory where there is room, else the directory for temporary files.

    Attributes:
        path: the directory.
        paths: where it may be found while it is made, and then.
    """

    def __init__(self, root: Path | None = None) -> None:
        root = root or default_root()
        self.path = root / f"{PREFIX}{secrets.token_hex(6)}"
        self._unpublished = root / f".{self.path.name}"
        self.paths = self._unpublished, self.path
        self._owner: TextIO | None = None

    def create(self) -> None:
        """Make it."""
        self._unpublished.mkdir(mode=0o700)
        self._owner = os.fdopen(os.open(self._unpublished / OWNER, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w")
        fcntl.flock(self._owner, fcntl.LOCK_EX)
        self._owner.write(f"{os.getpid()}\n")
        self._owner.flush()
        self._unpublished.rename(self.path)  # a sweep sees it only now that it is locked

    def release(self) -> None:
        """Say that we don't need it any more; the supervisor deletes it."""
        if self._owner is not None:
            self._owner.close()


def default_root() -> Path:
    """Memory where there is room for a few data directories, else the directory for temporary files."""
    memory = Path("/dev/shm")
    try:
        room = os.statvfs(memory)
        if os.access(memory, os.W_OK | os.X_OK) and room.f_bavail * room.f_frsize >= MIN_FREE_BYTES:
            return memory
    except OSError:
        pass
    return Path(tempfile.gettempdir())


def unusable_directory(directory: Path | None, problem: OSError) -> BackendUnavailable:
    """Return the error that says that a session's directory can't be used, and what to do; or that the machine is short of other things.

    Args:
        directory: None when there was no place to make one in.
        problem: what happened.
    """
    if problem.errno in SHORTAGES:
        return BackendUnavailable(
            f"this machine is short of processes, memory or descriptors: {type(problem).__name__}: {problem}"
        )
    which = (
        f"the directory of this session, {directory}, can't be used" if directory else "there is no place for sessions"
    )
    return BackendUnavailable(
        f"{which}: {type(problem).__name__}: {problem}; make room there, or let TMPDIR name a directory with 512 MB"
    )


@contextlib.contextmanager
def private_umask() -> Iterator[None]:
    """Make files that this user can use, also where the umask would take that away."""
    before = os.umask(0o077)
    if not before & 0o700:
        os.umask(before)
    try:
        yield
    finally:
        os.umask(before)


def remove_stale(roots: list[Path] | None = None) -> list[Path]:
    """Delete what killed sessions of this user left behind.

    Returns:
        The directories that are gone now.
    """
    swept = []
    for root in roots or [Path("/dev/shm"), Path(tempfile.gettempdir())]:
        for path in root.glob(f"{PREFIX}*"):
            if _remove_if_stale(path):
                swept.append(path)
    return swept


def is_locked(owner: Path) -> bool:
    """Whether the session that a file called `OWNER` stands for is alive."""
    try:
        with owner.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:  # locked, or not ours to look at
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
            supervisor.remove_tree(str(path))
            return True
    except OSError:  # in use, being deleted, or not one of ours
        return False
