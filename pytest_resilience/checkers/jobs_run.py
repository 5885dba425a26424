"""The checker of queued jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..history import History
from ..operation import Operation, PhaseMark, Verdict
from .checker import Checker

Jobs = dict[str, list[Operation]]


@dataclass(frozen=True)
class JobsRun(Checker):
    """Each acknowledged job runs, and nothing else does.

    The key of "enqueue" and "run" is the id of the job. A "run" is recorded when the effect of the job is seen.

    - Lost: its enqueue is ok, and it has no run although the queue was drained. It was drained if the history ends in the phase
      "recovery" or with an ok "drain" after the last acknowledged enqueue.
    - Unexpected: it ran, and no enqueue of it is ok or unknown. An unknown enqueue without an id stands for one such job.
    - Duplicated: it ran more than once. That is a violation only with `exactly_once`.

    Cost: O(n). Unknown: nothing was enqueued; or an acknowledged job has not run, and the queue was not drained or a run of the
    job is unknown.
    Source: Jepsen's `checker/total-queue`.

    Args:
        exactly_once: True if no job may run twice.
    """

    name: ClassVar[str] = "jobs_run"
    exactly_once: bool = False

    def judge(self, history: History) -> Verdict:
        operations = history.operations
        enqueued, run = _jobs(operations, "enqueue"), _jobs(operations, "run")
        if not any(each.f == "enqueue" for each in operations):
            return self.unknown("no job was enqueued")
        return (
            self._unexpected(enqueued, run, _enqueued_without_id(operations))
            or self._duplicated(enqueued, run)
            or self._lost(enqueued, run, _is_drained(history))
            or self.ok()
        )

    def _unexpected(self, enqueued: Jobs, run: Jobs, without_id: int) -> Verdict | None:
        runs = [(job, _ok(each)[0]) for job, each in run.items() if _ok(each) and not _attempts(enqueued.get(job, []))]
        if len(runs) <= without_id:
            return None
        job, first = runs[without_id]
        cause = "its enqueue had failed" if job in enqueued else "nothing had enqueued it"
        return self.violated(f"job {job} ran at {first.end:.3f} s, and {cause}", [*enqueued.get(job, []), first])

    def _duplicated(self, enqueued: Jobs, run: Jobs) -> Verdict | None:
        for job, runs in run.items() if self.exactly_once else ():
            if len(seen := _ok(runs)) > 1:
                times = " and ".join(f"{each.end:.3f} s" for each in seen[:2])
                return self.violated(f"job {job} ran more than once: at {times}", [*enqueued.get(job, [])[:1], *seen])
        return None

    def _lost(self, enqueued: Jobs, run: Jobs, drained: bool) -> Verdict | None:
        waiting = {job: _ok(each) for job, each in enqueued.items() if _ok(each) and not _ok(run.get(job, []))}
        lost = {job: each for job, each in waiting.items() if not _attempts(run.get(job, []))}
        if drained and lost:
            job, (acknowledged, *_) = next(iter(lost.items()))
            why = f"job {job}, acknowledged at {acknowledged.end:.3f} s, never ran"
            count = f" (one of {len(lost)} such jobs)" if len(lost) > 1 else ""
            return self.violated(why + count, [each[0] for each in lost.values()])
        if waiting:
            cause = "its run is unknown" if drained else "the history ended before the queue was drained"
            return self.unknown(f"job {next(iter(waiting))} has not run, but {cause}")
        return None


def _jobs(operations: list[Operation], f: str) -> Jobs:
    """Return the operations of one kind by job."""
    jobs: Jobs = {}
    for each in operations:
        if each.f == f and each.key is not None:
            jobs.setdefault(each.key, []).append(each)
    return jobs


def _ok(operations: list[Operation]) -> list[Operation]:
    return [each for each in operations if each.type == "ok"]


def _attempts(operations: list[Operation]) -> list[Operation]:
    """Return the operations that may have happened."""
    return [each for each in operations if each.type != "fail"]


def _enqueued_without_id(operations: list[Operation]) -> int:
    """Return the number of enqueues that may have happened, and of which the id is unknown."""
    return sum(each.f == "enqueue" and each.type != "fail" and each.key is None for each in operations)


def _is_drained(history: History) -> bool:
    operations = history.operations
    phases = [mark.phase for mark in history.marks if isinstance(mark, PhaseMark)]
    phases += [each.phase for each in operations[-1:]]
    last = max((each.end for each in operations if each.f == "enqueue" and each.type == "ok"), default=0.0)
    drained = any(each.f == "drain" and each.type == "ok" and each.time >= last for each in operations)
    return drained or phases[-1] == "recovery" or phases[-2:-1] == ["recovery"]


def jobs_run(exactly_once: bool = False) -> JobsRun:
    """Return the checker that each acknowledged job runs.

    Args:
        exactly_once: True if no job may run twice.
    """
    return JobsRun(exactly_once)
