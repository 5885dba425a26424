"""Where on this machine we keep what makes the next start faster."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path


def cache_directory(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return where templates are kept: the user's cache, or a directory for temporary files that only this user can enter.

    Returns:
        None when there is no such place.
    """
    return next(cache_directories(environ), None)


def cache_directories(environ: Mapping[str, str] = os.environ) -> Iterator[Path]:
    """Return the places where templates may be kept, the best first. Each is made when it is reached.

    A template is code that runs as this user. So each place is a directory of this user's that nobody else may write to, no link, and below
    directories that nobody else can exchange.
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
    """True if no other user can rename what this directory has; a group may (many users have one of their own)."""
    status = parent.stat()
    if status.st_mode & stat.S_ISVTX:
        return True
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & stat.S_IWOTH


def _candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    asked = environ.get("XDG_CACHE_HOME", "")
    if asked.startswith("/"):
        yield Path(asked) / "pytest-resilience"
    elif home := environ.get("HOME"):
        yield Path(home) / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "pytest-resilience"
    try:
        yield Path(tempfile.gettempdir()) / f"pytest-resilience-cache-{os.geteuid()}"
    except FileNotFoundError:  # no directory for temporary files can be written
        return
