"""Directories for templates, which make the next start faster."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path


def cache_directory(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the first directory for templates, or None if there is none."""
    return next(cache_directories(environ), None)


def cache_directories(environ: Mapping[str, str] = os.environ) -> Iterator[Path]:
    """Return the directories for templates, the user's cache first, then one among the temporary files.

    Each is created when the iterator reaches it. A template is code that runs as this user, so each directory belongs to this user, only
    this user can write to it, it is not a link, and no other user can replace one of its parents.
    """
    for path in _candidates(environ):
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = path.lstat()
            safe = _is_owned(status) and all(map(_is_safe, path.parents))
        except (OSError, RuntimeError):
            continue
        if safe and os.access(path, os.W_OK | os.X_OK):
            yield path


def _is_owned(status: os.stat_result) -> bool:
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _is_safe(parent: Path) -> bool:
    """True if no other user can rename entries of this directory. Its group may, because many users have a private group."""
    status = parent.stat()
    if status.st_mode & stat.S_ISVTX:
        return True
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & stat.S_IWOTH


def _candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    configured = environ.get("XDG_CACHE_HOME", "")
    if configured.startswith("/"):
        yield Path(configured) / "pytest-resilience"
    elif home := environ.get("HOME"):
        yield Path(home) / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "pytest-resilience"
    try:
        yield Path(tempfile.gettempdir()) / f"pytest-resilience-cache-{os.geteuid()}"
    except FileNotFoundError:  # no directory for temporary files is writable
        return
