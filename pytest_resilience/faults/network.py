"""Faults of the network between a client and a server: what a Toxiproxy can do to a connection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from ..errors import CannotInject, SetupError
from ..proxy_client.counters import ProxyCounters, Tally
from ..proxy_client.handle import ProxyHandle
from .fault import Fault, FaultTarget, Receipt, Strike, at_least

FLAP_UNITS = ("seconds", "connections")
POLL_INTERVAL = 0.005  # seconds between two looks at the counters
STREAMS = {"up": ("upstream",), "down": ("downstream",), "both": ("upstream", "downstream")}


class HasProxy(FaultTarget, Protocol):
    """A target that is reached through a proxy of ours."""

    @property
    def proxy_handle(self) -> ProxyHandle: ...


class NetworkFault(Fault):
    """A fault that the proxy in front of a server injects."""

    targets: ClassVar[tuple[str, ...]] = ("postgres", "redis")


@dataclass(frozen=True)
class Refuse(NetworkFault):
    """Refuse new connections (ECONNREFUSED) and cut those that exist."""

    name: ClassVar[str] = "refuse"

    def strike(self, target: HasProxy) -> Strike:
        refusing = _RefuseStrike(target.proxy_handle)
        return target.register(
            Strike(self.label(target), self, heal=refusing.end, read_receipt=refusing.read_receipt, settles_late=True)
        )


class _RefuseStrike:
    """A door that is shut from now on, and what it refuses; the strike of a `Refuse`."""

    def __init__(self, proxy: ProxyHandle) -> None:
        self._proxy = proxy
        self._before = proxy.snapshot()
        self._first_snapshot = len(proxy.snapshots)
        self._after: ProxyCounters | None = None
        proxy.disable()

    def end(self) -> None:
        """Open the proxy."""
        if self._proxy.disabled_by > 1:  # what it refuses from now on is another strike's
            self._after = self._proxy.stable_counters(self._before)
        self._proxy.enable()

    def read_receipt(self) -> Receipt:
        """What was refused or cut."""
        later = self._proxy.snapshots[self._first_snapshot :]
        if self._after is None and later:
            self._after = later[0]
        return refusals(self._proxy, self._before, self._after)


@dataclass(frozen=True)
class Reset(NetworkFault):
    """Reset (RST) every connection, idle ones too, and each new one as soon as it is there."""

    name: ClassVar[str] = "reset"

    def strike(self, target: HasProxy) -> Strike:
        strike = _strike_toxics(self, target, "reset_peer", ("downstream",), {"timeout": 0}, unit="connections")
        if target.proxy_handle.toxiproxy.has_counters is False:
            # The real Toxiproxy resets new connections only, and when they are answered; so these get a FIN.
            target.proxy_handle.drop_connections()
        return strike


@dataclass(frozen=True)
class Blackhole(NetworkFault):
    """Swallow what is sent, without closing anything: a dead peer, a dropped route. What was held is delivered at the heal, as a
    network would that retransmits.

    Args:
        direction: "both", "up" (towards the server) or "down" (its answers).
    """

    name: ClassVar[str] = "blackhole"
    direction: str = "both"

    def __post_init__(self) -> None:
        if self.direction not in STREAMS:
            raise SetupError(f"direction must be one of {', '.join(STREAMS)}, got {self.direction!r}")

    def strike(self, target: HasProxy) -> Strike:
        # A bandwidth of 0 holds data and keeps the connection; a timeout toxic would lose it and close at the heal.
        return _strike_toxics(self, target, "bandwidth", STREAMS[self.direction], {"rate": 0})


@dataclass(frozen=True)
class Latency(NetworkFault):
    """Delay the server's answers.

    Args:
        seconds: added to every round trip; whole milliseconds.
        jitter: give or take, in seconds.
    """

    name: ClassVar[str] = "latency"
    seconds: float
    jitter: float = 0.0

    def __post_init__(self) -> None:
        at_least(
            "seconds", self.seconds, 0.001, "s (a latency in seconds; a millisecond is the least that a proxy can do)"
        )
        at_least("jitter", self.jitter, 0, "s")

    def strike(self, target: HasProxy) -> Strike:
        attributes = {"latency": round(self.seconds * 1000), "jitter": round(self.jitter * 1000)}
        return _strike_toxics(self, target, "latency", ("downstream",), attributes)


@dataclass(frozen=True)
class Bandwidth(NetworkFault):
    """Limit each connection's rate, in both directions.

    Args:
        bytes_per_s: bytes per second and direction; at least 1000, in steps of 1000.
    """

    name: ClassVar[str] = "bandwidth"
    bytes_per_s: float

    def __post_init__(self) -> None:
        at_least("bytes_per_s", self.bytes_per_s, 1000, "bytes per second (use blackhole() to let nothing pass)")

    def strike(self, target: HasProxy) -> Strike:
        return _strike_toxics(self, target, "bandwidth", STREAMS["both"], {"rate": round(self.bytes_per_s / 1000)})


@dataclass(frozen=True)
class SlowClose(NetworkFault):
    """Hold back the end of a connection, in both directions.

    Args:
        seconds: from one side's close until the other side hears of it; whole milliseconds.
    """

    name: ClassVar[str] = "slow_close"
    seconds: float

    def __post_init__(self) -> None:
        at_least("seconds", self.seconds, 0.001, "s")

    def strike(self, target: HasProxy) -> Strike:
        attributes = {"delay": round(self.seconds * 1000)}
        return _strike_toxics(self, target, "slow_close", STREAMS["both"], attributes, unit="connections")


@dataclass(frozen=True)
class Slicer(NetworkFault):
    """Cut the server's answers into small pieces, as a bad network does: whoever reads a message with one recv() is found out.

    Args:
        average_bytes: size of a piece; at least 1.
        variation_bytes: give or take; at most the average.
        delay: seconds between two pieces.
    """

    name: ClassVar[str] = "slicer"
    average_bytes: int = 1
    variation_bytes: int = 0
    delay: float = 0.0

    def __post_init__(self) -> None:
        at_least("average_bytes", self.average_bytes, 1, "byte")
        at_least("variation_bytes", self.variation_bytes, 0, "bytes")
        at_least("delay", self.delay, 0, "s")
        if self.variation_bytes > self.average_bytes:
            raise SetupError(
                f"variation_bytes must be at most average_bytes, got {self.variation_bytes} of {self.average_bytes}"
            )

    def strike(self, target: HasProxy) -> Strike:
        attributes = {
            "average_size": round(self.average_bytes),
            "size_variation": round(self.variation_bytes),
            "delay": round(self.delay * 1_000_000),  # Toxiproxy counts this one in microseconds
        }
        return _strike_toxics(self, target, "slicer", ("downstream",), attributes)


@dataclass(frozen=True)
class LimitData(NetworkFault):
    """Close each connection after so many bytes of the server's answers: an answer that is cut off in the middle.

    Args:
        bytes: that pass, counted per connection from the strike on; 0 closes at the first.
    """

    name: ClassVar[str] = "limit_data"
    bytes: int

    def __post_init__(self) -> None:
        at_least("bytes", self.bytes, 0, "bytes")

    def strike(self, target: HasProxy) -> Strike:
        attributes = {"bytes": round(self.bytes)}
        return _strike_toxics(self, target, "limit_data", ("downstream",), attributes, unit="connections")


@dataclass(frozen=True)
class Flap(NetworkFault):
    """Down and up in turn, beginning with down, until healed.

    Args:
        down: how long connections are refused: seconds, or how many are refused.
        up: how long they are let in: seconds, or how many are let in.
        unit: "seconds" or "connections"; counts depend on nobody's speed, and so repeat.
    """

    name: ClassVar[str] = "flap"
    down: float = 0.1
    up: float = 0.1
    unit: str = "seconds"

    def __post_init__(self) -> None:
        if self.unit not in FLAP_UNITS:
            raise SetupError(f"unit must be one of {', '.join(FLAP_UNITS)}, got {self.unit!r}")
        least = 0.01 if self.unit == "seconds" else 1
        at_least("down", self.down, least, self.unit)
        at_least("up", self.up, least, self.unit)

    def strike(self, target: HasProxy) -> Strike:
        if self.unit == "connections" and target.proxy_handle.counters().toxics is None:
            raise CannotInject(
                f"{self.label(target)}: the real Toxiproxy does not count the connections that it refuses"
            )
        flapping = _Flapper(target.proxy_handle, self)
        return target.register(Strike(self.label(target), self, heal=flapping.stop, read_receipt=flapping.read_receipt))


class _Flapper:
    """A door that opens and shuts, in a thread of its own; the strike of a `Flap`."""

    def __init__(self, proxy: ProxyHandle, fault: Flap) -> None:
        self._proxy = proxy
        self._fault = fault
        self._before = proxy.counters()
        self._over = threading.Event()
        self._failure: Exception | None = None
        proxy.disable()  # here, so that it is down when the call returns
        self._thread = threading.Thread(target=self._run, name="resilience-flap", daemon=True)
        self._thread.start()

    def read_receipt(self) -> Receipt:
        """What was refused or cut so far, over all its turns."""
        return refusals(self._proxy, self._before)

    def stop(self) -> None:
        """End, with the door open."""
        self._over.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while True:
                is_over = self._wait(self._fault.down, lambda: self._counted(refused=True))
                self._proxy.enable()
                if is_over or self._wait(self._fault.up, lambda: self._counted(refused=False)):
                    return
                self._proxy.disable()
        except Exception as error:  # noqa: BLE001  # raised by stop(), in the thread that heals
            self._failure = error

    def _counted(self, *, refused: bool) -> int:
        counters = self._proxy.counters()
        if not refused:
            return counters.accepted.connections
        return counters.unattributed + (counters.refused.connections if counters.refused else 0)

    def _wait(self, amount: float, count: Callable[[], int]) -> bool:
        """Until so many seconds have passed or connections were counted; True when it is over."""
        if self._fault.unit == "seconds":
            return self._over.wait(amount)
        enough = count() + amount
        while count() < enough:
            if self._over.wait(POLL_INTERVAL):
                return True
        return False


@dataclass(frozen=True)
class HalfOpen(NetworkFault):
    """Connections that exist now go silent for ever, and new ones work: a NAT or firewall that forgot them, a peer that lost power.

    Nothing is closed while it lasts; the heal closes them, since what was lost on them can't be made up for.
    """

    name: ClassVar[str] = "half_open"

    def strike(self, target: HasProxy) -> Strike:
        clients = target.proxy_handle.clients()
        if not clients:
            raise SetupError(f"{self.label(target)} has nothing to strike: nobody is connected through the proxy")
        return _strike_toxics(self, target, "timeout", STREAMS["both"], {"timeout": 0}, clients=clients)


@dataclass(frozen=True)
class SlowAccept(NetworkFault):
    """Let new connections wait before they reach the server; those that exist don't notice.

    Args:
        seconds: that each waits; whole milliseconds.
    """

    name: ClassVar[str] = "slow_accept"
    seconds: float

    def __post_init__(self) -> None:
        at_least("seconds", self.seconds, 0.001, "s")

    def strike(self, target: HasProxy) -> Strike:
        proxy = target.proxy_handle
        before = proxy.counters()
        proxy.set_accept_delay(round(self.seconds * 1000))

        def read_receipt() -> Receipt:
            accepted = proxy.counters().accepted.since(before.accepted)
            return _receipt(accepted.connections, "connections", [accepted], before.now)

        return target.register(
            Strike(self.label(target), self, heal=lambda: proxy.set_accept_delay(0), read_receipt=read_receipt)
        )


def _strike_toxics(
    fault: Fault,
    target: HasProxy,
    kind: str,
    streams: Iterable[str],
    attributes: Mapping[str, int],
    *,
    unit: str = "bytes",
    clients: Sequence[str] = (),
) -> Strike:
    """Add one toxic of `kind` per stream, under names of their own so that overlapping strikes heal independently."""
    proxy = target.proxy_handle
    before = (
        proxy.counters() if proxy.toxiproxy.has_counters is not True else None
    )  # one question less where toxics count themselves
    struck_at = proxy.now()
    names: list[str] = []

    def heal() -> None:
        while names:
            proxy.remove_toxic(names[-1])
            names.pop()

    try:
        for stream in streams:
            names.append(proxy.add_toxic(kind, stream=stream, attributes=attributes, label=fault.name, clients=clients))
    except BaseException:
        heal()
        raise

    def read_receipt() -> Receipt:
        counters = proxy.counters() if before is None or unit == "bytes" else proxy.counters_after_close(before)
        toxics = counters.toxics
        if toxics is None:
            return _deduced(before, counters, unit)
        touched = [toxics.get(name, Tally()) for name in names]
        # One toxic per direction: bytes add up, but it is the same connections that both see.
        count = sum(t.bytes for t in touched) if unit == "bytes" else max(t.connections for t in touched)
        return _receipt(count, unit, touched, struck_at)

    return target.register(Strike(fault.label(target), fault, heal=heal, read_receipt=read_receipt))


def _receipt(count: int, unit: str, touched: Iterable[Tally], struck_at: float) -> Receipt:
    firsts = [t.first for t in touched if t.first is not None]
    lasts = [t.last for t in touched if t.last is not None]
    return Receipt(
        count,
        unit,
        first=max(0.0, min(firsts) - struck_at) if firsts else None,
        last=max(0.0, max(lasts) - struck_at) if lasts else None,
    )


def refusals(proxy: ProxyHandle, before: ProxyCounters, after: ProxyCounters | None = None) -> Receipt:
    """What a door has refused or cut between `before` and `after`, or now.

    The kernel tells of a refused connection a moment after the client knows; nobody is called vacuous for that moment.
    """
    if after is not None:
        return _refusals(before, after)
    until = proxy.late_reports_until
    receipt = _refusals(before, proxy.stable_counters(before))
    while receipt.touched == 0 and proxy.now() < until:
        receipt = _refusals(before, proxy.stable_counters(before))
    return receipt


def _deduced(before: ProxyCounters | None, after: ProxyCounters, unit: str) -> Receipt:
    """What can be known of a toxic that does not count: nothing, unless there was no connection at all, or it ends those it touches."""
    if before is None:
        return Receipt(None, unit)
    if after.unused_since(before):
        return Receipt(0, unit)
    return Receipt((after.closed_since(before) or None) if unit == "connections" else None, unit)


def _refusals(before: ProxyCounters, after: ProxyCounters) -> Receipt:
    """What a shut door refused or cut between two looks at its counters.

    The kernel refuses, not the proxy, so a backend may not be able to count the refused, or not all of them; then one cut
    connection is proof enough, and none leaves the question open.
    """
    refused = after.refused.since(before.refused) if after.refused and before.refused else None
    if after.cut is None or before.cut is None:
        return Receipt(after.closed_since(before) or None, "connections")
    cut = after.cut.since(before.cut)
    if cut.connections < 0:  # another proxy by now: ours has died
        return Receipt(None, "connections")
    perhaps = after.unattributed > before.unattributed
    if cut.connections == 0 and (refused is None or (refused.connections == 0 and perhaps)):
        return Receipt(None, "connections")
    touched = [refused or Tally(), cut]
    return _receipt(sum(t.connections for t in touched), "connections", touched, before.now)
