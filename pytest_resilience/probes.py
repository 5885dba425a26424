"""Questions to a system, asked until they are answered: `eventually` and `recovers`.

Each takes a callable. A coroutine function, or a lambda that returns a coroutine, gives an awaitable, so that an async test's own
loop never blocks. Any other callable is asked on the spot, and refused where an event loop runs.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from .clock import SYSTEM, Clock
from .errors import NeverHappened, SetupError
from .history import current
from .redaction import scrubbed
from .wording import counted

Answer = TypeVar("Answer")

SHOWN = 500  # characters of an answer that a message shows
TOGETHER = 0.5  # seconds within which faults count as healed together
STEADY = 3  # answers in a row that count as recovered: "it answers again" may be luck


@overload
def eventually(
    question: Callable[[], Awaitable[Answer]], *, within: float, every: float = ..., clock: Clock = ...
) -> Awaitable[Answer]: ...
@overload
def eventually(question: Callable[[], Answer], *, within: float, every: float = ..., clock: Clock = ...) -> Answer: ...
def eventually(question: Callable[[], Any], *, within: float, every: float = 0.02, clock: Clock = SYSTEM) -> Any:
    """Ask until the answer is true, and return that answer.

    An answer counts as "not yet" when it is falsy (None too) or when asking raises an Exception.

    Args:
        question: a callable without arguments. A coroutine function makes the result awaitable, and so does, while an event
            loop runs, a lambda that returns a coroutine.
        within: seconds that it has; it is asked at least once.
        every: seconds between two asks.
        clock: reads and spends time; async questions always use the running loop's.

    Raises:
        NeverHappened: it did not come true in time; shows the last answer, how often it asked and what struck meanwhile.
        SetupError: the arguments make no sense; or the callable answers at once although an event loop runs in this thread; or
            it returned an awaitable although none runs.
    """
    return _ask(_Poll("eventually", question, within=within, every=every, steady=1, clock=clock))


@overload
def recovers(
    question: Callable[[], Awaitable[Answer]], *, within: float, every: float = ..., clock: Clock = ...
) -> Awaitable[Answer]: ...
@overload
def recovers(question: Callable[[], Answer], *, within: float, every: float = ..., clock: Clock = ...) -> Answer: ...
def recovers(question: Callable[[], Any], *, within: float, every: float = 0.02, clock: Clock = SYSTEM) -> Any:
    """Like `eventually`, but the answer must be true three times in a row: one good answer may be luck.

    Args:
        question: as for `eventually`; ask for what was true before the fault, not just for any answer.
        within: seconds until the first of the three.
        every: seconds between two asks.
        clock: as for `eventually`.

    Raises:
        NeverHappened: as for `eventually`.
        SetupError: as for `eventually`.
    """
    return _ask(_Poll("recovers", question, within=within, every=every, steady=STEADY, clock=clock))


class _Poll:
    """One probe under way: what it asked, what came, and whether it may ask again."""

    def __init__(
        self, verb: str, question: Callable[[], Any], *, within: float, every: float, steady: int, clock: Clock
    ) -> None:
        self.verb = verb
        self.question = question
        self.within = within
        self.every = every
        self.steady = steady
        self.clock = clock
        self.asked = self.in_a_row = self.best = 0
        self.last: Any = None
        self.error: Exception | None = None
        if not callable(question):
            raise SetupError(
                f"{self.verb}() asks a callable, such as a lambda; got {self.question!r}, which is answered already"
            )
        if not self.within > 0 or not self.every > 0:
            raise SetupError(
                f"{self.verb}(): within and every are seconds above 0, got {self.within!r} and {self.every!r}"
            )
        self.started = self.clock.now()

    def heard(self, answer: Any) -> bool:
        """Take an answer; True when the hope has come true."""
        self.asked += 1
        self.last, self.error = answer, None
        self.in_a_row = self.in_a_row + 1 if answer else 0
        self.best = max(self.best, self.in_a_row)
        return self.in_a_row >= self.steady

    def failed(self, error: Exception) -> None:
        """Take an answer that was an exception."""
        self.asked += 1
        self.last, self.error = None, error
        self.in_a_row = 0

    def over(self) -> bool:
        """Whether time is up; a run of good answers that has begun in time may be finished."""
        return self.clock.now() - self.started >= self.within and not (self.steady > 1 and self.in_a_row)

    def left(self) -> float:
        """Seconds until time is up."""
        return max(0.0, self.within - (self.clock.now() - self.started))

    def never(self) -> NeverHappened:
        """The failure, told."""
        now = self.clock.now()
        lines = [
            f"{_name(self.question)} was not {'true' if self.steady == 1 else 'steadily true'} within {self.within:g} s"
        ]
        plural = "once" if self.asked == 1 else f"{self.asked} times"
        lines.append(f"  asked {plural} in {now - self.started:.2f} s, every {self.every:g} s")
        if self.steady > 1 and self.best:
            lines.append(f"  at best {counted(self.best, 'good answers')} in a row; {self.steady} are needed")
        if self.error is not None:
            lines.append(f"  last answer: raised {type(self.error).__name__}: {_short(scrubbed(str(self.error)))}")
        elif self.asked:
            lines.append(f"  last answer: {_short(scrubbed(repr(self.last)))}")
        else:
            lines.append("  no answer came at all")
        exchanges = current().exchanges(self.started)
        if exchanges:
            lines.append("  last exchanges of the service's client:")
            lines += [f"    {each}{f' ({times} in a row)' if times > 1 else ''}" for each, times in exchanges]
        lines += [f"  {line}" for line in _strikes(self.started, now)]
        never = NeverHappened("\n".join(lines))
        never.__cause__ = self.error
        return never


def _ask(asking: _Poll) -> Any:
    question = asking.question
    if _in_event_loop():
        return _ask_async(asking) if _is_coroutine_function(question) else _ask_in_loop(asking)
    if _is_coroutine_function(question):
        return _ask_async(asking)
    while True:
        try:
            answer = question()
        except Exception as error:  # noqa: BLE001  # an exception is an answer: "not yet"
            asking.failed(error)
        else:
            if inspect.isawaitable(answer):
                if inspect.iscoroutine(answer):
                    answer.close()
                raise SetupError(
                    f"{asking.verb}(): {_name(question)} returned an awaitable; pass a coroutine function (async def)"
                )
            if asking.heard(answer):
                return answer
        if asking.over():
            raise asking.never()
        asking.clock.sleep(min(asking.every, max(asking.left(), 0.001)) if asking.in_a_row == 0 else asking.every)


def _is_coroutine_function(question: Callable[[], Any]) -> bool:
    return inspect.iscoroutinefunction(question) or inspect.iscoroutinefunction(getattr(question, "__call__", None))  # noqa: B004


def _in_event_loop() -> bool:
    """True if an event loop runs in this thread; a library that is not loaded runs none."""
    if (asyncio := sys.modules.get("asyncio")) is not None and asyncio._get_running_loop() is not None:
        return True
    if (trio := sys.modules.get("trio")) is not None:
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            return False
        return True
    return False


def _ask_in_loop(asking: _Poll) -> Any:
    """Ask a callable that is no coroutine function, such as a lambda, while an event loop runs in this thread.

    A lambda that returns a coroutine is asked by the loop. A callable that answers at once would be asked in a loop of its
    own, with pauses that let no task of the event loop run, so it is refused.

    Raises:
        SetupError: the callable does not return an awaitable.
    """
    name = _name(asking.question)
    refusal = (
        f"{asking.verb}(): {name} is no async question, and an event loop runs in this thread, which the waiting would block. Write\n"
        f"    async def question():\n"
        f"        return ...\n"
        f"    await {asking.verb}(question, within={asking.within:g})"
    )
    try:
        first = asking.question()
    except Exception as error:
        raise SetupError(refusal) from error
    if not inspect.isawaitable(first):
        raise SetupError(refusal)
    return _ask_async(asking, first)


async def _ask_async(asking: _Poll, first: Awaitable[Any] | None = None) -> Any:
    """Ask until time is up. `first` is an answer that was begun already."""
    import anyio

    while True:
        # A question that hangs must not outlast the probe: it is cancelled when time is up.
        with anyio.move_on_after(max(asking.left(), asking.every)) as scope:
            try:
                answer = await (asking.question() if first is None else first)
            except Exception as error:  # noqa: BLE001  # an exception is an answer: "not yet"
                asking.failed(error)
            else:
                if asking.heard(answer):
                    return answer
        first = None
        if scope.cancelled_caught:
            asking.failed(TimeoutError("no answer came before time was up"))
        if asking.over():
            raise asking.never()
        await anyio.sleep(min(asking.every, max(asking.left(), 0.001)) if asking.in_a_row == 0 else asking.every)


def _name(question: Callable[[], Any]) -> str:
    """The question as its author would call it: its name, or the source line of a lambda."""
    name = getattr(question, "__name__", None) or repr(question)
    if name == "<lambda>":
        try:
            source = " ".join(line.strip() for line in inspect.getsourcelines(question)[0])
        except (OSError, TypeError):
            return "the question"
        return _short(f"`{source}`")
    return f"{name}()"


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({counted(len(text), 'characters')})"


def _strikes(start: float, end: float) -> list[str]:
    """Return lines that say which faults lasted between `start` and `end`, and which one was healed last before."""
    history = current()
    during = history.during(start, end)
    lines = [f"struck meanwhile: {', '.join(_when(each, start) for each in during)}"] if during else []
    healed = [each for each in history.faults if each.healed_at is not None and each.healed_at < start]
    if healed:
        # The order of most tests: strike, heal, ask whether all is well again
        latest = max(each.healed_at or 0.0 for each in healed)
        labels = [each.label for each in healed if start - (each.healed_at or 0.0) < start - latest + TOGETHER]
        lines.append(f"healed {start - latest:.1f} s before: {', '.join(labels)}")
    return lines or ["nothing has struck in this test"]


def _when(event: Any, start: float) -> str:
    since = event.struck_at - start
    begun = "before it began" if since < 0 else f"at {since:.2f} s"
    ended = "" if event.healed_at is None else f", healed at {event.healed_at - start:.2f} s"
    return f"{event.label} ({begun}{ended})"
