"""The versions of server programs, asked for once and remembered: pytest's header shows them in every run, used or not.

Only answers are remembered. A program that could not be asked, for want of processes or memory perhaps, is asked again.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from ..embedded.cache_dir import cache_directory

FILE = "versions.json"
UNKNOWN = "?"
ASK_WITHIN = 5.0  # seconds
SAID = 300  # characters of what a program said in place of its version
# What servers inherit, asked for their version or started: nothing of the user's environment, so a run does not depend on it.
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def for_python() -> dict[str, str]:
    """Return what this Python needs of its environment to start again: where its own library is, if that is said there."""
    return {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH") if name in os.environ}


class NoVersion(Exception):
    """A program did not say its version; the text says what happened instead."""


def version_of(program: Path) -> str:
    """Return what `program --version` says, such as "18.6", or "?" when it says nothing of the kind.

    Remembered by path, size and time of change, in the cache directory when that can be written.
    """
    try:
        return known_version(program)
    except NoVersion:
        return UNKNOWN


def known_version(program: Path) -> str:
    """Return what `program --version` says; as `version_of`.

    Raises:
        NoVersion: it could not be asked, or said something else.
    """
    try:
        stat = program.stat()
    except OSError as error:
        raise NoVersion(str(error)) from None
    key = f"{program}:{stat.st_size}:{stat.st_mtime_ns}"
    cache = cache_directory(os.environ)
    if cache is None:
        return _ask(program)
    file = cache / FILE
    known = _read(file)
    if key not in known:
        known[key] = _ask(program)
        _write(file, {name: version for name, version in known.items() if Path(name.rsplit(":", 2)[0]).exists()})
    return known[key]


def remembered_in() -> str:
    """Return, for a message, where versions are remembered."""
    cache = cache_directory(os.environ)
    return f"versions are remembered in {cache / FILE}" if cache else "nothing is remembered"


def guarded(version: str) -> bool:
    """True if a Redis of that version refuses to load modules and to rename its files, from 7 on; also if the version is not known."""
    major = version.partition(".")[0]
    return not major.isdigit() or int(major) >= 7


def _ask(program: Path) -> str:
    try:
        answer = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ASK_WITHIN,
            check=False,
            env=ENVIRONMENT,
        )
    except (OSError, MemoryError, subprocess.SubprocessError) as error:
        raise NoVersion(f"{type(error).__name__}: {error}") from None
    found = re.search(r"(?:v=|\) |\s)(\d+(?:\.\d+)+)", answer.stdout)
    if answer.returncode != 0 or found is None:
        said = (answer.stderr + answer.stdout).strip()[:SAID] or "nothing"
        raise NoVersion(f"--version ended with exit code {answer.returncode} and said: {said}")
    return found[1]


def _read(file: Path) -> dict[str, str]:
    try:
        known: Any = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(known, dict):
        return {}
    # Up to release 0.1, a failed question was remembered too.
    return {name: version for name, version in known.items() if isinstance(version, str) and version != UNKNOWN}


def _write(file: Path, known: dict[str, str]) -> None:
    """Whole or not at all: several sessions may write at once."""
    hidden = file.with_name(f".{FILE}.{os.getpid()}")
    try:
        try:
            hidden.touch(mode=0o600)
            hidden.write_text(json.dumps(known))
            hidden.replace(file)
        except OSError:
            hidden.unlink(missing_ok=True)
    except OSError:
        return  # a cache that can't be written costs the next run a few milliseconds
