"""Base classes of targets: the objects of the `resilience` fixture, with a method for each fault."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import HealFailed, ProcessEnded
from ..faults.cancel_everywhere import Arguments, Cancellations, LeakSearch, cancel_everywhere
from ..faults.cancellation import Moment, Result, cancel
from ..faults.fault import Fault, Strike
from ..faults.network import (
    Bandwidth,
    Blackhole,
    Flap,
    HalfOpen,
    Latency,
    LimitData,
    ProtocolViolation,
    Refuse,
    Reset,
    Slicer,
    SlowAccept,
    SlowClose,
)
from ..faults.process import Kill, Pause, ProcessControl, Restart
from ..faults.resources import ExhaustDescriptors, MemoryLimit, MemoryPressure, StarveCpu
from ..proxy_client.handle import ProxyHandle
from ..unused import must_be_awaited
from ..wording import no_attribute
from .fault_method import fault_method
from .process_limits import ProcessLimits


class StrikeRegistry:
    """The strikes of one test or session, in order. They heal in reverse order.

    Args:
        session: the registry of the session, for that of a test; None for the registry of a session.

    Attributes:
        listeners: called with each new strike.
        begin_leak_search: takes a snapshot of the resources of the test and returns the search for new ones; None without a check.
    """

    def __init__(self, session: StrikeRegistry | None = None) -> None:
        self.strikes: list[Strike] = []
        self.listeners: list[Callable[[Strike], None]] = []
        self.begin_leak_search: Callable[[], LeakSearch] | None = None
        # The active strikes of the session and all its tests, each with the system that it strikes.
        self._active: list[tuple[object, Strike]] = session._active if session is not None else []

    def add(self, system: object, strike: Strike) -> None:
        """Append a strike on a system. Equal systems are one."""
        self.strikes.append(strike)
        self._active[:] = [(each, other) for each, other in self._active if not other.healed]
        self._active.append((system, strike))

    def notify(self, strike: Strike) -> None:
        """Call the listeners with a new strike."""
        for listener in [*self.listeners]:
            listener(strike)

    def active(self) -> list[Strike]:
        """Return the strikes on all systems that are not healed, in order, those of the session included."""
        return [strike for _, strike in self._active if not strike.healed]

    def struck_systems(self) -> list[object]:
        """Return the systems that are struck now."""
        return [system for system, strike in self._active if not strike.healed]

    def active_on(self, system: object) -> list[Strike]:
        """Return the strikes on a system that are not healed, in order, those of the session included."""
        return [strike for each, strike in self._active if each == system and not strike.healed]

    def heal(self) -> None:
        """Heal all active strikes, the latest first. A failed heal does not prevent the others.

        A heal that another strike prevented is tried once more after the others.

        Raises:
            HealFailed: one or more strikes could not be healed; the message names each.
        """
        failures: list[HealFailed] = []
        for strike in [*self._heal_each(reversed(self.strikes), failures)]:
            try:
                strike.heal()
            except HealFailed as failure:
                failures.append(failure)
        if failures:
            blocked_by = [label for failure in failures for label in failure.blocked_by]
            raise HealFailed("; ".join(str(failure) for failure in failures), blocked_by=blocked_by) from failures[0]

    @staticmethod
    def _heal_each(strikes: Iterable[Strike], failures: list[HealFailed]) -> list[Strike]:
        """Heal strikes and append the failures. Return the strikes whose heal another strike prevented."""
        prevented: list[Strike] = []
        for strike in strikes:
            try:
                strike.heal()
            except HealFailed as failure:
                if failure.blocked_by:
                    prevented.append(strike)
                else:
                    failures.append(failure)
        return prevented


class Target:
    """A system that faults strike.

    Args:
        name: the first half of a fault's label, such as "redis".
        ledger: the registry of strikes, which heals them at the end of the test at the latest.
        cannot: the reason for each fault that can't be injected, by its name.
    """

    def __init__(self, name: str, ledger: StrikeRegistry, *, cannot: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._ledger = ledger
        self._cannot = cannot or {}

    def unsupported(self, fault: str) -> str | None:
        """Return the reason for which a fault can't be injected here, or None if it can."""
        return self._cannot.get(fault)

    def ended(self) -> ProcessEnded | None:
        """Return the error for a strike on processes that have ended, or None if that is unknown or they run."""
        return None

    def register(self, strike: Strike) -> Strike:
        """Register a strike, and return it."""
        self._ledger.add(self.system, strike)
        strike.overlap_with(self.active_strikes, self._ledger.active)
        self._ledger.notify(strike)
        return strike

    def inject(self, fault: Fault) -> Strike:
        """Strike a fault on this target, and return the strike."""
        __tracebackhide__ = True
        return fault.strike(self)

    @property
    def system(self) -> object:
        """The struck system. Targets of one system have equal ones."""
        return self.name

    def active_strikes(self) -> list[Strike]:
        """Return the strikes on this target that are not healed, those of the session included."""
        return self._ledger.active_on(self.system)

    if not TYPE_CHECKING:  # type checkers detect unknown names without this

        def __getattr__(self, name: str) -> Any:
            __tracebackhide__ = True
            raise no_attribute(self, name)


class NetworkFaults(Target):
    """Network faults: each strikes at once, and heals with its `with` block, `heal()` or the end of the test."""

    @property
    def proxy_handle(self) -> ProxyHandle:
        """The proxy in front of the server."""
        raise AssertionError(f"{type(self).__name__} has no proxy")

    refuse = fault_method(Refuse)
    reset = fault_method(Reset)
    blackhole = fault_method(Blackhole)
    latency = fault_method(Latency)
    bandwidth = fault_method(Bandwidth)
    slow_close = fault_method(SlowClose)
    slicer = fault_method(Slicer)
    limit_data = fault_method(LimitData)
    protocol_violation = fault_method(ProtocolViolation)
    flap = fault_method(Flap)
    half_open = fault_method(HalfOpen)
    slow_accept = fault_method(SlowAccept)

    @must_be_awaited
    async def cancel(
        self,
        operation: Callable[[], Coroutine[Any, Any, object]],
        *,
        then: Callable[[], Awaitable[Result]] | None = None,
        heal: Moment = "before",
        within: float = 5.0,
        after_connect: bool = False,
    ) -> Result | None:
        """Cancel an operation of a client in this process after its request was sent, while the proxy holds the response.

        Args:
            operation: a coroutine function that sends a request to the server through the proxy.
            then: the next operation, usually on the same client or pool.
            heal: "before" the next operation, "during" it (its response is held too), or "after" it (the operation then needs a
                timeout).
            within: the maximum seconds for each step.
            after_connect: run the operation once before the fault strikes, for a client that connects at its first operation.
                Otherwise the held response belongs to the handshake, and the receipt notes that.

        Returns:
            The result of `then`. An exception of `then` is passed on.

        Raises:
            SetupError: the operation ended before a response was held, or no response came.
            NeverHappened: the operation did not end after its cancellation and the heal, or it swallowed the cancellation and
                returned or raised something else.
        """
        return await cancel(self, operation, then=then, heal=heal, within=within, after_connect=after_connect)

    @must_be_awaited
    async def cancel_everywhere(
        self,
        operation: Callable[[], Coroutine[Any, Any, object]],
        *,
        then: Callable[[], Awaitable[Any]] | None = None,
        answer: object = None,
        whole: Callable[[], object] | None = None,
        size: int | Callable[[], int] | None = None,
        within: float = 5.0,
    ) -> Cancellations:
        """Run an operation again and again, and cancel it at each point at which it waits for the network.

        The points are: after each message was sent (it is held on its way to the server), before each answer (the server has
        executed the message), and as each answer arrives. At the first two, the network heals before the next operation, during
        it (it is held, too) and after it (it is cancelled, too). After each cancellation, the next operation must return the
        right answer, the pool must be whole, and no task, thread or connection may be left over.

        Args:
            operation: a coroutine function of a client in this process. It is run, and cancelled, many times.
            then: the next operation; None for `operation`. With an answer that differs from that of `operation`, answers that
                reach the wrong caller are found.
            answer: the right answer of `then`, or a function that returns True for it. None for what `then` returns before the
                first cancellation.
            whole: a question, sync or async, that must have a true answer after each cancellation, such as whether the pool
                has all its connections.
            size: the number of connections that the client can use at once, or a function that returns it. After each
                cancellation, so many operations run at once, each on a connection of its own, and no more connections may be
                open. None to compare no connections, because a pool without a known size may grow.
            within: the maximum seconds for each step.

        Returns:
            The number of messages and the points.

        Raises:
            NotCancellationSafe: a cancellation has damaged the client; the message names the point.
            SetupError: something is wrong before the first cancellation, or the operation sends nothing.
            CannotInject: the proxy is a real Toxiproxy, which does not report what it holds.
        """
        arguments = Arguments(operation, then or operation, answer, whole, size, within)
        return await cancel_everywhere(self, arguments, self._ledger.begin_leak_search)


class ProcessFaults(Target):
    """Faults of the processes of a system."""

    @property
    def process_control(self) -> ProcessControl:
        """The processes."""
        raise AssertionError(f"{type(self).__name__} has no processes")

    kill = fault_method(Kill)
    pause = fault_method(Pause)

    def restart(self) -> Strike:
        """Stop the processes in order and start them again, before the call returns."""
        return self.inject(Restart())


class ResourceFaults(Target):
    """Resource faults: each strikes the whole process tree, including processes that start during the fault."""

    @property
    def limits(self) -> ProcessLimits:
        """The resource limits of the processes."""
        raise AssertionError(f"{type(self).__name__} has no process of its own")

    memory_pressure = fault_method(MemoryPressure)
    memory_limit = fault_method(MemoryLimit)
    exhaust_descriptors = fault_method(ExhaustDescriptors)
    starve_cpu = fault_method(StarveCpu)
