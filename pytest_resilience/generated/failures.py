"""The kinds of errors that end a play: failures of the tested system, and errors that end the whole test."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from types import TracebackType

from ..errors import PromiseBroken, ResilienceError

PACKAGE = str(Path(__file__).resolve().parent.parent)
NOT_THE_USERS = (PACKAGE, *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")))
OUTCOMES = "_pytest.outcomes"  # the module of pytest's outcomes, which only the highest floor imports

HISTORY = "_resilience_history"  # the attribute of an error that has the history of its play

Signature = tuple[object, ...]


class Falsified(Exception):
    """The drawn arguments break a promise. Hypothesis sees one bug, because one line raises this error for all of them."""


class Ended(KeyboardInterrupt):
    """An error that ends the test at once. Hypothesis passes a KeyboardInterrupt on and saves no example for it.

    Attributes:
        error: the error that the user sees.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


def is_failure(error: BaseException) -> bool:
    """True if an error is a failure of the tested system, which further plays may confirm and shorter schedules reproduce.

    Errors of this package and of Hypothesis, skips, and interrupts are none.
    """
    kind = type(error)
    if isinstance(error, ResilienceError) or kind.__module__.partition(".")[0] == "hypothesis":
        return False
    if kind.__module__ == OUTCOMES:
        return kind.__name__ == "Failed"
    return isinstance(error, Exception | SystemExit) and kind.__name__ != "XFailed"


def is_rejection(error: BaseException) -> bool:
    """True if the test has rejected its arguments by `assume` or `reject`."""
    return type(error).__name__ == "UnsatisfiedAssumption" and type(error).__module__ == "hypothesis.errors"


def ends_test(error: BaseException) -> bool:
    """True if an error that is no failure has to end the test although Hypothesis would take it for one."""
    return isinstance(error, Exception) and not is_failure(error) and not is_rejection(error)


def signature_of(error: BaseException) -> Signature:
    """Return the signature of an error, which is equal for two errors that show one bug.

    It is the checker of the first broken promise. For other errors, it is the class, and the file and line of the innermost
    frame of the user's code.
    """
    if isinstance(error, PromiseBroken) and error.verdicts:
        return ("promise", error.verdicts[0].checker)
    frames = list(_frames(error.__traceback__))
    own = [frame for frame in frames if not frame[0].startswith(("<", *NOT_THE_USERS))]
    return (type(error), *(own or frames or [("", 0)])[-1])


def _frames(entry: TracebackType | None) -> list[tuple[str, int]]:
    found = []
    while entry is not None:
        found.append((entry.tb_frame.f_code.co_filename, entry.tb_lineno))
        entry = entry.tb_next
    return found
