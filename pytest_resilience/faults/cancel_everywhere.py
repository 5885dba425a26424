"""The cancellation of an operation at each point at which it waits for the network.

The proxy holds one direction and lets message after message through, so a point is reached by counting and never by time. The
points of a message are three:

- after it was sent: it is held on its way to the server, which executes it after the heal;
- before its answer: the server has executed it, and the answer is held;
- as its answer arrives: the answer has woken the operation, which is cancelled before it runs on.

At the first two points, the network heals before, during or after the next operation.
"""

from __future__ import annotations

import asyncio
import itertools
import sysconfig
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, NamedTuple, TypeAlias, TypeVar, cast

from ..clock import SYSTEM, wait_until_async
from ..coroutines import frames_of
from ..errors import NotCancellationSafe, SetupError
from ..truth import is_true
from ..wording import counted
from .blocked_loop import LoopWatch
from .cancellation import MOMENTS
from .fault import Receipt, Strike
from .held_stream import HeldStream, open_connections
from .network import HasProxy, NetworkFault

Result = TypeVar("Result")
Operation: TypeAlias = Callable[[], Coroutine[Any, Any, object]]
Question: TypeAlias = Callable[[], object]
LeakSearch: TypeAlias = Callable[[], list[str]]

POLL_INTERVAL = 0.001  # seconds between two readings of the proxy
SENDS_WITHIN = (
    0.25  # seconds after which the next operation is taken to wait for the client itself, such as for its pool
)
LOOP_TURNS = 20  # of the event loop, in which tasks come to wait that wake each other up
RELEASED_WITHIN = 2.0  # seconds for resources that are about to be released
STANDARD_LIBRARY = sysconfig.get_path("stdlib")


class Point(NamedTuple):
    """A point of an operation, and the moment of the heal.

    Args:
        message: the number of the message, from 1.
        kind: "sent", "answered" or "arrives".
        heal: "before", "during" or "after" the next operation.
    """

    message: int
    kind: str
    heal: str

    def describe(self, messages: int) -> str:
        """Return the point as the begin of an error, such as "cancelled before answer 1 of 2, heal after the next operation"."""
        place = {"sent": "after message", "answered": "before answer", "arrives": "as answer"}[self.kind]
        text = f"cancelled {place} {self.message} of {max(messages, self.message)}"
        return f"{text} arrives" if self.kind == "arrives" else f"{text}, heal {self.heal} the next operation"


KINDS = [*itertools.product(("sent", "answered"), MOMENTS), ("arrives", "before")]


class Cancellations(NamedTuple):
    """The points at which `cancel_everywhere` has cancelled an operation.

    Args:
        messages: the messages of one operation on an open connection.
        cancellations: the operations that were cancelled.
        points: the points at which they were, in order.
    """

    messages: int
    cancellations: int
    points: tuple[str, ...]


@dataclass(frozen=True)
class CancelEverywhere(NetworkFault):
    """Cancel an operation at each point at which it waits for the network. See `cancel_everywhere` of a target."""

    name: ClassVar[str] = "cancel_everywhere"

    def strike(self, target: HasProxy) -> Strike:
        raise SetupError(f"{self.label(target)} is a coroutine function of the target, which takes the operation")


class Arguments(NamedTuple, Generic[Result]):
    """The arguments of `cancel_everywhere`, as documented there."""

    operation: Operation
    then: Callable[[], Awaitable[Result]]
    answer: object
    whole: Question | None
    size: int | Callable[[], int] | None
    within: float


async def cancel_everywhere(
    target: HasProxy, arguments: Arguments[Any], find_leaks: Callable[[], LeakSearch] | None
) -> Cancellations:
    """Cancel an operation at each of its points (see `NetworkFaults.cancel_everywhere`).

    Args:
        target: the target whose network is held.
        arguments: the arguments.
        find_leaks: takes a snapshot of the resources and returns the search for new ones; None without one.
    """
    if not arguments.within > 0:
        raise SetupError(f"cancel_everywhere: within is in seconds above 0, got {arguments.within!r}")
    open_connections(target.proxy_handle, CancelEverywhere().label(target))  # here an error costs no operation
    campaign = _Campaign(target, arguments)
    strike = campaign.strike()
    try:
        await campaign.prepare(find_leaks)
        return await campaign.run()
    finally:
        strike.heal()


class _Cancellable:
    """An operation that can be cancelled as soon as its awaited future is done, before it runs on.

    A task that is cancelled while its wake-up is scheduled receives the cancellation in place of the result.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, object]) -> None:
        self.coroutine = coroutine
        self.cancel_at_wakeup = False

    def __await__(self) -> Generator[Any, Any, object]:
        throw: BaseException | None = None
        while True:
            try:
                waited_for = self.coroutine.throw(throw) if throw is not None else self.coroutine.send(None)
            except StopIteration as stop:
                return stop.value
            throw = None
            try:
                yield waited_for
                if self.cancel_at_wakeup:
                    self.cancel_at_wakeup = False
                    task = asyncio.current_task()
                    assert task is not None, "a task runs this"
                    task.cancel()
                    yield  # the event loop throws the cancellation here
            except BaseException as error:  # noqa: BLE001  # belongs to the operation
                throw = error

    async def run(self) -> object:
        return await self


class _Campaign:
    """All cancellations of one call of `cancel_everywhere`."""

    def __init__(self, target: HasProxy, arguments: Arguments[Any]) -> None:
        self._target = target
        self._proxy = target.proxy_handle
        self._arguments = arguments
        self._within = arguments.within
        self._label = CancelEverywhere().label(target)
        self._held: HeldStream | None = None
        self._points: list[str] = []
        self._begin = SYSTEM.now()
        self._first: float | None = None
        self._last: float | None = None
        self._messages = 0
        self._size: int | None = None
        self._opened = 0
        self._expected: Any = None
        self._find_leaks: LeakSearch | None = None
        self._where = ""

    def strike(self) -> Strike:
        """Register and return the strike. Its receipt counts cancelled operations."""
        strike = Strike(self._label, CancelEverywhere(), heal=self._release, read_receipt=self._receipt)
        return self._target.register(strike)

    def _receipt(self) -> Receipt:
        return Receipt(len(self._points), "operations", self._first, self._last)

    def _release(self) -> None:
        if self._held is not None:
            self._held.release()

    @contextmanager
    def _holding(self, *, upward: bool) -> Iterator[HeldStream]:
        self._held = held = HeldStream(self._proxy, upward=upward, label=self._label)
        try:
            yield held
        finally:
            held.release()

    # --- before the first cancellation -------------------------------------------------------------------------------

    async def prepare(self, find_leaks: Callable[[], LeakSearch] | None) -> None:
        """Run everything once without a cancellation, to learn the right answer and the number of messages.

        Raises:
            SetupError: something is wrong before any cancellation.
        """
        arguments = self._arguments
        await self._uncancelled("the operation", arguments.operation)
        answers = [await self._uncancelled("then=", arguments.then) for _ in range(2)]
        self._expected = self._right_answer(*answers)
        if arguments.size is not None:
            self._size = arguments.size() if callable(arguments.size) else arguments.size
            if self._size < 1:
                raise SetupError(f"{self._label}: size is a number of connections from 1 on, got {self._size!r}")
        for _ in range(2):  # the first one may open a connection or prepare statements
            self._messages = await self._count_messages()
        # This comes last, because an operation that closes its connection leaves fewer open than the checks after a cancellation.
        for problem in (await self._lost_connections(), await self._not_whole()):
            if problem:
                raise SetupError(f"{self._label}: before any cancellation, {problem}")
        self._opened = len(self._proxy.connections())  # those of other clients too, such as a service
        self._find_leaks = find_leaks() if find_leaks is not None else None

    async def _uncancelled(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        try:
            return await asyncio.wait_for(call(), self._within)
        except Exception as error:
            raise SetupError(f"{self._label}: before any cancellation, {name} raised {error!r}") from error

    def _right_answer(self, first: object, second: object) -> object:
        given = self._arguments.answer
        if given is not None:
            wrong = [each for each in (first, second) if not _is_right(each, given)]
            if wrong:
                raise SetupError(
                    f"{self._label}: before any cancellation, then= returned {wrong[0]!r}, which is not answer="
                )
            return given
        if _comparable(first) != _comparable(second):
            raise SetupError(
                f"{self._label}: then= returned {first!r} and {second!r} before any cancellation, so no answer is known to be right; "
                "give answer=, a value or a function that returns True for a right answer"
            )
        return first

    async def _count_messages(self) -> int:
        """Return the number of messages of an operation that is not cancelled."""
        with self._holding(upward=True) as held, LoopWatch(self._within, held.release) as watch:
            task = asyncio.ensure_future(self._arguments.operation())
            try:
                number = await self._let_through(held, task, None)
            finally:
                held.release()
                await self._end(task)
        if watch.blocked:
            raise SetupError(f"{self._label}: the operation blocks the event loop while it waits for the network")
        if not number:
            raise SetupError(f"{self._label}: the operation has sent nothing: does its client go through the proxy?")
        return number

    # --- the cancellations -------------------------------------------------------------------------------------------

    async def run(self) -> Cancellations:
        """Cancel at each point until the operation has no further one."""
        for message in itertools.count(1):
            reached = [await self._strike_at(Point(message, kind, heal)) for kind, heal in KINDS]
            if not any(reached) and message > self._messages:
                break
        return Cancellations(self._messages, len(self._points), tuple(self._points))

    async def _strike_at(self, point: Point) -> bool:
        """Cancel at a point and check the client after that. Return False if the operation ended before it."""
        with self._holding(upward=point.kind == "sent") as held, LoopWatch(self._within, held.release) as watch:
            cancellable = _Cancellable(self._arguments.operation())
            task = asyncio.ensure_future(cancellable.run())
            try:
                await self._let_through(held, task, point.message)
                await _settle()
                if task.done():
                    self._check_completed(task)
                    return False
                self._record(point, cancellable)
                following = await self._cancel(point, held, task, cancellable)
            finally:
                held.release()
                ended = await self._end(task)
        with self._explained(point, following):
            if watch.blocked:
                raise _Damage(
                    f"the client blocked the event loop for {self._within:g} s, until the network healed: no other task ran"
                )
            await self._check(point, task if ended else None, following)
        return True

    def _check_completed(self, task: asyncio.Future[Any]) -> None:
        """Raise the error of an operation that was not cancelled."""
        if (error := task.exception()) is None:
            return
        if not self._points:
            raise error
        point = f"{self._label}: {self._points[-1]}"
        raise NotCancellationSafe(point, f"the operation raised {error!r} when it ran again") from error

    def _record(self, point: Point, cancellable: _Cancellable) -> None:
        self._where = _innermost_line(cancellable.coroutine)
        self._points.append(point.describe(self._messages))
        self._last = SYSTEM.now() - self._begin
        self._first = self._last if self._first is None else self._first

    async def _let_through(self, held: HeldStream, task: asyncio.Future[Any], message: int | None) -> int:
        """Let messages through until `message` is held, or until the operation ends. Return the number of messages so far."""
        number = 0
        while True:
            traffic = held.traffic()
            deadline = SYSTEM.now() + self._within
            while not traffic.held and not task.done():
                if SYSTEM.now() > deadline:
                    raise SetupError(
                        f"{self._label}: the operation has sent nothing for {self._within:g} s, after {counted(number, 'messages')}"
                    )
                await asyncio.sleep(POLL_INTERVAL)
                traffic = held.traffic()
            if task.done() and not traffic.held:
                return number
            number = held.number_of(traffic)
            if number == message and not task.done():
                return number
            held.let_through()
            await asyncio.sleep(0)

    async def _cancel(
        self, point: Point, held: HeldStream, task: asyncio.Task[object], cancellable: _Cancellable
    ) -> asyncio.Future[Any]:
        """Cancel the operation, run the next one, and heal in between. Return the next operation."""
        if point.kind == "arrives":
            cancellable.cancel_at_wakeup = True
            held.release()
            await self._end(task, cancel=False)
        else:
            task.cancel()
            await asyncio.sleep(0)
        if point.heal == "before":
            held.release()
            return self._next()
        before, following = held.traffic(), self._next()
        await self._wait_until_more_is_held(held, before.held, following)
        await _settle()
        if point.heal == "after":
            following.cancel()
            await asyncio.sleep(0)
        held.release()
        if point.heal == "during":
            return following
        await self._end(following)
        return self._next()

    def _next(self) -> asyncio.Future[Any]:
        return asyncio.ensure_future(cast("Coroutine[Any, Any, Any]", self._arguments.then()))

    async def _wait_until_more_is_held(self, held: HeldStream, before: int, following: asyncio.Future[Any]) -> None:
        """Wait until more is held than before. A client may also send nothing, because it waits for its cancelled operation."""

        async def is_held() -> bool:
            return following.done() or held.traffic().held > before

        await wait_until_async(is_held, within=min(SENDS_WITHIN, self._within), every=POLL_INTERVAL)

    async def _end(self, task: asyncio.Future[Any], *, cancel: bool = True) -> bool:
        """Wait until an operation has ended. Cancel one that does not, and return False."""
        done, _ = await asyncio.wait({task}, timeout=self._within)
        if not done and cancel:
            task.cancel()
        return bool(done)

    # --- after each --------------------------------------------------------------------------------------------------

    @contextmanager
    def _explained(self, point: Point, following: asyncio.Future[Any]) -> Iterator[None]:
        """Make a problem an error that names the point."""
        try:
            yield
        except _Damage as damage:
            following.cancel()
            raise NotCancellationSafe(
                f"{self._label}: {point.describe(self._messages)}",
                str(damage),
                details=f"the cancelled operation waited {self._where}",
            ) from damage.__cause__

    async def _check(self, point: Point, task: asyncio.Future[Any] | None, following: asyncio.Future[Any]) -> None:
        """Check the end of the cancelled operation, the answer of the next one, and the client.

        Raises:
            _Damage: one of them is wrong.
        """
        await self._check_answer(following)
        _check_cancelled(task, self._within, may_return=point.kind == "arrives")
        for problem in (await self._lost_connections(), await self._not_whole(), await self._leaked()):
            if problem:
                raise _Damage(problem)

    async def _check_answer(self, following: asyncio.Future[Any]) -> None:
        done, _ = await asyncio.wait({following}, timeout=self._within)
        if not done:
            raise _Damage(f"the next operation has not ended in {self._within:g} s")
        if following.cancelled():
            raise _Damage("the next operation was cancelled too")
        if (error := following.exception()) is not None:
            raise _Damage(f"the next operation raised {error!r}") from error
        if not _is_right(following.result(), self._expected):
            raise _Damage(f"the next operation returned {self._wrong(following.result())}")

    async def _lost_connections(self, *, tries: int = 2) -> str:
        """Run as many operations at once as the client has connections. Return what is wrong, or "".

        An operation may end before all others hold an answer. A lost connection is lost in the second try too.
        """
        if self._size is None:
            return ""
        with self._holding(upward=False) as held:
            tasks = [self._next() for _ in range(self._size)]

            async def all_hold() -> bool:
                return held.traffic().holding >= len(tasks) or any(task.done() for task in tasks)

            try:
                await wait_until_async(all_hold, within=self._within, every=POLL_INTERVAL)
                holding = held.traffic().holding
            finally:
                held.release()
                done, pending = await asyncio.wait(tasks, timeout=self._within)
                for task in pending:
                    task.cancel()
        answers = [None if task.cancelled() else task.exception() or task.result() for task in done]
        if holding < self._size:
            usable = f"{holding} of {counted(self._size, 'connections')} can be used"
            errors = [repr(each) for each in answers if isinstance(each, BaseException)]
            if not errors and not pending and tries > 1:
                return await self._lost_connections(tries=tries - 1)
            return f"{usable}: {errors[0]}" if errors else usable
        if pending:
            return f"{len(pending)} of {counted(self._size, 'operations')} at once have not ended in {self._within:g} s"
        wrong = [each for each in answers if not _is_right(each, self._expected)]
        return f"one of {self._size} operations at once returned {self._wrong(wrong[0])}" if wrong else ""

    def _wrong(self, answer: object) -> str:
        """Describe a wrong answer."""
        return repr(answer) if callable(self._expected) else f"{answer!r} instead of {self._expected!r}"

    async def _not_whole(self) -> str:
        """Ask whether the client is whole. Return what is wrong, or ""."""
        question = self._arguments.whole
        if question is None:
            return ""
        seen: list[object] = []

        async def is_whole() -> bool:
            try:
                answer = question()
                seen[:] = [await answer if isinstance(answer, Awaitable) else answer]
            except Exception as error:  # noqa: BLE001  # an answer: not whole
                seen[:] = [error]
                return False
            return is_true(seen[0])

        if await wait_until_async(is_whole, within=self._within, every=0.005):
            return ""
        return f"whole= was not true within {self._within:g} s, the last answer was {seen[0]!r}"

    async def _leaked(self) -> str:
        """Return the new resources and the surplus connections, or ""."""
        leaks: list[str] = []

        async def is_clean() -> bool:
            leaks[:] = self._find_leaks() if self._find_leaks is not None else []
            opened = len(self._proxy.connections())
            if self._size is not None and opened > self._opened:
                leaks.insert(0, f"{counted(opened, 'connections')} open instead of {self._opened}")
            elif self._size is None:  # a pool without a known size may grow
                leaks[:] = [
                    each for each in leaks if each.partition(":")[0] not in ("postgres", "redis", "socket", "fd")
                ]
            return not leaks

        await wait_until_async(is_clean, within=min(RELEASED_WITHIN, self._within), every=0.01)
        return f"leaked {'; '.join(leaks)}" if leaks else ""


async def _settle() -> None:
    """Let the tasks of the loop run on until they wait. A held message may have left before its sender waits for the answer.

    Until Python 3.11, `asyncio.wait_for` swallows a cancellation that meets it in between.
    """
    for _ in range(LOOP_TURNS):
        await asyncio.sleep(0)


class _Damage(Exception):
    """Damage that a cancellation has done."""


def _check_cancelled(task: asyncio.Future[Any] | None, within: float, *, may_return: bool) -> None:
    """Check that an operation was cancelled.

    Args:
        task: the operation; None if it still runs.
        within: the seconds that it had.
        may_return: True if its answer had arrived, so that it may have ended at once.
    """
    if task is None:
        raise _Damage(f"the operation still ran {within:g} s after it was cancelled and the network had healed")
    if task.cancelled():
        return
    if (error := task.exception()) is not None:
        raise _Damage(f"the operation raised {error!r} instead of CancelledError") from error
    if not may_return:
        raise _Damage(f"the operation swallowed its cancellation: it returned {task.result()!r}")


def _innermost_line(coroutine: object) -> str:
    """Return file, line and function in which a coroutine waits, in code that is neither the standard library nor installed."""
    places = ["outside of Python"]
    own = []
    for frame in frames_of(coroutine):
        file = frame.f_code.co_filename
        place = f"at {file}:{frame.f_lineno} in {frame.f_code.co_name}"
        places.append(place)
        if (
            "site-packages" not in file
            and not file.startswith(STANDARD_LIBRARY)
            and frame.f_globals["__name__"] != __name__
        ):
            own.append(place)
    return own[-1] if own else places[-1]


def _is_right(answer: object, expected: object) -> bool:
    return bool(expected(answer)) if callable(expected) else _comparable(answer) == _comparable(expected)


def _comparable(answer: Any) -> object:
    """Return what is equal for equal answers: status and content of an HTTP response, the answer itself otherwise."""
    is_response = hasattr(answer, "status_code") and hasattr(answer, "content")
    return (answer.status_code, answer.content) if is_response else answer
