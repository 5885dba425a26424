"""The recording of any function's calls, for `History.recorded`."""

from __future__ import annotations

import functools
import inspect
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast
from weakref import WeakKeyDictionary

from .errors import SetupError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Begun(Protocol):
    """An operation that has begun."""

    def ok(self, **seen: Any) -> object:
        """Record that it has happened."""

    def fail(self, error: object) -> object:
        """Record that it has not happened."""

    def info(self, error: object) -> object:
        """Record that it may have happened."""


class Caller(Protocol):
    """A client of a history."""

    @property
    def invocation(self) -> object | None:
        """The operation that has not ended."""


Client = TypeVar("Client", bound=Caller)


def record_calls(
    function: Callable[Arguments, Result],
    invoke: Callable[Arguments, Begun],
    *,
    result_is_value: bool,
    fails: tuple[type[Exception], ...],
) -> Callable[Arguments, Result]:
    """Return a function of the same kind that records each call of `function`.

    Args:
        function: the function, or coroutine function.
        invoke: begins an operation, with the arguments of a call.
        result_is_value: True if the value of an ok operation is the result.
        fails: exceptions that prove that a call has not happened.

    Raises:
        SetupError: it is a generator function, whose calls have no end.
    """
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise SetupError(f"recorded({function!r}): a generator has no outcome; record the function that consumes it")

    def end(begun: Begun, result: Any) -> Any:
        begun.ok(value=result) if result_is_value else begun.ok()
        return result

    def end_with(begun: Begun, error: BaseException) -> None:
        if isinstance(error, Exception) and isinstance(error, fails):
            begun.fail(error)
        else:
            begun.info(error)

    async def awaited(begun: Begun, coroutine: Coroutine[Any, Any, Any]) -> Any:
        try:
            result = await coroutine
        except BaseException as error:
            end_with(begun, error)
            raise
        return end(begun, result)

    @functools.wraps(function)
    async def call_async(*arguments: Arguments.args, **keywords: Arguments.kwargs) -> Any:
        call = cast("Callable[Arguments, Coroutine[Any, Any, Any]]", function)
        return await awaited(invoke(*arguments, **keywords), call(*arguments, **keywords))

    @functools.wraps(function)
    def call(*arguments: Arguments.args, **keywords: Arguments.kwargs) -> Any:
        begun = invoke(*arguments, **keywords)
        try:
            result = function(*arguments, **keywords)
        except BaseException as error:
            end_with(begun, error)
            raise
        return awaited(begun, result) if inspect.iscoroutine(result) else end(begun, result)

    return cast("Callable[Arguments, Result]", call_async if _is_async(function) else call)


def _is_async(function: Callable[..., object]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


class Callers(Generic[Client]):
    """The clients of threads and tasks, one for each.

    Args:
        create: returns a new client.
    """

    def __init__(self, create: Callable[[], Client]) -> None:
        self._create = create
        self._threads = threading.local()
        self._tasks: WeakKeyDictionary[Any, Client] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def client(self) -> Client:
        """Return the client of the running task, or of the thread outside of tasks.

        A caller with an operation that has not ended gets another client, because a client performs one at a time.
        """
        task = _running_task()
        client = self._of_thread() if task is None else self._of_task(task)
        return client if client.invocation is None else self._create()

    def _of_thread(self) -> Client:
        client: Client | None = getattr(self._threads, "client", None)
        if client is None:
            client = self._threads.client = self._create()
        return client

    def _of_task(self, task: Any) -> Client:
        with self._lock:
            client = self._tasks.get(task)
            if client is None:
                client = self._tasks[task] = self._create()
            return client


def _running_task() -> object | None:
    """Return the asyncio task that runs in this thread, or None."""
    asyncio = sys.modules.get("asyncio")  # without it there is no task
    if asyncio is None:
        return None
    try:
        task: object | None = asyncio.current_task()
    except RuntimeError:
        return None
    return task
