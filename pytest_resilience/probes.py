"""Wait for a condition. `eventually` and `recovers` repeat a question until its answer is true or a deadline passes.

Each takes a callable. A coroutine function, or a lambda that returns a coroutine, makes the probe awaitable, so that the event loop of
an async test never blocks. Any other callable is called at once, and is an error while an event loop runs.
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
from .truth import is_true
from .unused import expect_await
from .wording import counted

Answer = TypeVar("Answer")

MAX_SHOWN_CHARS = 500  # of an answer in a message
HEALED_TOGETHER = 0.5  # seconds within which several heals count as one
CONSECUTIVE = 3  # true answers in a row that count as recovered; one may be luck


@overload
def eventually(
    question: Callable[[], Awaitable[Answer]], *, within: float, every: float = ..., clock: Clock = ...
) -> Awaitable[Answer]: ...
@overload
def eventually(question: Callable[[], Answer], *, within: float, every: float = ..., clock: Clock = ...) -> Answer: ...
def eventually(question: Callable[[], Any], *, within: float, every: float = 0.02, clock: Clock = SYSTEM) -> Any:
    """Repeat a question until its answer is true, and return that answer.

    A false answer, None included, and a raised Exception mean "not yet".

    Args:
        question: a callable without arguments. A coroutine function makes the result awaitable, and so does, while an event
            loop runs, a lambda that returns a coroutine.
        within: seconds until the deadline; the question is called at least once.
        every: seconds between two calls.
        clock: the clock for waiting; async questions use that of the running loop.

    Raises:
        NeverHappened: the deadline passed. The message shows the last answer, the number of calls and the strikes in that time.
        SetupError: an argument is invalid, or a question without a coroutine is used while an event loop runs in this thread, or
            a question returned an awaitable while no event loop runs.
    """
    return _run(_Poll("eventually", question, within=within, every=every, consecutive=1, clock=clock))


@overload
def recovers(
    question: Callable[[], Awaitable[Answer]], *, within: float, every: float = ..., clock: Clock = ...
) -> Awaitable[Answer]: ...
@overload
def recovers(question: Callable[[], Answer], *, within: float, every: float = ..., clock: Clock = ...) -> Answer: ...
def recovers(question: Callable[[], Any], *, within: float, every: float = 0.02, clock: Clock = SYSTEM) -> Any:
    """Repeat a question until its answer is true three times in a row. One true answer may be luck.

    A response of httpx or aiohttp with a status of 400 or more is no true answer.

    Args:
        question: as for `eventually`; it should check for the state before the fault, not for any answer.
        within: seconds until the first of the three true answers.
        every: seconds between two calls.
        clock: as for `eventually`.

    Raises:
        NeverHappened: as for `eventually`.
        SetupError: as for `eventually`.
    """
    return _run(_Poll("recovers", question, within=within, every=every, consecutive=CONSECUTIVE, clock=clock))


class _Poll:
    """The state of one probe: the calls so far, the last answer and the deadline."""

    def __init__(
        self, verb: str, question: Callable[[], Any], *, within: float, every: float, consecutive: int, clock: Clock
    ) -> None:
        self.verb = verb
        self.question = question
        self.within = within
        self.every = every
        self.consecutive = consecutive
        self.clock = clock
        self.calls = self.streak = self.best = 0
        self.last: Any = None
        self.error: Exception | None = None
        if not callable(question):
            raise SetupError(f"{self.verb}() takes a callable, such as a lambda; got the value {self.question!r}")
        given: tuple[Any, ...] = (self.within, self.every)
        if not all(isinstance(each, int | float) and each > 0 for each in given):
            raise SetupError(
                f"{self.verb}(): within and every are seconds above 0, got {self.within!r} and {self.every!r}"
            )
        self.started = self.clock.now()

    def record(self, answer: Any) -> bool:
        """Record an answer. Return True if the probe has succeeded."""
        self.calls += 1
        self.last, self.error = answer, None
        # `eventually` may wait for a response with an error.
        is_good = bool(answer) if self.consecutive == 1 else is_true(answer)
        self.streak = self.streak + 1 if is_good else 0
        self.best = max(self.best, self.streak)
        return self.streak >= self.consecutive

    def record_error(self, error: Exception) -> None:
        """Record an exception in place of an answer."""
        self.calls += 1
        self.last, self.error = None, error
        self.streak = 0

    def timed_out(self) -> bool:
        """True after the deadline, unless a run of true answers that began before the deadline is still going on."""
        return self.clock.now() - self.started >= self.within and not (self.consecutive > 1 and self.streak)

    def remaining(self) -> float:
        """Return the seconds until the deadline."""
        return max(0.0, self.within - (self.clock.now() - self.started))

    def failure(self) -> NeverHappened:
        """Return the error of a probe that timed out."""
        now = self.clock.now()
        lines = [
            f"{question_name(self.question)} was not {'true' if self.consecutive == 1 else 'steadily true'} within {self.within:g} s"
        ]
        plural = "once" if self.calls == 1 else f"{self.calls} times"
        lines.append(f"  asked {plural} in {now - self.started:.2f} s, every {self.every:g} s")
        if self.consecutive > 1 and self.best:
            lines.append(f"  at best {counted(self.best, 'true answers')} in a row; {self.consecutive} are needed")
        if self.error is not None:
            lines.append(f"  last answer: raised {type(self.error).__name__}: {_short(scrubbed(str(self.error)))}")
        elif self.calls:
            lines.append(f"  last answer: {_short(scrubbed(repr(self.last)))}")
            if self.last is None and self.best == 0:
                lines.append(
                    "  None is not a true answer: a question returns its answer, and an `assert` in it returns nothing"
                )
        else:
            lines.append("  no answer arrived")
        exchanges = current().exchanges(self.started)
        if exchanges:
            lines.append("  last exchanges of the service's client:")
            lines += [f"    {each}{f' ({times} in a row)' if times > 1 else ''}" for each, times in exchanges]
        lines += [f"  {line}" for line in _strikes(self.started, now)]
        never = NeverHappened("\n".join(lines))
        never.__cause__ = self.error
        return never


def _run(poll: _Poll) -> Any:
    question = poll.question
    call = f"{poll.verb}(...)"
    if _in_event_loop():
        return expect_await(_run_async(poll), call) if _is_coroutine_function(question) else _run_in_loop(poll, call)
    if _is_coroutine_function(question):
        remedy = f"write `await {call}` in an async test, or pass a function that is not async in a sync one"
        return expect_await(_run_async(poll), call, remedy=remedy)
    while True:
        try:
            answer = question()
        except Exception as error:  # noqa: BLE001  # an exception is an answer: "not yet"
            poll.record_error(error)
        else:
            if inspect.isawaitable(answer):
                if inspect.iscoroutine(answer):
                    answer.close()
                raise SetupError(
                    f"{poll.verb}(): {question_name(question)} returned an awaitable; pass a coroutine function (async def)"
                )
            if poll.record(answer):
                return answer
        if poll.timed_out():
            raise poll.failure()
        poll.clock.sleep(min(poll.every, max(poll.remaining(), 0.001)) if poll.streak == 0 else poll.every)


def _is_coroutine_function(question: Callable[[], Any]) -> bool:
    return inspect.iscoroutinefunction(question) or inspect.iscoroutinefunction(getattr(question, "__call__", None))  # noqa: B004


def _in_event_loop() -> bool:
    """True if an asyncio or trio event loop runs in this thread."""
    if (asyncio := sys.modules.get("asyncio")) is not None and asyncio._get_running_loop() is not None:
        return True
    if (trio := sys.modules.get("trio")) is not None:
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            return False
        return True
    return False


def _run_in_loop(poll: _Poll, call: str) -> Any:
    """Run a callable that is no coroutine function, such as a lambda, while an event loop runs in this thread.

    A lambda that returns a coroutine runs in that loop. Any other callable is an error, because its pauses would block all tasks.

    Raises:
        SetupError: the callable does not return an awaitable.
    """
    name = question_name(poll.question)
    refusal = (
        f"{poll.verb}(): {name} is not async, and the waiting would block the event loop of this thread. Write\n"
        f"    async def question():\n"
        f"        return ...\n"
        f"    await {poll.verb}(question, within={poll.within:g})"
    )
    try:
        first = poll.question()
    except Exception as error:
        raise SetupError(refusal) from error
    if not inspect.isawaitable(first):
        raise SetupError(refusal)

    def close_first() -> None:
        if inspect.iscoroutine(first):
            first.close()

    return expect_await(_run_async(poll, first), call, drop=close_first)


async def _run_async(poll: _Poll, first: Awaitable[Any] | None = None) -> Any:
    """Repeat the question until the deadline. `first` is the awaitable of a first call."""
    import anyio

    while True:
        # A question that hangs is cancelled at the deadline.
        with anyio.move_on_after(max(poll.remaining(), poll.every)) as scope:
            try:
                answer = await (poll.question() if first is None else first)
            except Exception as error:  # noqa: BLE001  # an exception is an answer: "not yet"
                poll.record_error(error)
            else:
                if poll.record(answer):
                    return answer
        first = None
        if scope.cancelled_caught:
            poll.record_error(TimeoutError("no answer arrived before the deadline"))
        if poll.timed_out():
            raise poll.failure()
        await anyio.sleep(min(poll.every, max(poll.remaining(), 0.001)) if poll.streak == 0 else poll.every)


def question_name(question: Callable[[], Any]) -> str:
    """Return the name of a question, or the source line of a lambda."""
    name = getattr(question, "__name__", None) or repr(question)
    if name == "<lambda>":
        try:
            source = " ".join(line.strip() for line in inspect.getsourcelines(question)[0])
        except (OSError, TypeError):
            return "the question"
        return _short(f"`{source}`")
    return f"{name}()"


def _short(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}... ({counted(len(text), 'characters')})"


def _strikes(start: float, end: float) -> list[str]:
    """Return lines with the strikes that were active between `start` and `end`, and with the last ones that healed before."""
    history = current()
    start, end = history.seconds_at(start), history.seconds_at(end)
    during = history.during(start, end)
    lines = [f"active strikes: {', '.join(_when(each, start) for each in during)}"] if during else []
    healed = [each for each in history.faults if each.healed_at is not None and each.healed_at < start]
    if healed:
        # Most tests strike, heal, and then probe for the recovery.
        latest = max(each.healed_at or 0.0 for each in healed)
        labels = [each.label for each in healed if start - (each.healed_at or 0.0) < start - latest + HEALED_TOGETHER]
        lines.append(f"healed {start - latest:.1f} s before: {', '.join(labels)}")
    return lines or ["no fault has struck in this test"]


def _when(event: Any, start: float) -> str:
    since = event.struck_at - start
    begun = "before the probe" if since < 0 else f"at {since:.2f} s"
    ended = "" if event.healed_at is None else f", healed at {event.healed_at - start:.2f} s"
    return f"{event.label} ({begun}{ended})"
