"""Drawn arguments, and how often their plays have failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .failures import Signature, signature_of


class Mode(NamedTuple):
    """A rule for when drawn arguments count as failing.

    Args:
        name: the rule in words.
        failures: the number of plays that must fail.
        passes: the number of plays that may pass before that. One more, and the arguments pass.
        in_a_row: True if the failures must follow each other.
        goal: the number of plays, of `CONFIRMATIONS`, that must fail at the end.
    """

    name: str
    failures: int
    passes: int
    in_a_row: bool
    goal: int


CONFIRMATIONS = 10
THREE_IN_A_ROW = Mode("3 in a row", failures=3, passes=1, in_a_row=True, goal=8)
TWO_OF_EIGHT = Mode("2 of 8", failures=2, passes=6, in_a_row=False, goal=2)
RARE = Mode("once", failures=1, passes=7, in_a_row=False, goal=1)  # too seldom for shrinking


class Candidate:
    """Drawn arguments and the plays of them.

    Args:
        key: what identifies the arguments.
        arguments: the drawn arguments, by name.
        play: performs the test with them once.

    Attributes:
        plays: the number of plays.
        failures: the errors of the plays that failed, in order.
        failed_first: the number of failures before the first play that passed.
    """

    def __init__(self, key: str, arguments: Mapping[str, Any], play: Callable[[], None]) -> None:
        self.key = key
        self.arguments = arguments
        self.play = play
        self.plays = 0
        self.failures: list[BaseException] = []

    def add(self, error: BaseException | None) -> None:
        """Count a play and its failure, or None for a play that passed."""
        self.plays += 1
        if error is not None:
            self.failures.append(error)

    def count(self, signature: Signature | None = None) -> int:
        """Return the number of failures with a signature, by default the most frequent one."""
        wanted = signature or self.signature
        return sum(signature_of(error) == wanted for error in self.failures)

    @property
    def signature(self) -> Signature | None:
        """The most frequent signature of the failures, the first of equally frequent ones. None without failures."""
        found = [signature_of(error) for error in self.failures]
        return max(found, key=found.count, default=None)

    def error(self, signature: Signature | None = None) -> BaseException:
        """Return the last failure with a signature, or the last one."""
        same = [each for each in self.failures if signature is None or signature_of(each) == signature]
        return (same or self.failures)[-1]
