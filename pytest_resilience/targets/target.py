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
from .means import ProcessLimits


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

    def refuse(self) -> Strike:
        """Refuse new connections (ECONNREFUSED) and cut those that exist."""
        return Refuse().strike(self)

    def reset(self) -> Strike:
        """Reset (RST) every connection, idle ones too, and each new one as soon as it is there."""
        return Reset().strike(self)

    def blackhole(self, direction: str = "both") -> Strike:
        """Swallow what is sent without closing anything; `direction` is "both", "up" (to the server) or "down"."""
        return Blackhole(direction).strike(self)

    def latency(self, seconds: float, jitter: float = 0.0) -> Strike:
        """Delay the server's answers by `seconds`, give or take `jitter` seconds."""
        return Latency(seconds, jitter).strike(self)

    def bandwidth(self, bytes_per_s: float) -> Strike:
        """Limit each connection and direction to `bytes_per_s` (at least 1000, in steps of 1000)."""
        return Bandwidth(bytes_per_s).strike(self)

    def slow_close(self, seconds: float) -> Strike:
        """Hold back the end of a connection for `seconds`, in both directions."""
        return SlowClose(seconds).strike(self)

    def slicer(self, average_bytes: int = 1, variation_bytes: int = 0, delay: float = 0.0) -> Strike:
        """Cut the server's answers into pieces of `average_bytes`, give or take, with `delay` seconds between them."""
        return Slicer(average_bytes, variation_bytes, delay).strike(self)

    def limit_data(self, bytes: int) -> Strike:  # noqa: A002  # the name is fixed, and Toxiproxy's
        """Close each connection after `bytes` of the server's answers."""
        return LimitData(bytes).strike(self)

    def flap(self, down: float = 0.1, up: float = 0.1, unit: str = "seconds") -> Strike:
        """Refuse and let in, in turn; `down` and `up` are seconds, or counted "connections"."""
        return Flap(down, up, unit).strike(self)

    def half_open(self) -> Strike:
        """Connections that exist now go silent for ever, new ones work; the heal closes the silent ones."""
        return HalfOpen().strike(self)

    def slow_accept(self, seconds: float) -> Strike:
        """Let new connections wait `seconds` before they reach the server."""
        return SlowAccept(seconds).strike(self)

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

    def kill(self) -> Strike:
        """SIGKILL to all of its processes; the heal starts it again on the same port."""
        return Kill().strike(self)

    def pause(self) -> Strike:
        """SIGSTOP to all of its processes; the heal lets them run on."""
        return Pause().strike(self)

    def restart(self) -> Strike:
        """Stop it in good order and start it again, before the call returns."""
        return Restart().strike(self)


class ResourceFaults(Target):
    """Faults of processes that run short of something; each strikes the whole tree, and what is born in it meanwhile."""

    @property
    def limits(self) -> ProcessLimits:
        """What the processes may use."""
        raise AssertionError(f"{type(self).__name__} has no process of its own")

    def memory_pressure(self, headroom_mb: float) -> Strike:
        """Lower the data limit of each process to present use plus `headroom_mb` MiB (Linux)."""
        return MemoryPressure(headroom_mb).strike(self)

    def memory_limit(self, headroom_mb: float) -> Strike:
        """Let the kernel kill a process when all together take over `headroom_mb` MiB more (Linux, where control groups can be made)."""
        return MemoryLimit(headroom_mb).strike(self)

    def exhaust_descriptors(self, left: int = 0) -> Strike:
        """Let each process open `left` more files and connections, and no more (Linux)."""
        return ExhaustDescriptors(left).strike(self)

    def starve_cpu(self, share: float = 0.1) -> Strike:
        """Bind all processes to one processor and leave a busy one about `share` of it (Linux)."""
        return StarveCpu(share).strike(self)
