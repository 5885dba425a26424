"""The clients of a play: threads for a synchronous workload, tasks of an event loop for an asynchronous one."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from ..errors import SetupError
from ..history import Client
from ..workloads.workload import Workload
from .gate import Gate

END_WITHIN = 30.0  # seconds in which each operation has to end while no fault is active
CANCEL_DELAY = 0.001  # seconds from the begin of an operation to its cancellation, if none was in flight at the strike
SYNCHRONOUS = "the workload is synchronous, and only operations of an event loop can be cancelled"
Record = Callable[[int], None]


class OperationStuck(Exception):
    """An operation has not ended although no fault is active."""


def is_asynchronous(workload: Workload) -> bool:
    """True if the clients of a workload are tasks."""
    return inspect.iscoroutinefunction(workload.perform)


class Clients(ABC):
    """The clients of a play.

    Args:
        workload: the workload, which they share.
    """

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._failures: list[BaseException] = []
        self._over = threading.Event()
        self._over.set()
        self._left = 0
        self._counting = threading.Lock()

    @abstractmethod
    def begin(self, resilience: Any) -> None:
        """Prepare the workload."""

    @abstractmethod
    def end(self) -> None:
        """Release what the workload has taken."""

    @abstractmethod
    def perform(self, client: Client, kind: str, n: int) -> None:
        """Perform one operation and return after it. For the phases in which no client works.

        Raises:
            OperationStuck: the operation has not ended within 30 s.
        """

    @abstractmethod
    def read_all(self, client: Client) -> None:
        """Read everything that was written, while no client works.

        Raises:
            OperationStuck: the reads have not ended within 30 s.
        """

    @abstractmethod
    def cancel(self, record: Record) -> str | None:
        """Cancel the operations in flight. See `Striker`."""

    @abstractmethod
    def _start(self, gate: Gate, clients: Sequence[Client]) -> None:
        """Start one thread or task for each client."""

    @abstractmethod
    def _join(self) -> None:
        """Wait for the ends of all threads or tasks."""

    def start(self, gate: Gate, clients: Sequence[Client]) -> None:
        """Let the clients work until the gate is closed or has no number left."""
        self._over.clear()
        self._left = len(clients)
        self._start(gate, clients)

    def wait(self, seconds: float) -> bool:
        """Wait until no client works, but not longer than some seconds. Return True if none works."""
        return self._over.wait(seconds)

    def join(self) -> None:
        """Wait until no client works. The gate is closed, and everything has healed.

        Raises:
            OperationStuck: an operation has not ended within 30 s.
        """
        if not self._over.wait(END_WITHIN):
            raise OperationStuck
        self._join()

    @abstractmethod
    def abandon(self) -> None:
        """Cancel the operations that do not end, where that is possible."""

    def raise_failure(self) -> None:
        """Raise the first exception that an operation has raised instead of recording it."""
        if self._failures:
            raise self._failures[0]

    def _ended(self, failure: BaseException | None, gate: Gate) -> None:
        """Count the end of one client."""
        if failure is not None:
            self._failures.append(failure)
            gate.close()
        with self._counting:
            self._left -= 1
            if self._left == 0:
                self._over.set()


class ThreadClients(Clients):
    """Clients of a synchronous workload. Each is a thread while it works."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self._threads: list[threading.Thread] = []

    def begin(self, resilience: Any) -> None:
        self._workload.begin(resilience)

    def end(self) -> None:
        self._workload.end()

    def perform(self, client: Client, kind: str, n: int) -> None:
        self._call(lambda: self._workload.perform(client, kind, n))

    def read_all(self, client: Client) -> None:
        self._call(lambda: self._workload.read_all(client))

    def cancel(self, record: Record) -> str | None:
        return SYNCHRONOUS

    def _start(self, gate: Gate, clients: Sequence[Client]) -> None:
        self._threads = [
            threading.Thread(
                target=contextvars.copy_context().run,
                args=(self._work, client, gate),
                name=f"resilience-client-{client.number}",
                daemon=True,
            )
            for client in clients
        ]
        for thread in self._threads:
            thread.start()

    def _call(self, call: Callable[[], object]) -> None:
        """Call in a thread, because only that bounds the waiting."""
        result: Future[None] = Future()

        def run() -> None:
            try:
                call()
            except BaseException as error:  # noqa: BLE001  # raised by `result` in the thread that plays
                result.set_exception(error)
            else:
                result.set_result(None)

        threading.Thread(
            target=contextvars.copy_context().run, args=(run,), name="resilience-client", daemon=True
        ).start()
        _wait_for(result, END_WITHIN)

    def abandon(self) -> None:
        self._threads.clear()  # a thread can't be cancelled, and these end with the process

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _work(self, client: Client, gate: Gate) -> None:
        failure: BaseException | None = None
        try:
            while (number := gate.take()) is not None:
                self._workload.perform(client, self._workload.kind(number), number)
        except BaseException as error:  # noqa: BLE001  # raised by `raise_failure` in the thread that plays
            failure = error
        self._ended(failure, gate)


class TaskClients(Clients):
    """Clients of an asynchronous workload. Each is a task of one event loop while it works.

    Args:
        workload: the workload.
        loop: the loop, which runs in another thread than the one that calls the methods.
    """

    def __init__(self, workload: Workload, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(workload)
        self._loop = loop
        self._takers = ThreadPoolExecutor(1, thread_name_prefix="resilience-gate")  # the gate blocks
        self._working: list[asyncio.Task[None]] = []
        self._in_flight: set[asyncio.Task[None]] = set()
        self._cancel_next: list[Record] = []
        self._stuck: list[Future[None]] = []

    def begin(self, resilience: Any) -> None:
        self._run(self._await(lambda: self._workload.begin(resilience)), within=None)

    def end(self) -> None:
        try:
            self._run(self._await(self._workload.end), within=END_WITHIN)
        except OperationStuck:
            self._cancel_stuck()
            raise SetupError(
                f"end() of the workload has not returned within {END_WITHIN:g} s; a task that it awaits may have swallowed its cancellation"
            ) from None
        finally:
            self._takers.shutdown()

    def perform(self, client: Client, kind: str, n: int) -> None:
        self._run(self._await(lambda: self._workload.perform(client, kind, n)), within=END_WITHIN)

    def read_all(self, client: Client) -> None:
        self._run(self._await(lambda: self._workload.read_all(client)), within=END_WITHIN)

    def cancel(self, record: Record) -> str | None:
        self._run(self._cancel(record), within=END_WITHIN)
        return None

    async def _await(self, call: Callable[[], Any]) -> None:
        result = call()
        if inspect.isawaitable(result):
            await result

    def _run(self, coroutine: Coroutine[Any, Any, None], *, within: float | None) -> None:
        """Run a coroutine in the loop and return after it. If the waiting is interrupted, the coroutine is cancelled."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            _wait_for(future, within)
        except OperationStuck:
            self._stuck.append(future)
            raise
        except BaseException:
            future.cancel()
            raise

    def _start(self, gate: Gate, clients: Sequence[Client]) -> None:
        context = contextvars.copy_context()

        async def start() -> None:
            self._working = [
                self._loop.create_task(self._work(client, gate), context=context.copy()) for client in clients
            ]

        self._run(start(), within=END_WITHIN)

    def _join(self) -> None:
        async def join() -> None:
            if self._working:
                await asyncio.wait(self._working)
            self._working.clear()
            self._cancel_next.clear()

        self._run(join(), within=END_WITHIN)

    def abandon(self) -> None:
        async def abandon() -> None:
            for task in (*self._in_flight, *self._working):
                task.cancel()
            self._cancel_stuck()

        self._run(abandon(), within=END_WITHIN)

    def _cancel_stuck(self) -> None:
        for future in self._stuck:
            future.cancel()

    async def _work(self, client: Client, gate: Gate) -> None:
        failure: BaseException | None = None
        try:
            while (number := await self._loop.run_in_executor(self._takers, gate.take)) is not None:
                await self._perform(client, number)
        except BaseException as error:  # noqa: BLE001  # raised by `raise_failure` in the thread that plays
            failure = error
        self._ended(failure, gate)

    async def _perform(self, client: Client, number: int) -> None:
        """Perform an operation in a task of its own, which can be cancelled without its client."""
        task = self._loop.create_task(self._operation(client, number))
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()  # does nothing to one that is done
        if task.cancelled():
            client.give_up("CancelledError")  # unless the workload has recorded it
        else:
            task.result()

    async def _operation(self, client: Client, number: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._in_flight.add(task)
        timer = self._loop.call_later(CANCEL_DELAY, self._cancel_late) if self._cancel_next else None
        try:
            await self._await(lambda: self._workload.perform(client, self._workload.kind(number), number))
        finally:
            self._in_flight.discard(task)
            if timer is not None:
                timer.cancel()

    async def _cancel(self, record: Record) -> None:
        """Cancel the operations in flight, or else the next one that is in flight for long enough."""
        if not self._cancel_in_flight(record):
            self._cancel_next.append(record)

    def _cancel_late(self) -> None:
        if self._cancel_next and self._cancel_in_flight(self._cancel_next[0]):
            self._cancel_next.pop(0)

    def _cancel_in_flight(self, record: Record) -> bool:
        """Cancel the operations in flight. Return False if there is none."""
        running = list(self._in_flight)
        if running:
            record(len(running))
        for task in running:
            task.cancel()
        return bool(running)


def _wait_for(call: Future[None], within: float | None) -> None:
    """Return or raise what a call does.

    Raises:
        OperationStuck: the call has not ended within so many seconds; never for None.
    """
    ended, _ = wait([call], timeout=within)
    if not ended:
        raise OperationStuck
    call.result()
