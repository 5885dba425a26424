"""A question that must have a true answer before, during and after each fault."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import indent
from typing import Any, NamedTuple

from ..clock import SYSTEM
from ..errors import NotSteady, SetupError
from ..faults.fault import Strike
from ..probes import question_name
from ..redaction import scrubbed
from ..truth import is_true
from ..unused import must_be_awaited
from ..wording import described
from .experiment import Experiment, Strikes
from .silence import Quiet
from .workers import Workers

POLL_INTERVAL = 0.02  # seconds between two questions after the heal
MAX_SHOWN_CHARS = 300  # of an answer in a message
SLOWER = 3.0  # times as long as before is worth a remark in a message
SLACK = 0.1  # seconds longer than before are not


class Asked(NamedTuple):
    """One answer.

    Args:
        phase: "before", "during" with the active strikes, or "after".
        answer: the answer.
        error: the exception in its place, or None.
        seconds: the duration.
        struck: the labels of what had struck by then.
    """

    phase: str
    answer: object
    error: Exception | None
    seconds: float
    struck: Sequence[str] = ()

    @property
    def is_good(self) -> bool:
        """True if the answer is true."""
        return self.error is None and is_true(self.answer)

    def __str__(self) -> str:
        shown = f"raised {described(self.error)}" if self.error is not None else repr(self.answer)
        shown = scrubbed(shown)
        text = shown if len(shown) <= MAX_SHOWN_CHARS else f"{shown[:MAX_SHOWN_CHARS]}..."
        return f"{self.phase}: {text} in {self.seconds:.3f} s"

    def compared_with(self, before: Asked) -> str:
        """Describe the differences from the first answer, or return "" without any."""
        if self is before:
            return ""
        is_slow = self.seconds > SLOWER * before.seconds and self.seconds - before.seconds > SLACK
        times = self.seconds / max(before.seconds, 0.001)
        slow = [f"{times:.0f} times as long as before"] if is_slow else []
        return "".join(f", {each}" for each in (*self._other_answer(before), *slow))

    def _other_answer(self, before: Asked) -> list[str]:
        if self.error is not None or before.error is not None:
            return []
        try:
            is_same = bool(self.answer == before.answer)
        except Exception:  # noqa: BLE001  # arrays, for example, have no single answer
            return []
        is_comparable = type(self.answer) is not type(before.answer) or type(self.answer).__eq__ is not object.__eq__
        if is_same:
            return ["the answer as before"]
        return ["another answer than before"] if is_comparable else []


class Steady(Experiment):
    """The experiment of `resilience.steady`.

    Attributes:
        answers: all answers so far, in order.
    """

    def __init__(self, strikes: Strikes, question: Callable[[], Any], within: float, workers: Workers) -> None:
        if not callable(question):
            raise SetupError(f"steady() takes a callable, such as a lambda; got the value {question!r}")
        if not within > 0:
            raise SetupError(f"steady(): within is in seconds above 0, got {within!r}")
        self._question = question
        self._within = within
        self.answers: list[Asked] = []
        super().__init__(strikes, "steady", workers)

    async def _begin(self) -> None:
        asked = await self._ask("before")
        if not asked.is_good:
            by_then = f"after {', '.join(asked.struck)}" if asked.struck else "and nothing had struck"
            raise self._failure(f"the answer was not true before the experiment, {by_then}", asked)

    async def _struck(self, strike: Strike) -> None:
        if isinstance(strike.fault, Quiet):
            if self._nothing_was_broken():
                await self._ask(f"after {strike.label}")
            return
        active = [each.label for each in self._strikes.active()]
        if active:
            await self._ask(f"during {', '.join(active)}")

    @must_be_awaited
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
        bad = next((each for each in self.answers if not each.is_good), None)
        after = await self._ask("after")
        while not after.is_good and SYSTEM.now() < deadline:
            await self._pause(POLL_INTERVAL)
            self.answers.pop()
            after = await self._ask("after")
        if bad is not None:
            raise self._failure(f"the answer was not true {bad.phase}", bad)
        if not after.is_good:
            active = [each.label for each in self._strikes.active()]
            still = f"while {', '.join(active)} lasted" if active else "after the heal"
            raise self._failure(f"the answer was not true within {self._within:g} s {still}", after)
        if await self._has_a_death(deadline):
            raise self._failure("the answers were true, and something has died meanwhile", after)

    async def _ask(self, phase: str) -> Asked:
        begin = SYSTEM.now()
        answer, failure = None, None
        try:
            answer = await self._call(self._question)
        except SetupError:
            raise
        except Exception as error:  # noqa: BLE001  # an answer
            failure = error
        asked = Asked(phase, answer, failure, SYSTEM.now() - begin, self._labels())
        self.answers.append(asked)
        return asked

    def _failure(self, problem: str, failed: Asked) -> NotSteady:
        lines = [f"{question_name(self._question)}: {problem}"]
        lines += [f"  {each}{each.compared_with(self.answers[0])}" for each in self.answers]
        lines += [indent(each, "  ") for each in self._workers.dead()]
        lines.append(f"  struck by then: {', '.join(failed.struck) or 'nothing'}")
        if later := self._labels()[len(failed.struck) :]:
            lines.append(f"  struck later: {', '.join(later)}")
        error = NotSteady("\n".join(lines))
        error.__cause__ = failed.error
        return error
