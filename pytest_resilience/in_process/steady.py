"""A question that must have a true answer before, during and after each fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..clock import SYSTEM
from ..errors import NotSteady, SetupError
from ..faults.fault import Strike
from ..probes import question_name
from ..redaction import scrubbed
from ..wording import described
from .experiment import Experiment, Strikes
from .workers import Workers

POLL_INTERVAL = 0.02  # seconds between two questions after the heal
MAX_SHOWN_CHARS = 300  # of an answer in a message


class Asked(NamedTuple):
    """One answer.

    Args:
        phase: "before", "during" with the active strikes, or "after".
        answer: the answer.
        error: the exception in its place, or None.
        seconds: the duration.
    """

    phase: str
    answer: object
    error: Exception | None
    seconds: float

    @property
    def is_good(self) -> bool:
        """True if the answer is true."""
        return self.error is None and bool(self.answer)

    def __str__(self) -> str:
        shown = f"raised {described(self.error)}" if self.error is not None else repr(self.answer)
        shown = scrubbed(shown)
        text = shown if len(shown) <= MAX_SHOWN_CHARS else f"{shown[:MAX_SHOWN_CHARS]}..."
        return f"{self.phase}: {text} in {self.seconds:.3f} s"


class Steady(Experiment):
    """The experiment of `resilience.steady`.

    Attributes:
        answers: all answers so far, in order.
    """

    def __init__(
        self, strikes: Strikes, question: Callable[[], Any], within: float, struck: Callable[[], list[str]]
    ) -> None:
        if not callable(question):
            raise SetupError(f"steady() takes a callable, such as a lambda; got the value {question!r}")
        if not within > 0:
            raise SetupError(f"steady(): within is in seconds above 0, got {within!r}")
        self._question = question
        self._within = within
        self._labels = struck
        self._workers = Workers()
        self.answers: list[Asked] = []
        super().__init__(strikes, "steady")

    async def _begin(self) -> None:
        self._workers.begin(self._in_loop)
        asked = await self._ask("before")
        if not asked.is_good:
            struck = self._labels()
            reason = f"after {', '.join(struck)}" if struck else "and nothing had struck"
            raise self._failure(f"the answer was not true before the experiment, {reason}")

    async def _struck(self, strike: Strike) -> None:
        active = [each.label for each in self._strikes.active()]
        if active:
            await self._ask(f"during {', '.join(active)}")

    async def check(self) -> None:
        """Ask now, in an async test. Whether it is "during" or "after" is seen from the active strikes."""
        await self._ask_in_phase()

    def ask(self) -> None:
        """Ask now, in a sync test."""
        self._finish(self._ask_in_phase())

    async def _ask_in_phase(self) -> None:
        active = [each.label for each in self._strikes.active()]
        await self._ask(f"during {', '.join(active)}" if active else "between strikes")

    async def _end(self) -> None:
        deadline = SYSTEM.now() + self._within
        bad = [each for each in self.answers if not each.is_good]
        after = await self._ask("after")
        while not after.is_good and SYSTEM.now() < deadline:
            await self._pause(POLL_INTERVAL)
            self.answers.pop()
            after = await self._ask("after")
        dead = self._workers.dead()
        self._workers.end()
        if bad:
            raise self._failure(f"the answer was not true {bad[0].phase}", dead)
        if not after.is_good:
            active = [each.label for each in self._strikes.active()]
            still = f"while {', '.join(active)} lasted" if active else "after the heal"
            raise self._failure(f"the answer was not true within {self._within:g} s {still}", dead)
        if dead:
            raise self._failure(f"the answers were true, and {dead[0]}", dead[1:])

    async def _ask(self, phase: str) -> Asked:
        begin = SYSTEM.now()
        answer, failure = None, None
        try:
            answer = await self._call(self._question)
        except SetupError:
            raise
        except Exception as error:  # noqa: BLE001  # an answer
            failure = error
        asked = Asked(phase, answer, failure, SYSTEM.now() - begin)
        self.answers.append(asked)
        return asked

    def _failure(self, problem: str, dead: list[str] | None = None) -> NotSteady:
        struck = ", ".join(self._labels()) or "nothing"
        lines = [f"{question_name(self._question)}: {problem}", *(f"  {each}" for each in self.answers)]
        lines += [f"  {each}" for each in dead or ()]
        lines.append(f"  struck so far: {struck}")
        error = NotSteady("\n".join(lines))
        error.__cause__ = next((each.error for each in self.answers if each.error is not None), None)
        return error
