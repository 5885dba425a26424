"""Tracebacks without the frames of this package, for errors that the message and the user's lines explain.

Frames of libraries that this package called are removed too (httpx alone has thirty). An error without any user frame, as in the
set-up of a test, points at the test. `pytest --full-trace` shows all frames.
"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

PACKAGE = str(Path(__file__).resolve().parent.parent)
LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
ROOTS = ("pytest_resilience", "httpx")  # the packages of these errors


def shorten(error: BaseException, path: str, line: int, name: str) -> bool:
    """Remove the frames of this package, and of the libraries that it called, from the tracebacks of an error and its causes.

    Args:
        error: the error, which is changed in place.
        path: the file of the test.
        line: the first line of the test, from 1 on.
        name: the name of the test.

    Returns:
        True if the error is one that its message explains without these frames.
    """
    if isinstance(error, BaseExceptionGroup):
        return bool([each for each in error.exceptions if shorten(each, path, line, name)])
    frames = _frames(error)
    if type(error).__module__.partition(".")[0] not in ROOTS or not any(map(_is_package_frame, frames)):
        return False
    _shorten(error, _traceback_at(path, line, name))
    return True


def _shorten(error: BaseException, otherwise: TracebackType) -> None:
    frames = list(_without_package_frames(_frames(error)))
    error.__traceback__ = _chain(frames) if any(map(_is_user_frame, frames)) else otherwise
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and any(map(_is_user_frame, _without_package_frames(_frames(cause)))):
        _shorten(cause, otherwise)
    else:
        error.__cause__ = None  # the message has all facts on which a user can act
        error.__suppress_context__ = True


def _frames(error: BaseException) -> list[TracebackType]:
    found: list[TracebackType] = []
    entry = error.__traceback__
    while entry is not None:
        found.append(entry)
        entry = entry.tb_next
    return found


def _without_package_frames(frames: Iterable[TracebackType]) -> Iterable[TracebackType]:
    """Return the frames outside of this package, without those of libraries that it called."""
    below = False
    for entry in frames:
        if _is_package_frame(entry) or entry.tb_frame.f_globals.get("__name__", "").partition(".")[0] in ROOTS:
            below = True
        elif _is_user_frame(entry) or not below:
            below = False
            yield entry


def _is_package_frame(entry: TracebackType) -> bool:
    return entry.tb_frame.f_code.co_filename.startswith(PACKAGE)


def _is_user_frame(entry: TracebackType) -> bool:
    file = entry.tb_frame.f_code.co_filename
    return not file.startswith(("<", PACKAGE, *LIBRARIES))


def _chain(frames: list[TracebackType]) -> TracebackType | None:
    following: TracebackType | None = None
    for entry in reversed(frames):
        following = TracebackType(following, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return following


def _traceback_at(path: str, line: int, name: str) -> TracebackType:
    """Return a traceback of one frame, at a line of a file."""
    tree = ast.parse("1 / 0")
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt | ast.expr):
            node.col_offset = node.end_col_offset = -1  # none, since pytest marks code that has columns
    code = compile(tree, path, "exec").replace(co_firstlineno=line, co_name=name)  # the only line has this number too
    try:
        exec(code, {})  # noqa: S102  # the two numbers above: only a frame that runs has a traceback
    except ZeroDivisionError as error:
        entry = error.__traceback__.tb_next if error.__traceback__ is not None else None
        assert entry is not None, "this function's frame, then the code's"
        return entry
    raise AssertionError("division by zero raises")
