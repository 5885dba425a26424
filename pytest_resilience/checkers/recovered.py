"""The checker that a system is back to its steady state after an outage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from ..errors import SetupError
from ..history import History
from ..operation import Operation, Verdict
from .answers import failure, is_answer
from .checker import Checker
from .recoveries import Recovery, recoveries
from .steady_state import allowed_growth

FLOOR = 0.05  # seconds that an operation may take in any case; a busy machine is no fault
ENOUGH_FOR_P95 = 20  # operations; of fewer, the 95th percentile is the slowest, and the median is judged
MOST = 200  # operations of a kind that are judged, the last ones


class _Baseline(NamedTuple):
    """The steady state of one kind of operation.

    Args:
        longest: the p95 that still counts as steady, in seconds.
        p95: that of the baseline, in seconds.
        error_rate: 0 to 1.
        sources: those of its answers.
    """

    longest: float
    p95: float
    error_rate: float
    sources: Sequence[str]

    def problem(self, operation: Operation) -> str:
        """Return the way in which one operation differs, as the end of a sentence, or "" if it does not."""
        if not is_answer(operation):
            return failure(operation)
        if operation.end - operation.time > self.longest:
            return f"took {operation.end - operation.time:.3f} s (baseline p95 {self.p95:.3f} s)"
        if self._is_foreign(operation):
            return f"was answered by {operation.source} (baseline {', '.join(self.sources)})"
        return ""

    def is_steady(self, operations: Sequence[Operation]) -> bool:
        """True if operations one after the other are like those of the baseline."""
        if self.problem(operations[0]):
            return False
        failed = sum(not is_answer(each) for each in operations)
        durations = sorted(each.end - each.time for each in operations if is_answer(each))
        share = 0.95 if len(durations) >= ENOUGH_FOR_P95 else 0.5
        foreign = sum(map(self._is_foreign, operations))
        sourced = sum(each.source is not None and each.state != "miss" for each in operations)
        is_quick = durations[int(share * (len(durations) - 1))] <= self.longest
        return failed <= self.error_rate * len(operations) and is_quick and 2 * foreign <= sourced

    def _is_foreign(self, operation: Operation) -> bool:
        """True if something answered that did not answer in the baseline. A miss of a cache may happen at any time."""
        source = operation.source
        return source is not None and bool(self.sources) and source not in self.sources and operation.state != "miss"


@dataclass(frozen=True)
class Recovered(Checker):
    """After the last heal of each episode, the system returns to the baseline that its play measured.

    In the phase "recovery", for each kind of operation that succeeded in the baseline, an operation that begins within `within`
    seconds is the first of a steady series, which lasts until the limit. In a steady series

    - the first operation is like those of the baseline,
    - the share of errors is not above that of the baseline (a rejection such as 404 or 412 is no error; 408 and 429 are),
    - the p95 of the durations is at most `ratio` times that of the baseline plus 0.05 s; below 20 operations the median is. Both
      are multiplied by the slowdown of the machine that the probe "recovery" has measured, if it has,
    - at least half of the answers with a source have one of the baseline's sources, misses of a cache left out.

    The open connections to each server are at most those before the first strike, and two for each client and five more, because a
    pool may have grown with the number of clients.

    After the limit, too, the share of errors is not above that of the baseline. If the service was ready before the first strike,
    one of the answers of its readiness path within the limit is 2xx, provided that there are three. The seconds count from the last
    heal or from the beginning of the phase, whichever is later. Operations after the probe "recovery" do not count, and at most the
    last 200 of a kind. If that probe found the system not recovered, the series has at least 2 operations, and half of all up to 20.

    Cost: O(n log n). Unknown: there is no phase "recovery" or no baseline (the probe "baseline", or 20 operations of a kind in the
    phase "baseline"), a fault was not healed, a kind was not attempted in time, or the play gave up before the limit.
    Source: liveness mode of TigerBeetle's VOPR, with the baseline of the same run.

    Args:
        within: seconds.
        ratio: how many times longer than in the baseline operations may take.
    """

    name: ClassVar[str] = "recovered"
    within: float
    ratio: float = 3.0

    def __post_init__(self) -> None:
        if not self.within > 0:
            raise SetupError(f"recovered: within must be seconds above 0, got {self.within!r}")
        if not self.ratio >= 1:
            raise SetupError(f"recovered: ratio must be 1 or more, got {self.ratio!r}")

    def judge(self, history: History) -> Verdict:
        spans = recoveries(history, self.within)
        if not spans:
            return self.unknown('the history has no phase "recovery"')
        verdicts = [self._judge(span) for span in spans]
        return min(verdicts, key=lambda each: ("violated", "unknown", "ok").index(each.kind))

    def _judge(self, span: Recovery) -> Verdict:
        if span.unhealed:
            return self.unknown(f"{span.unhealed} was not healed in episode {span.episode}")
        baseline = {
            kind: self._steady_state(state, span.slowdown)
            for kind, state in span.baseline.items()
            if state.get("p95") is not None
        }
        if not baseline:
            return self.unknown("there is no baseline with an operation that succeeded")
        verdicts = [self._judge_kind(span, kind, state) for kind, state in baseline.items()]
        verdicts += [self._judge_readiness(span), self._judge_pools(span)]
        return min(verdicts, key=lambda each: ("violated", "unknown", "ok").index(each.kind))

    def _steady_state(self, state: Mapping[str, Any], slowdown: float) -> _Baseline:
        p95 = state["p95"]
        return _Baseline(
            slowdown * (self.ratio * p95 + FLOOR), p95, state.get("error_rate") or 0.0, state.get("sources") or ()
        )

    def _judge_kind(self, span: Recovery, kind: str, baseline: _Baseline) -> Verdict:
        operations = [each for each in span.operations if each.f == kind]
        in_time = [each for each in operations if each.time <= span.limit][-MOST:]
        later = [each for each in operations if each.time > span.limit][-MOST:]
        if not in_time:
            return self.unknown(f"no {kind} was attempted within {self.within:g} s after the last heal")
        if is_answer(in_time[-1]) and not any(each.type == "ok" for each in in_time):
            return self.unknown(f"{kind} was only rejected after the last heal, so that none could succeed")
        least = 1 if span.found is not False else min(len(in_time), ENOUGH_FOR_P95, max(2, len(in_time) // 2))
        starts = range(len(in_time) - least + 1)
        if not any(baseline.is_steady(in_time[start:]) for start in starts):
            return self._not_back(span, kind, baseline, in_time, later)
        failed = [each for each in later if not is_answer(each)]
        if len(failed) > baseline.error_rate * len(later):
            why = f"{kind} {failure(failed[0])} again {span.since_heal(failed[0].end):.1f} s after the last heal"
            return self.violated(f"{why} of episode {span.episode}", failed[:1])
        return self.ok()

    def _not_back(
        self, span: Recovery, kind: str, baseline: _Baseline, in_time: list[Operation], later: list[Operation]
    ) -> Verdict:
        bad = [each for each in in_time if baseline.problem(each)] or in_time[-1:]
        last, problem = bad[-1], baseline.problem(bad[-1]) or "was not steady"
        if span.observed_until < span.limit:
            return self.unknown(
                f"the play ended {span.since_heal(span.observed_until):.1f} s after the last heal, before the limit of "
                f"{self.within:g} s, when {kind} {problem}"
            )
        if last.end < span.limit and later and not baseline.problem(later[0]):
            return self.unknown(f"between {last.end:.3f} s and {later[0].time:.3f} s no {kind} was attempted")
        why = f"{kind} still {problem} {span.since_heal(last.end):.1f} s after the last heal of episode {span.episode}"
        return self.violated(why, [*span.good_before(kind), last])

    def _judge_pools(self, span: Recovery) -> Verdict:
        for name, now in span.open_after.items():
            before = span.open_before.get(name)
            if now is None or before is None or now <= before + allowed_growth(span.clients):
                continue
            if span.observed_until < span.limit:
                return self.unknown(f"the play ended before the limit, when {now} connections to {name} were open")
            why = f"{now} connections to {name} were still open at {span.observed_until:.3f} s, and {before} before the first strike"
            return self.violated(why, span.operations[-1:])
        return self.ok()

    def _judge_readiness(self, span: Recovery) -> Verdict:
        answers = span.ready
        if not span.was_ready or len(answers) < 3 or any(is_ready(each.answer) for each in answers):
            return self.ok()
        if span.observed_until < span.limit:
            return self.unknown("the play ended before the limit, when the service was not ready")
        last = answers[-1]
        status = last.answer.get("status") or last.answer.get("error") or "nothing"
        why = f"the readiness path still answered {status} {span.since_heal(last.time):.1f} s after the last heal"
        return self.violated(f"{why} of episode {span.episode}", span.operations[-1:])


def is_ready(answer: Mapping[str, Any]) -> bool:
    """True if an answer of the readiness path has a status of 2xx."""
    status = answer.get("status")
    return isinstance(status, int) and 200 <= status < 300


def recovered(within: float, ratio: float = 3.0) -> Recovered:
    """Return the checker that the system is back to its baseline soon after the last heal of each episode.

    Args:
        within: seconds after the last heal.
        ratio: how many times longer than in the baseline operations may take.

    Raises:
        SetupError: `within` is not above 0, or `ratio` is below 1.
    """
    return Recovered(within, ratio)
