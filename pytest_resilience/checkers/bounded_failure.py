"""The checker that failing is quick and cheap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

from ..errors import SetupError
from ..history import History
from ..operation import Operation, PhaseMark, ProbeMark, Verdict
from .answers import failure
from .checker import MAX_WITNESS, Checker

ALLOWANCE = 20  # requests of a dependency in a window that no operation explains: new connections, periodic checks
PER_READY_PROBE = 2  # requests of a dependency for each answer of the readiness path
CLOCK_ERROR = 1e-6  # seconds; the difference of two floats is not exact


class _Window(NamedTuple):
    """The requests between two probes named "upstream".

    Args:
        phase: of the time between them.
        episode: the number of the episode.
        requests: those that each dependency received.
        ready_probes: the number of answers of the readiness path.
        operations: those that may have caused the requests.
    """

    phase: str
    episode: int
    requests: Mapping[str, int]
    ready_probes: int
    operations: list[Operation]

    @property
    def total(self) -> int:
        """The requests that all dependencies received."""
        return sum(self.requests.values())

    def most(self, amplification: float) -> float:
        """Return the number of requests that is allowed."""
        unexplained = ALLOWANCE + PER_READY_PROBE * self.ready_probes
        return amplification * len(self.operations) + unexplained * len(self.requests)


@dataclass(frozen=True)
class BoundedFailure(Checker):
    """Every operation ends soon, and no outage multiplies the requests to the dependencies.

    Each operation after the phase "baseline" ends within `within` seconds, with whatever outcome.

    With `amplification`, the dependencies together receive at most that many requests an operation. It is judged for the work of
    each episode (the phases "run" and "heal") and again for its phase "recovery", in which requests of the work may follow. The
    requests of a dependency are its commands or its connections, whichever are more. In addition each dependency may receive 20
    requests, and 2 for each answer of the readiness path. Counters come from the probes "upstream"; a counter that falls, because
    its server restarted, counts from 0.

    Cost: O(n). Unknown: no operation has ended after the baseline; or `amplification` is set and nothing was counted.
    Source: none; retry amplification as in Bronson et al. 2021, "Metastable failures in distributed systems".

    Args:
        within: the longest duration of an operation in seconds.
        amplification: the most requests to dependencies for one operation; None to judge the durations only.
    """

    name: ClassVar[str] = "bounded_failure"
    within: float
    amplification: float | None = None

    def __post_init__(self) -> None:
        if not self.within > 0:
            raise SetupError(f"bounded_failure: within must be seconds above 0, got {self.within!r}")
        if self.amplification is not None and not self.amplification >= 0:
            raise SetupError(f"bounded_failure: amplification must be 0 or more, got {self.amplification!r}")

    def judge(self, history: History) -> Verdict:
        operations = [each for each in history.operations if each.phase != "baseline"]
        if not operations:
            return self.unknown("no operation has ended after the baseline")
        slowest = max(operations, key=lambda each: each.end - each.time)
        if slowest.end - slowest.time > self.within + CLOCK_ERROR:
            return self._too_slow(slowest)
        return self.ok() if self.amplification is None else self._amplified(history, operations, self.amplification)

    def _too_slow(self, slowest: Operation) -> Verdict:
        outcome = "succeeded" if slowest.type == "ok" else failure(slowest)
        subject = slowest.f if slowest.key is None else f"{slowest.f} of {slowest.key}"
        took = f"took {slowest.end - slowest.time:.3f} s until it {outcome}, longer than {self.within:g} s"
        return self.violated(f"{subject} at {slowest.time:.3f} s {took}", [slowest])

    def _amplified(self, history: History, operations: list[Operation], amplification: float) -> Verdict:
        windows = _windows(history, operations)
        if not windows:
            return self.unknown("nothing has counted the requests to the dependencies")
        for window in windows:
            if window.total > window.most(amplification):
                received = ", ".join(f"{target} {count}" for target, count in window.requests.items())
                why = (
                    f"{len(window.operations)} operations of episode {window.episode} caused {window.total} requests "
                    f"({received}) in the phase {window.phase}, more than {window.most(amplification):g}"
                )
                failed_first = sorted(window.operations, key=lambda each: each.type == "ok")
                return self.violated(why, failed_first[:MAX_WITNESS])
        return self.ok()


def _windows(history: History, operations: list[Operation]) -> list[_Window]:
    """Return the windows between the counts of a history that are no part of a baseline."""
    counts = _counts(history)
    ready = [mark.time for mark in history.marks if isinstance(mark, ProbeMark) and mark.name == "ready"]
    windows = []
    for (phase, began), (_, ended) in pairwise(counts):
        if phase.phase == "baseline":
            continue
        own = [each for each in operations if each.episode == phase.episode and each.time < ended.time]
        requests = {
            target: _increase(began.answer[target], after)
            for target, after in ended.answer.items()
            if target in began.answer
        }
        probes = sum(began.time <= each < ended.time for each in ready)
        windows.append(_Window(phase.phase, phase.episode, requests, probes, own))
    return windows


def _counts(history: History) -> list[tuple[PhaseMark, ProbeMark]]:
    """Return the probes "upstream", each with its phase. Leave out those of the phase "heal" that another one follows.

    A probe in that phase lacks the counters of the servers that a fault still strikes.
    """
    found: list[tuple[PhaseMark, ProbeMark]] = []
    phase = PhaseMark("run", 0.0)
    for mark in history.marks:
        if isinstance(mark, PhaseMark):
            phase = mark
        elif isinstance(mark, ProbeMark) and mark.name == "upstream":
            if found and found[-1][0].phase == "heal" and len(found) > 1:
                found.pop()
            found.append((phase, mark))
    return found


def _increase(before: Mapping[str, Any], after: Mapping[str, Any]) -> int:
    """Return the number of requests between two counts of one dependency."""
    return max(_difference(before.get(name), after.get(name)) for name in ("connections", "commands"))


def _difference(before: int | None, after: int | None) -> int:
    if before is None or after is None:
        return 0
    return after - before if after >= before else after


def bounded_failure(within: float, amplification: float | None = None) -> BoundedFailure:
    """Return the checker that every operation ends soon, and that no outage multiplies the requests to the dependencies.

    Args:
        within: the longest duration of an operation in seconds.
        amplification: the most requests to dependencies for one operation; None to judge the durations only.

    Raises:
        SetupError: `within` is not above 0, or `amplification` is negative.
    """
    return BoundedFailure(within, amplification)
