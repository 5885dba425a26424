"""What the `resilience` fixture hands out: systems, with a method for each fault that strikes them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import HealFailed
from ..faults.cancellation import Answer, Moment, cancel
from ..faults.fault import Strike
from ..faults.network import (
    Bandwidth,
    Blackhole,
    Flap,
    HalfOpen,
    Latency,
    LimitData,
    Refuse,
    Reset,
    Slicer,
    SlowAccept,
    SlowClose,
)
from ..faults.process import Kill, Pause, ProcessControl, Restart
from ..faults.resources import ExhaustDescriptors, MemoryLimit, MemoryPressure, StarveCpu
from ..proxy_client.handle import ProxyHandle
from ..wording import no_attribute
from .fault_method import fault_method
from .process_limits import ProcessLimits


class StrikeRegistry:
    """The strikes of one test, or of a session, in order; heals them in the opposite one."""

    def __init__(self) -> None:
        self.strikes: list[Strike] = []

    def heal(self) -> None:
        """Heal all that is not healed, the latest first; one that fails does not keep the others from healing.

        Raises:
            HealFailed: one or more could not be healed; names each.
        """
        failures: list[HealFailed] = []
        for strike in reversed(self.strikes):
            try:
                strike.heal()
            except HealFailed as failure:
                failures.append(failure)
        if failures:
            raise HealFailed("; ".join(str(failure) for failure in failures)) from failures[0]


class Target:
    """A system that faults strike.

    Args:
        name: first half of a fault's label, such as "redis".
        ledger: where its strikes are written, so that they are healed at the end at the latest.
        cannot: the faults that can't be injected, by their names, each with the reason.
    """

    def __init__(self, name: str, ledger: StrikeRegistry, *, cannot: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._ledger = ledger
        self._cannot = cannot or {}

    def unsupported(self, fault: str) -> str | None:
        """Why that fault can't be injected here; None when it can."""
        return self._cannot.get(fault)

    def register(self, strike: Strike) -> Strike:
        """Remember a strike; returns it."""
        self._ledger.strikes.append(strike)
        return strike

    if not TYPE_CHECKING:  # type checkers see wrong names by themselves

        def __getattr__(self, name: str) -> Any:
            __tracebackhide__ = True
            raise no_attribute(self, name)


class NetworkFaults(Target):
    """Faults of the connections to a server; each strikes at once, and heals with its `with` block, `heal()` or the test."""

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
    flap = fault_method(Flap)
    half_open = fault_method(HalfOpen)
    slow_accept = fault_method(SlowAccept)

    async def cancel(
        self,
        operation: Callable[[], Coroutine[Any, Any, object]],
        *,
        then: Callable[[], Awaitable[Answer]] | None = None,
        heal: Moment = "before",
        within: float = 5.0,
        after_connect: bool = False,
    ) -> Answer | None:
        """Cancel an operation of this process's own client after it was sent, while its answer is held back in the proxy.

        Args:
            operation: a coroutine function that asks the server through the proxy.
            then: the next operation, as a rule on the same client or pool.
            heal: whether the network heals "before" the next operation, "during" it (when its answer is held back too), or "after" it
                (which then needs a timeout of its own).
            within: seconds that each step may take.
            after_connect: run the operation once before the fault strikes, for a client that connects at its first operation.
                Otherwise the answer held back is one of its handshake, and the receipt says so.

        Returns:
            What `then` returned; it may raise what it likes.

        Raises:
            SetupError: the operation ended before an answer was held back, or got no answer at all.
            NeverHappened: the operation does not end although it was cancelled and the network has healed; or it swallowed its
                cancellation and returned or raised something else.
        """
        return await cancel(self, operation, then=then, heal=heal, within=within, after_connect=after_connect)


class ProcessFaults(Target):
    """Faults of a system's processes."""

    @property
    def process_control(self) -> ProcessControl:
        """The processes."""
        raise AssertionError(f"{type(self).__name__} has no processes")

    kill = fault_method(Kill)
    pause = fault_method(Pause)

    def restart(self) -> Strike:
        """Stop the processes in order and start them again, before the call returns."""
        return Restart().strike(self)


class ResourceFaults(Target):
    """Faults of processes that run short of something; each strikes the whole tree, and what is born in it meanwhile."""

    @property
    def limits(self) -> ProcessLimits:
        """What the processes may use."""
        raise AssertionError(f"{type(self).__name__} has no process of its own")

    memory_pressure = fault_method(MemoryPressure)
    memory_limit = fault_method(MemoryLimit)
    exhaust_descriptors = fault_method(ExhaustDescriptors)
    starve_cpu = fault_method(StarveCpu)
