"""The checkers of histories, each a function that returns a `Checker`."""

from ..operation import Verdict
from .bank import bank
from .bounded_failure import bounded_failure
from .cached_errors import no_cached_errors
from .checker import Checker
from .counter import counter
from .durability import no_lost_writes, no_resurrection
from .health_tells_the_truth import health_tells_the_truth
from .jobs_run import jobs_run
from .linearizable import linearizable
from .origins import no_cross_talk, no_phantoms
from .recovered import recovered
from .sessions import monotonic_reads, read_your_writes
from .staleness import bounded_staleness
from .unique_ids import unique_ids

__all__ = [
    "Checker",
    "Verdict",
    "bank",
    "bounded_failure",
    "bounded_staleness",
    "counter",
    "health_tells_the_truth",
    "jobs_run",
    "linearizable",
    "monotonic_reads",
    "no_cached_errors",
    "no_cross_talk",
    "no_lost_writes",
    "no_phantoms",
    "no_resurrection",
    "read_your_writes",
    "recovered",
    "unique_ids",
]
