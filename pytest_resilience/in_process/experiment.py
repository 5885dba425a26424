"""Experiments that begin before a fault, notice each strike, and end after the heal. They have one form for sync and async tests."""

from __future__ import annotations

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from ..clock import SYSTEM
from ..errors import SetupError
from ..faults.fault import Strike
from .silence import Quiet
from .workers import Workers

WORKERS_INTERVAL = 0.02  # seconds between two looks at the processes
Value = TypeVar("Value")


class Strikes(Protocol):
    """The strikes of a test.

    Attributes:
        listeners: called with each new strike.
        strikes: the strikes in order, healed or not.
    """

    listeners: list[Callable[[Strike], None]]
    strikes: list[Strike]

    def struck_systems(self) -> list[object]:
        """Return the systems that are struck now."""

    def active(self) -> list[Strike]:
        """Return the strikes that are not healed."""


class Experiment(ABC):
    """An experiment over the strikes of a test.

    In a sync test it begins at once, and ends with its `with` block or with the test. In an async test it is an `async with` block.
    """

    def __init__(self, strikes: Strikes, name: str, workers: Workers) -> None:
        self._strikes = strikes
        self._name = name
        self._workers = workers
        self._loop = asyncio._get_running_loop()
        self._in_loop = self._loop is not None
        self._ended = False
        self._tasks: list[asyncio.Future[None]] = []
        self._begun_after = 0  # strikes
        if not self._in_loop:
            self._finish(self._start())

    @abstractmethod
    async def _begin(self) -> None:
        """Do what comes before the strikes."""

    @abstractmethod
    async def _struck(self, strike: Strike) -> None:
        """Do what comes during a strike."""

    @abstractmethod
    async def _end(self) -> None:
        """Do what comes after the heal."""

    async def _start(self) -> None:
        self._workers.begin(in_loop=self._in_loop)
        self._begun_after = len(self._strikes.strikes)
        try:
            await self._begin()
            self._workers.add_new(in_loop=self._in_loop)
        except BaseException:
            self._ended = True
            self._workers.end()
            raise
        self._strikes.listeners.append(self._on_strike)

    def _on_strike(self, strike: Strike) -> None:
        self._workers.exclude(self._strikes.struck_systems())
        if not self._in_loop:
            self._finish(self._struck(strike))
        elif asyncio._get_running_loop() is self._loop:  # a play in another loop blocks this one
            self._tasks.append(asyncio.ensure_future(self._struck(strike)))

    async def _has_a_death(self, deadline: float) -> bool:
        """True if something has died that nothing has replaced before a deadline.

        A pool may always be about to replace a worker. So one moment without a lost worker is enough.
        """
        lost = self._workers.lost()
        while lost and self._workers.may_be_replaced and SYSTEM.now() < deadline:
            await self._pause(WORKERS_INTERVAL)
            lost = self._workers.lost()
        return bool(lost or self._workers.failed())

    def _nothing_was_broken(self) -> bool:
        """True if there was nothing but silence since the begin."""
        return all(isinstance(strike.fault, Quiet) for strike in self._strikes.strikes[self._begun_after :])

    def _labels(self) -> list[str]:
        """Return the labels of what has struck so far."""
        return [strike.label for strike in self._strikes.strikes]

    def end(self) -> None:
        """End the experiment now. Further calls do nothing."""
        __tracebackhide__ = True
        if self._ended:
            return
        self._close()
        if self._in_loop:
            raise SetupError(f"{self._name} is used as `async with resilience.{self._name}(...)` in an async test")
        try:
            self._finish(self._end())
        finally:
            self._workers.end()

    def abandon(self) -> None:
        """End the experiment without a look at its results. Do nothing if it has ended."""
        if not self._ended:
            self._close()
            self._workers.end()

    def _close(self) -> None:
        self._ended = True
        if self._on_strike in self._strikes.listeners:
            self._strikes.listeners.remove(self._on_strike)

    def __enter__(self) -> Self:
        if self._in_loop:
            self._ended = True
            raise SetupError(f"use `async with resilience.{self._name}(...)` in an async test")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        if error is None:
            self.end()
        else:
            self.abandon()

    async def __aenter__(self) -> Self:
        if not self._in_loop:
            self._ended = True
            raise SetupError(f"{self._name} was made outside of the event loop; make it in the `async with` statement")
        await self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        self._close()
        try:
            if error is not None:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
                return
            await asyncio.gather(*self._tasks)
            await self._end()
        finally:
            self._workers.end()

    async def _call(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Call a function, sync or async."""
        value = function(*arguments)
        if not inspect.isawaitable(value):
            return value
        if not self._in_loop:
            if inspect.iscoroutine(value):
                value.close()
            raise SetupError(
                f"{self._name}: an async function needs an async test, and `async with resilience.{self._name}(...)`"
            )
        return await value

    async def _pause(self, seconds: float) -> None:
        if self._in_loop:
            await asyncio.sleep(seconds)
        else:
            SYSTEM.sleep(seconds)

    @staticmethod
    def _finish(coroutine: Coroutine[Any, Any, Value]) -> Value:
        """Run a coroutine that never suspends, because outside of an event loop all waiting blocks."""
        __tracebackhide__ = True
        try:
            coroutine.send(None)
        except StopIteration as stop:
            value: Value = stop.value
            return value
        coroutine.close()
        raise AssertionError("a coroutine outside of an event loop has suspended")
