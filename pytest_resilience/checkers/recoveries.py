"""The recovery phases of a history, each with the baseline that it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..history import History
from ..operation import FaultMark, Operation, PhaseMark, ProbeMark
from .steady_state import steady_state

LEAST = 20  # operations of a kind that make a baseline
CLOCK_ERROR = 0.01  # seconds by which a play may end before the limit and count as having reached it


class Recovery(NamedTuple):
    """One recovery phase.

    Args:
        episode: the number of the episode.
        healed: when the last fault was healed, or when the phase began if nothing had struck.
        limit: when the system has to be back.
        observed_until: when the last operation or the probe "recovery" ended.
        operations: those of the phase, in order, without those that began after the probe "recovery".
        ready: the answers of the readiness path until the limit.
        was_ready: True if the readiness path answered 2xx before the first strike.
        found: the finding of the probe "recovery"; None without one.
        slowdown: how many times longer everything took because the machine was busy, as the probe "recovery" has measured it.
        open_before, open_after: the open connections to each server before the first strike and at the end; None where unknown.
        clients: the number of clients that worked while faults struck.
        unhealed: the label of a fault that still lasts; "" if there is none.
        baseline: the steady state of each kind of operation.
        before: the ok operations of the baseline phase.
    """

    episode: int
    healed: float
    limit: float
    observed_until: float
    operations: list[Operation]
    ready: list[ProbeMark]
    was_ready: bool
    found: bool | None
    slowdown: float
    open_before: Mapping[str, int | None]
    open_after: Mapping[str, int | None]
    clients: int
    unhealed: str
    baseline: Mapping[str, Mapping[str, Any]]
    before: list[Operation]

    def since_heal(self, moment: float) -> float:
        """Return the seconds from the last heal to a moment."""
        return moment - self.healed

    def good_before(self, kind: str) -> list[Operation]:
        """Return the last operation of a kind in the baseline phase, to compare with."""
        return [each for each in self.before if each.f == kind][-1:]


def recoveries(history: History, within: float) -> list[Recovery]:
    """Return the recovery phases of a history.

    Args:
        history: the history.
        within: seconds in which the system has to be back.
    """
    operations = [each for each in history.operations if each.phase in ("baseline", "recovery")]
    spans = _spans(history, operations)
    marks = _Marks(history)
    clients = len({each.client for each in history.operations if each.phase == "run"})
    before = [each for each in operations if each.phase == "baseline" and each.type == "ok"]
    return [
        _recovery(marks, [each for each in operations if each.phase == "recovery"], span, within)._replace(
            before=before, clients=clients, baseline=marks.baseline(span.end) or _measured(operations)
        )
        for span in spans
    ]


class _Span(NamedTuple):
    """The time of one recovery phase, with that of the previous one's end."""

    episode: int
    previous: float
    begin: float
    end: float


def _spans(history: History, operations: list[Operation]) -> list[_Span]:
    """Return the times of the recovery phases: those of the marks, or of the operations in a history without such marks."""
    phases = [mark for mark in history.marks if isinstance(mark, PhaseMark)]
    begins = [(mark.episode, mark.time) for mark in phases if mark.phase == "recovery"]
    if not begins:
        first: dict[int, float] = {}
        for each in operations:
            if each.phase == "recovery":
                first.setdefault(each.episode, each.time)
        begins = list(first.items())
    found: list[_Span] = []
    for number, (episode, begin) in enumerate(begins):
        following = [mark.time for mark in phases if mark.time > begin]
        following += [time for _, time in begins[number + 1 :]]
        found.append(_Span(episode, found[-1].begin if found else 0.0, begin, min(following, default=float("inf"))))
    return found


class _Marks:
    """The marks of a history by kind."""

    def __init__(self, history: History) -> None:
        self.faults = [mark for mark in history.marks if isinstance(mark, FaultMark)]
        self._probes = [mark for mark in history.marks if isinstance(mark, ProbeMark)]

    def probes(self, name: str, begin: float, end: float) -> list[ProbeMark]:
        """Return the probes with a name between two moments."""
        return [mark for mark in self._probes if mark.name == name and begin <= mark.time <= end]

    def baseline(self, until: float) -> Mapping[str, Mapping[str, Any]]:
        """Return the last baseline that was measured before a moment."""
        found = self.probes("baseline", 0.0, until)
        return found[-1].answer if found else {}

    def open_before(self, until: float) -> Mapping[str, int | None]:
        """Return the open connections to each server at the last time before a moment."""
        found = self.probes("upstream", 0.0, until)
        return {name: counts.get("open") for name, counts in found[-1].answer.items()} if found else {}

    def unhealed(self, until: float) -> str:
        """Return the label of a fault that lasts at a moment, or "" if none does."""
        healed = {mark.strike for mark in self.faults if mark.mark == "heal" and mark.time <= until}
        lasting = [
            mark.label
            for mark in self.faults
            if mark.mark == "strike" and mark.time < until and mark.strike not in healed
        ]
        return lasting[0] if lasting else ""


def _recovery(marks: _Marks, operations: list[Operation], span: _Span, within: float) -> Recovery:
    heals = [mark.time for mark in marks.faults if mark.mark == "heal" and span.previous <= mark.time < span.end]
    healed = max(heals, default=span.begin)
    found = marks.probes("recovery", span.begin, span.end)
    last = found[-1].time if found else span.end
    own = [each for each in operations if max(span.begin, healed) <= each.time < min(last, span.end)]
    limit = max(healed, span.begin) + within
    strikes = [mark.time for mark in marks.faults if mark.mark == "strike"]
    steady = marks.probes("ready", 0.0, min(strikes, default=span.begin))
    return Recovery(
        episode=span.episode,
        healed=healed,
        limit=limit,
        observed_until=max([mark.time for mark in found] + [each.end for each in own], default=span.begin)
        + CLOCK_ERROR,
        operations=own,
        ready=marks.probes("ready", healed, min(limit, span.end)),
        was_ready=bool(steady) and 200 <= (steady[-1].answer.get("status") or 0) < 300,
        found=bool(found[-1].answer.get("recovered")) if found else None,
        slowdown=found[-1].answer.get("slowdown", 1.0) if found else 1.0,
        open_before=marks.open_before(min(strikes, default=span.begin)),
        open_after=found[-1].answer.get("open", {}) if found else {},
        clients=0,
        unhealed=marks.unhealed(span.end),
        baseline={},
        before=[],
    )


def _measured(operations: list[Operation]) -> dict[str, dict[str, Any]]:
    """Return the baseline of the operations in the phase "baseline", for each kind with 20 of them."""
    kinds: dict[str, list[Operation]] = {}
    for each in operations:
        if each.phase == "baseline":
            kinds.setdefault(each.f, []).append(each)
    return {kind: steady_state(own) for kind, own in kinds.items() if len(own) >= LEAST}
