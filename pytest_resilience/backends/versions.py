"""The versions of server programs, asked for once and remembered: pytest's header shows them in every run, used or not."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

from .caches import cache_directory

FILE = "versions.json"
ASK_WITHIN = 5.0  # seconds


def version_of(program: Path) -> str:
    """What `program --version` says, such as "18.6", or "?" when it says nothing of the kind.

    Remembered by path, size and time of change, in the cache directory when that can be written.
    """
    stat = program.stat()
    key = f"{program}:{stat.st_size}:{stat.st_mtime_ns}"
    cache = cache_directory(os.environ)
    if cache is None:
        return _ask(program)
    file = cache / FILE
    known = _read(file)
    if key not in known:
        known[key] = _ask(program)
        _write(file, known)
    return known[key]


def _ask(program: Path) -> str:
    try:
        said = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=ASK_WITHIN, check=False
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return "?"
    found = re.search(r"(?:v=|\) |\s)(\d+(?:\.\d+)+)", said)
    return found[1] if found else "?"


def _read(file: Path) -> dict[str, str]:
    try:
        known = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write(file: Path, known: dict[str, str]) -> None:
    """Whole or not at all: several sessions may write at once."""
    hidden = file.with_name(f".{FILE}.{os.getpid()}")
    try:
        hidden.write_text(json.dumps(known))
        hidden.replace(file)
    except OSError:
        return  # a cache that can't be written costs the next run a few milliseconds
