"""Jobs that must run before, during and after each fault, and after it as fast as before."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from statistics import median
from textwrap import indent
from typing import Any

from ..clock import SYSTEM
from ..errors import NotSteady, SetupError
from ..faults.fault import Strike
from ..truth import is_true
from ..wording import counted, described
from .experiment import Experiment, Strikes
from .silence import Quiet
from .workers import Workers

POLL_INTERVAL = 0.005  # seconds between two questions whether a job has run
SLOWER = 3.0  # times as long as before is as fast as before
SLACK = 0.1  # seconds that a busy machine may add


class Jobs(Experiment):
    """The experiment of `resilience.jobs`.

    Attributes:
        before, after: seconds from enqueueing to running of each job before the first strike, and of each after the heal.
        refused: the errors of jobs that could not be enqueued during a fault, or at first after it. Such a job need not run.
    """

    def __init__(
        self,
        strikes: Strikes,
        enqueue: Callable[..., Any],
        ran: Callable[..., Any],
        *,
        count: int,
        within: float,
        workers: Workers,
    ) -> None:
        if count < 1 or not within > 0:
            raise SetupError(f"jobs(): count is from 1 on and within in seconds above 0, got {count!r} and {within!r}")
        self._enqueue = enqueue
        self._has_ran = ran
        self._enqueue_takes_job = _takes_argument(enqueue)
        self._ran_takes_job = _takes_argument(ran)
        self._count = count
        self._within = within
        self._numbers = itertools.count(1)
        self._waiting: dict[Any, str] = {}
        self.before: list[float] = []
        self.after: list[float] = []
        self.refused: list[Exception] = []
        self._unread: Exception | None = None
        self._is_after = False
        super().__init__(strikes, "jobs", workers)

    @property
    def slowdown(self) -> float:
        """The time of the last jobs after the heal, as a multiple of the time before the first strike. Both are medians."""
        return median(self.after[-self._count :]) / median(self.before) if self.after else 0.0

    async def _begin(self) -> None:
        for _ in range(self._count):
            seconds = await self._run_one()
            if seconds is None:
                raise NotSteady(f"jobs: before any fault, a job has not run within {self._within:g} s{self._facts()}")
            self.before.append(seconds)

    async def _struck(self, strike: Strike) -> None:
        if isinstance(strike.fault, Quiet):  # which is over
            return
        try:
            job = await self._new_job()
        except SetupError:
            raise
        except Exception as error:  # noqa: BLE001  # the fault may make it impossible
            self.refused.append(error)
        else:
            self._waiting[job] = f"enqueued {'after' if strike.healed else 'during'} {strike.label}"

    async def _end(self) -> None:
        self._is_after = True
        deadline = SYSTEM.now() + self._within
        await self._wait_for_jobs_of_faults(deadline)
        await self._wait_for_former_speed(deadline)
        if await self._has_a_death(deadline):
            raise NotSteady(f"jobs: all have run as fast as before, and something has died meanwhile{self._facts()}")

    async def _wait_for_jobs_of_faults(self, deadline: float) -> None:
        while True:
            for job in [*self._waiting]:
                if await self._ran(job):
                    del self._waiting[job]
            if not self._waiting:
                return
            if SYSTEM.now() > deadline:
                lost = ", ".join(f"job {job!r}, {when}" for job, when in self._waiting.items())
                raise NotSteady(f"jobs: not run within {self._within:g} s after the heal: {lost}{self._facts()}")
            await self._pause(POLL_INTERVAL)

    async def _wait_for_former_speed(self, deadline: float) -> None:
        """Run jobs until some in a row are as fast as before."""
        limit = max(SLOWER * median(self.before), *self.before) + SLACK
        while True:
            seconds = await self._run_one_after(deadline)
            if seconds is None:
                raise NotSteady(f"jobs: after the heal, a job has not run within {self._within:g} s{self._facts()}")
            self.after.append(seconds)
            last = self.after[-self._count :]
            if len(last) == self._count and max(last) <= limit:
                return
            if SYSTEM.now() > deadline:
                raise NotSteady(
                    f"jobs: they run, and take {median(last):.3f} s after the fault instead of {median(self.before):.3f} s before "
                    f"it, {self.slowdown:.0f} times as long (at most {limit:.3f} s would be as fast as before), still {self._within:g} s "
                    f"after the heal: the worker polls, or waits for a time-out, instead of being woken{self._facts()}"
                )

    async def _run_one_after(self, deadline: float) -> float | None:
        """Run one job after the heal. A client may need some attempts to enqueue it."""
        while True:
            try:
                return await self._run_one()
            except SetupError:
                raise
            except Exception as error:
                self.refused.append(error)
                if SYSTEM.now() > deadline:
                    problem = f"jobs: none could be enqueued within {self._within:g} s after the heal{self._facts()}"
                    raise NotSteady(problem) from error
                await self._pause(POLL_INTERVAL)

    async def _run_one(self) -> float | None:
        """Return the seconds that one job takes, or None if it does not run in time."""
        begin = SYSTEM.now()
        job = await self._new_job()
        while not await self._ran(job):
            if SYSTEM.now() - begin > self._within:
                return None
            await self._pause(POLL_INTERVAL)
        return SYSTEM.now() - begin

    async def _new_job(self) -> Any:
        if not self._enqueue_takes_job:
            return await self._call(self._enqueue)
        job = f"job-{next(self._numbers)}"
        await self._call(self._enqueue, job)
        return job

    async def _ran(self, job: Any) -> bool:
        try:
            value = await self._call(self._has_ran, *([job] if self._ran_takes_job else []))
        except SetupError:
            raise
        except Exception as error:
            if not self._is_after:
                raise
            self._unread = error  # a client may need some attempts after the heal
            return False
        return is_true(value) if self._ran_takes_job else job in value

    def _facts(self) -> str:
        dead = [indent(each, "  ").lstrip() for each in self._workers.dead()]
        lines = [*dead, f"struck so far: {', '.join(self._labels()) or 'nothing'}"]
        if self._unread is not None:
            lines.insert(0, f"the last error of `ran`: {described(self._unread)}")
        if self.refused:
            number = counted(len(self.refused), "jobs")
            lines.insert(0, f"{number} could not be enqueued, the first because of {described(self.refused[0])}")
        return "".join(f"\n  {line}" for line in lines)


def _takes_argument(function: Callable[..., Any]) -> bool:
    """True if a function needs an argument, or takes any number."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a function of C without a signature
        return True
    return any(
        each.kind in (each.VAR_POSITIONAL, each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
        and each.default is each.empty
        for each in parameters
    )
