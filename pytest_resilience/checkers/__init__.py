"""The checkers of histories, each a function that returns a `Checker`."""

from ..operation import Verdict
from .checker import Checker
from .unique_ids import unique_ids

__all__ = ["Checker", "Verdict", "unique_ids"]
