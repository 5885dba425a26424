"""Files and lines of a user's code, as the lines of leaks show them."""

from __future__ import annotations

import functools
import os
import sysconfig
import tracemalloc
from pathlib import Path


def user_line(trace: tracemalloc.Traceback | None, root: Path) -> str:
    """Return the file and line of a traceback where a user's code was last; "" if there is none."""
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
    """Whether code is neither Python's nor an installed package's nor ours."""
    return not file.startswith(_not_user_code())


def relative_path(file: str, root: Path) -> str:
    """A path as messages show it: from the root of the tests, if it is below."""
    prefix = str(root) + os.sep
    return file.removeprefix(prefix)
