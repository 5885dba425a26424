"""The interface of a checker: a pure function from a history to a verdict.

A kind of checker is a function that returns a frozen dataclass with the settings as fields and the judgement as `judge`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from ..history import History
from ..operation import Operation, Verdict

MAX_WITNESS = 10  # operations; a reader follows no more


class Checker(ABC):
    """A promise about histories. Subclasses are frozen dataclasses with the settings as fields.

    Attributes:
        name: the name of the function that makes it, such as "no_lost_writes".
    """

    name: ClassVar[str]

    def __call__(self, history: History) -> Verdict:
        """Return the verdict of a history."""
        return self.judge(history)

    @abstractmethod
    def judge(self, history: History) -> Verdict:
        """Return the verdict of a history."""

    def ok(self) -> Verdict:
        """Return the verdict of a history that keeps the promise."""
        return Verdict(self.name, "ok")

    def violated(self, why: str, witness: Iterable[Operation]) -> Verdict:
        """Return the verdict of a history that breaks the promise.

        Args:
            why: the broken promise in one sentence, with keys, values and times.
            witness: the operations that prove it; at most 10 are kept, in the order in which they began.
        """
        operations = sorted(witness, key=lambda each: each.index)
        return Verdict(self.name, "violated", why, tuple(operations[:MAX_WITNESS]))

    def unknown(self, why: str) -> Verdict:
        """Return the verdict of a history that decides nothing, with the reason."""
        return Verdict(self.name, "unknown", why)
