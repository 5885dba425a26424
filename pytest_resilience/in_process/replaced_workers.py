"""Worker processes that a pool replaces by design, as Celery does with --max-tasks-per-child and gunicorn with max_requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeVar

Process = TypeVar("Process")  # psutil.Process


class Headcounts:
    """The number of children of each process, which a pool restores after the end of a worker.

    The exit code of a worker is no evidence: only its parent receives it, and Celery's worker ends with exit code 155 by design.

    Args:
        may_be_replaced: False if no worker may end, replaced or not.
    """

    def __init__(self, *, may_be_replaced: bool) -> None:
        self._may_be_replaced = may_be_replaced
        self._least: Counter[int] | None = None

    def note(self, parents: Iterable[int]) -> None:
        """Record how many children each process has now. The least number counts.

        RQ, for example, has a child only while a job runs, so it needs none after the job.

        Args:
            parents: the process id of the parent of each process.
        """
        now = Counter(parents)
        self._least = now if self._least is None else self._least & now

    def dead(self, ended: Mapping[Process, int], now: Iterable[int], struck: Iterable[Process]) -> list[Process]:
        """Return the processes that have died: as many as their parents lack children, if workers may be replaced.

        Args:
            ended: the processes that have ended, with the process id of the parent of each.
            now: the parent of each process that runs.
            struck: those of `ended` that a fault has ended. They may be missing.
        """
        excused = set(struck)
        others = [each for each in ended if each not in excused]
        if not self._may_be_replaced:
            return others
        missing = (self._least or Counter()) - Counter(now) - Counter(ended[each] for each in excused)
        found = []
        for each in others:
            if missing[ended[each]] > 0:
                missing[ended[each]] -= 1
                found.append(each)
        return found
