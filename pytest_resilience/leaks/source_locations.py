"""Files and lines of user code, as the lines of leaks show them."""

from __future__ import annotations

import functools
import os
import sysconfig
import tracemalloc
from pathlib import Path


def user_line(trace: tracemalloc.Traceback | None, root: Path) -> str:
    """Return file and line of the newest frame of user code in a traceback, "" if there is none."""
    if not trace:
        return ""
    newest_first = [(frame.filename, frame.lineno) for frame in reversed(trace)]
    file, line = next((each for each in newest_first if is_user_code(each[0])), newest_first[0])
    return f"{relative_path(file, root)}:{line}"


@functools.cache
def _not_user_code() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    package = str(Path(__file__).parent.parent)
    return (*{paths[name] + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")}, package + os.sep, "<")


def is_user_code(file: str) -> bool:
    """True if a file belongs neither to Python nor to an installed package nor to the plugin."""
    return not file.startswith(_not_user_code())


def relative_path(file: str, root: Path) -> str:
    """Return a path as messages show it, relative to the root of the tests if it is below."""
    prefix = str(root) + os.sep
    return file.removeprefix(prefix)
