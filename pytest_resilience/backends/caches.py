"""Where on this machine we keep what makes the next start faster."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path


def cache_directory(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Where templates are kept: the user's cache, or a directory for temporary files that only we can enter.

    Returns:
        None when there is no such place.
    """
    for path in _cache_candidates(environ):
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = path.lstat()
        except (OSError, RuntimeError):
            continue
        ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
        if ours and os.access(path, os.W_OK | os.X_OK):
            return path
    return None


def _cache_candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    asked = environ.get("XDG_CACHE_HOME", "")
    if asked.startswith("/"):
        yield Path(asked) / "pytest-resilience"
    elif home := environ.get("HOME"):
        yield Path(home) / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "pytest-resilience"
    yield Path(tempfile.gettempdir()) / f"pytest-resilience-cache-{os.geteuid()}"
