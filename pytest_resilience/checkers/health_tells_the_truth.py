"""The checker that the readiness path agrees with what clients experience."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf
from typing import ClassVar, NamedTuple

from ..errors import SetupError
from ..history import History
from ..operation import FaultMark, Operation, ProbeMark, Verdict
from .answers import is_answer
from .checker import MAX_WITNESS, Checker
from .recovered import is_ready

LEAST = 5  # operations; fewer prove nothing about a service
LONGEST_GAP = (
    2.0  # seconds without an operation, or without an answer of the readiness path, after which nothing is known
)
READS = ("read", "list")
CLIENT_FAULTS = ("service", "client")  # targets whose faults lie between the clients and the service


class _Period(NamedTuple):
    """A time in which all operations had one outcome.

    Args:
        begin: when the first of them began.
        end: when the last of them ended.
        operations: these operations.
    """

    begin: float
    end: float
    operations: list[Operation]


@dataclass(frozen=True)
class HealthTellsTheTruth(Checker):
    """The readiness path does not answer 2xx while nothing works, and nothing else while everything works.

    It lies in one of two ways, for longer than `within` seconds without a break:

    - All its answers are 2xx, and all operations fail. Among them is a read or a list, if the history has any that succeeded,
      because a service that can only read is ready. No fault of the service itself lasts, which would lie between it and its
      clients (the targets "service" and "client").
    - None of its answers is 2xx, and all operations succeed. No fault lasts at all.

    There are at least 5 operations in that time, all of which began and ended in it. A break is a strike or a heal, 2 s without an
    operation, or 2 s without an answer of the path. A rejection such as 404 or 412 counts as success; cancelled operations and
    kinds that clients do not request ("run") do not count. The default of 5 s leaves a service time to notice an outage, even with
    a periodic check on a busy machine; 2 s suit a service that reports an outage within one second.

    Cost: O(n log n). Unknown: the history has no probe "ready", or fewer than 5 operations.
    Source: none; the liveness checks of Kubernetes, "readiness probes", as a property of a history.

    Args:
        within: seconds for which the answer may be wrong.
    """

    name: ClassVar[str] = "health_tells_the_truth"
    within: float = 5.0

    def __post_init__(self) -> None:
        if not self.within > 0:
            raise SetupError(f"health_tells_the_truth: within must be seconds above 0, got {self.within!r}")

    def judge(self, history: History) -> Verdict:
        ready = [mark for mark in history.marks if isinstance(mark, ProbeMark) and mark.name == "ready"]
        operations = [each for each in history.operations if each.f != "run" and not _is_cancelled(each)]
        if not ready:
            return self.unknown("nothing has requested the readiness path")
        if len(operations) < LEAST:
            return self.unknown(f"the history has fewer than {LEAST} operations")
        served = [each for each in operations if is_answer(each)]
        failed = [each for each in operations if not is_answer(each)]
        changes = [(mark.time, mark.time) for mark in history.marks if isinstance(mark, FaultMark)]
        false_ready = _periods(failed, [*_spans(served), *changes, *_pauses(ready, True)])
        false_alarms = _periods(served, [*_spans(failed), *changes, *_pauses(ready, False)])
        return (
            self._false_ready(history, false_ready, served)
            or self._false_alarm(history, false_alarms, ready)
            or self.ok()
        )

    def _false_ready(self, history: History, periods: Iterable[_Period], served: list[Operation]) -> Verdict | None:
        reads = any(each.f in READS for each in served)
        for period in filter(self._is_long, periods):
            is_judged = not reads or any(each.f in READS for each in period.operations)
            if is_judged and not _lasting(history, period, CLIENT_FAULTS):
                return self._lie(period, "2xx", "failed")
        return None

    def _false_alarm(self, history: History, periods: Iterable[_Period], ready: list[ProbeMark]) -> Verdict | None:
        for period in filter(self._is_long, periods):
            if not _lasting(history, period, ("",)):
                answers = [mark.answer for mark in ready if period.begin <= mark.time <= period.end]
                last = next((each.get("status") or each.get("error") for each in answers[-1:]), None)
                return self._lie(period, str(last or "nothing"), "succeeded")
        return None

    def _is_long(self, period: _Period) -> bool:
        return period.end - period.begin > self.within and len(period.operations) >= LEAST

    def _lie(self, period: _Period, answer: str, outcome: str) -> Verdict:
        why = (
            f"the readiness path answered {answer} from {period.begin:.3f} s to {period.end:.3f} s, "
            f"when all {len(period.operations)} operations {outcome}"
        )
        return self.violated(why, period.operations[:MAX_WITNESS])


def _is_cancelled(operation: Operation) -> bool:
    return (operation.error or "").startswith("Cancel")


def _spans(operations: Iterable[Operation]) -> list[tuple[float, float]]:
    return [(each.time, each.end) for each in operations]


def _pauses(ready: Iterable[ProbeMark], wanted: bool) -> Iterator[tuple[float, float]]:
    """Yield the times in which the readiness path does not answer with 2xx (`wanted`), or not with something else."""
    last = -inf
    for mark in sorted(ready, key=lambda each: each.time):
        if is_ready(mark.answer) != wanted:
            yield mark.time, mark.time
        if mark.time - last > LONGEST_GAP:
            yield last, mark.time
        last = mark.time
    yield last, inf


def _periods(operations: Iterable[Operation], breaks: Iterable[tuple[float, float]]) -> Iterator[_Period]:
    """Yield the periods of operations that overlap with no break, each without a pause of more than 2 s."""
    begins, ends = _between(breaks)
    place, own, until = -1, list[Operation](), 0.0
    for each in operations:
        index = bisect_right(begins, each.time) - 1
        if index < 0 or each.end > ends[index]:
            continue
        if own and (index != place or each.time - until > LONGEST_GAP):
            yield _Period(own[0].time, until, own)
            own, until = [], 0.0
        place, until = index, max(until, each.end)
        own.append(each)
    if own:
        yield _Period(own[0].time, until, own)


def _between(breaks: Iterable[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Return the begins and the ends of the times between some breaks, in order."""
    begins: list[float] = []
    ends: list[float] = []
    last = -inf
    for begin, end in sorted(breaks):
        if begin > last:
            begins.append(last)
            ends.append(begin)
        last = max(last, end)
    if last < inf:
        begins.append(last)
        ends.append(inf)
    return begins, ends


def _lasting(history: History, period: _Period, targets: tuple[str, ...]) -> bool:
    """True if a fault lasts in a period whose label begins with the name of one of some targets."""
    lasting = [
        each for each in history.faults if each.struck_at < period.end and (each.healed_at or inf) > period.begin
    ]
    return any(fault.label.startswith(targets) for fault in lasting)


def health_tells_the_truth(*, within: float = 5.0) -> HealthTellsTheTruth:
    """Return the checker that the readiness path agrees with what clients experience.

    Args:
        within: seconds for which its answer may be wrong.

    Raises:
        SetupError: `within` is not above 0.
    """
    return HealthTellsTheTruth(within)
