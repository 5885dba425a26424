"""The checkers of histories, each a function that returns a `Checker`."""

from ..operation import Verdict
from .bank import bank
from .checker import Checker
from .counter import counter
from .jobs_run import jobs_run
from .linearizable import linearizable
from .unique_ids import unique_ids

__all__ = ["Checker", "Verdict", "bank", "counter", "jobs_run", "linearizable", "unique_ids"]
