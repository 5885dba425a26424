"""Faults of the network between a client and a server, injected by the proxy between them."""

from __future__ import annotations

import contextlib
import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from ..errors import CannotInject, SetupError
from ..proxy_client.counters import ProxyCounters
from ..proxy_client.handle import ProxyHandle
from . import receipts
from .fault import Fault, FaultTarget, Need, Receipt, Strike, at_least

STREAMS = {"up": ("upstream",), "down": ("downstream",), "both": ("upstream", "downstream")}
CLOSED = "the connections through the proxy of {target} are closed"
FLAP_UNITS = ("seconds", "connections")
FLAP_POLL_INTERVAL = 0.005  # seconds between two readings of the counters


class HasProxy(FaultTarget, Protocol):
    """A target that clients reach through a proxy."""

    @property
    def proxy_handle(self) -> ProxyHandle: ...


class NetworkFault(Fault):
    """A fault that the proxy in front of a server injects."""

    targets: ClassVar[tuple[str, ...]] = ("postgres", "redis", "tcp", "mysql", "rabbitmq")


@dataclass(frozen=True)
class Refuse(NetworkFault):
    """Refuse new connections (ECONNREFUSED) and close those that exist."""

    name: ClassVar[str] = "refuse"

    def takes(self) -> Mapping[Need, str]:
        return {"clients": CLOSED}

    def strike(self, target: HasProxy) -> Strike:
        strike = _RefuseStrike(target.proxy_handle)
        return target.register(
            Strike(self.label(target), self, heal=strike.heal, read_receipt=strike.read_receipt, settles_late=True)
        )


class _RefuseStrike:
    """A proxy that is disabled from now on."""

    def __init__(self, proxy: ProxyHandle) -> None:
        self._proxy = proxy
        self._before = receipts.reported_counters(proxy)
        self._after: ProxyCounters | None = None
        proxy.record_snapshot(self._before)
        self._next_snapshot = len(proxy.snapshots)
        proxy.disable()

    def heal(self) -> None:
        """Enable the proxy, unless another strike has disabled it too."""
        if self._proxy.disabled_by > 1 or self._proxy.flaps:  # from now on, refusals belong to the other strike
            self._after = receipts.stable_counters(self._proxy, self._before)
        self._proxy.enable()

    def read_receipt(self) -> Receipt:
        """Count the refused and closed connections, up to the next strike that disables the proxy."""
        later = self._proxy.snapshots[self._next_snapshot :]
        if self._after is None and later:
            self._after = later[0]
        return receipts.refusals(self._proxy, self._before, self._after)


@dataclass(frozen=True)
class ToxicSpec:
    """Toxics of one kind to be added to a proxy, one per stream.

    Args:
        kind: Toxiproxy's type.
        streams: "upstream", "downstream" or both.
        attributes: Toxiproxy's attributes, in its units.
        unit: the receipt counts "bytes" or "connections".
        clients: "host:port" of the only connections that they work on; empty for all.
    """

    kind: str
    streams: Sequence[str]
    attributes: Mapping[str, int]
    unit: str = "bytes"
    clients: Sequence[str] = ()


class ToxicFault(NetworkFault):
    """A fault that consists of toxics."""

    @abstractmethod
    def toxics(self, target: HasProxy) -> ToxicSpec:
        """Return the toxics to add to the target's proxy."""

    def strike(self, target: HasProxy) -> Strike:
        strike = _ToxicStrike(target.proxy_handle, self.toxics(target), label=self.name)
        strike.install()
        return target.register(Strike(self.label(target), self, heal=strike.heal, read_receipt=strike.read_receipt))


class _ToxicStrike:
    """Toxics on a proxy, under names of their own, so that overlapping strikes heal independently.

    Args:
        proxy: the proxy.
        spec: the toxics.
        label: what their names start with.
    """

    def __init__(self, proxy: ProxyHandle, spec: ToxicSpec, *, label: str) -> None:
        self._proxy = proxy
        self._spec = spec
        self._label = label
        # The counters before are not needed if the proxy counts the work of each toxic.
        self._before = proxy.counters() if proxy.toxiproxy.has_counters is not True else None
        self._struck_at = proxy.now()
        self._installed: list[str] = []
        self._names: list[str] = []

    def install(self) -> None:
        """Add the toxics, all or none."""
        spec = self._spec
        try:
            for stream in spec.streams:
                name = self._proxy.add_toxic(
                    spec.kind, stream=stream, attributes=spec.attributes, label=self._label, clients=spec.clients
                )
                self._installed.append(name)
                self._names.append(name)
        except BaseException:
            self.heal()
            raise

    def heal(self) -> None:
        """Remove the toxics. A second call continues where the first one failed."""
        while self._installed:
            self._proxy.remove_toxic(self._installed[-1])
            self._installed.pop()

    def read_receipt(self) -> Receipt:
        """Count the bytes or connections on which the toxics have worked."""
        return receipts.toxics(self._proxy, self._names, self._spec.unit, self._struck_at, self._before)


@dataclass(frozen=True)
class Reset(ToxicFault):
    """Reset (RST) every connection, idle ones too, and each new one as soon as it is accepted."""

    name: ClassVar[str] = "reset"

    def takes(self) -> Mapping[Need, str]:
        return {"clients": CLOSED}

    def toxics(self, target: HasProxy) -> ToxicSpec:
        return ToxicSpec("reset_peer", STREAMS["down"], {"timeout": 0}, unit="connections")

    def strike(self, target: HasProxy) -> Strike:
        strike = super().strike(target)
        if target.proxy_handle.toxiproxy.has_counters is False:
            # A real Toxiproxy resets new connections only, when the server answers. So those that exist get a FIN.
            target.proxy_handle.drop_connections()
        return strike


@dataclass(frozen=True)
class Blackhole(ToxicFault):
    """Hold back all data without closing anything, as a dead peer or a dropped route does. The heal delivers what was held.

    Args:
        direction: "both", "up" (towards the server) or "down" (its answers).
    """

    name: ClassVar[str] = "blackhole"
    direction: str = "both"

    def __post_init__(self) -> None:
        if self.direction not in STREAMS:
            raise SetupError(f"direction must be one of {', '.join(STREAMS)}, got {self.direction!r}")

    def toxics(self, target: HasProxy) -> ToxicSpec:
        # A bandwidth of 0 holds data and keeps the connection; a timeout toxic would lose it and close at the heal.
        return ToxicSpec("bandwidth", STREAMS[self.direction], {"rate": 0})


@dataclass(frozen=True)
class Latency(ToxicFault):
    """Delay the server's answers.

    Args:
        seconds: added to every round trip; whole milliseconds.
        jitter: the delay varies by up to this many seconds in both directions.
    """

    name: ClassVar[str] = "latency"
    seconds: float
    jitter: float = 0.0

    def __post_init__(self) -> None:
        at_least(
            "seconds", self.seconds, 0.001, "s (a latency in seconds; a millisecond is the least that a proxy can do)"
        )
        at_least("jitter", self.jitter, 0, "s")

    def toxics(self, target: HasProxy) -> ToxicSpec:
        attributes = {"latency": round(self.seconds * 1000), "jitter": round(self.jitter * 1000)}
        return ToxicSpec("latency", STREAMS["down"], attributes)


@dataclass(frozen=True)
class Bandwidth(ToxicFault):
    """Limit each connection's rate, in both directions.

    Args:
        bytes_per_s: bytes per second and direction; at least 1000, in steps of 1000.
    """

    name: ClassVar[str] = "bandwidth"
    bytes_per_s: float

    def __post_init__(self) -> None:
        at_least("bytes_per_s", self.bytes_per_s, 1000, "bytes per second (use blackhole() to let nothing pass)")

    def toxics(self, target: HasProxy) -> ToxicSpec:
        return ToxicSpec("bandwidth", STREAMS["both"], {"rate": round(self.bytes_per_s / 1000)})


@dataclass(frozen=True)
class SlowClose(ToxicFault):
    """Delay the close of a connection, in both directions.

    Args:
        seconds: from one side's close until the other side receives it; whole milliseconds.
    """

    name: ClassVar[str] = "slow_close"
    seconds: float

    def __post_init__(self) -> None:
        at_least("seconds", self.seconds, 0.001, "s")

    def toxics(self, target: HasProxy) -> ToxicSpec:
        attributes = {"delay": round(self.seconds * 1000)}
        return ToxicSpec("slow_close", STREAMS["both"], attributes, unit="connections")


@dataclass(frozen=True)
class Slicer(ToxicFault):
    """Cut the server's answers into small pieces, as a bad network does. A client that reads a message with one recv() fails.

    Args:
        average_bytes: size of a piece; at least 1.
        variation_bytes: the size varies by up to this many bytes in both directions; at most the average.
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

    def toxics(self, target: HasProxy) -> ToxicSpec:
        attributes = {
            "average_size": round(self.average_bytes),
            "size_variation": round(self.variation_bytes),
            "delay": round(self.delay * 1_000_000),  # Toxiproxy counts this one in microseconds
        }
        return ToxicSpec("slicer", STREAMS["down"], attributes)


@dataclass(frozen=True)
class LimitData(ToxicFault):
    """Close each connection after a number of bytes of the server's answers, so that an answer is cut off in the middle.

    Args:
        bytes: the number that passes on each connection from the strike on; 0 closes at the first byte.
    """

    name: ClassVar[str] = "limit_data"
    bytes: int

    def __post_init__(self) -> None:
        at_least("bytes", self.bytes, 0, "bytes", whole=True)

    def takes(self) -> Mapping[Need, str]:
        return {"clients": CLOSED}

    def toxics(self, target: HasProxy) -> ToxicSpec:
        return ToxicSpec("limit_data", STREAMS["down"], {"bytes": self.bytes}, unit="connections")


@dataclass(frozen=True)
class ProtocolViolation(ToxicFault):
    """Answer the next request of each connection, new ones included, with bytes that are no message of the protocol.

    Clients report that they lost synchronization with the server (libpq) or received an invalid response, and have to close the
    connection. The server executes the request. Postgres's name for this is SQLSTATE 08P01, protocol_violation.
    """

    name: ClassVar[str] = "protocol_violation"

    def toxics(self, target: HasProxy) -> ToxicSpec:
        return ToxicSpec("malformed", STREAMS["up"], {}, unit="connections")


@dataclass(frozen=True)
class HalfOpen(ToxicFault):
    """Silence the connections that exist, while new ones work, as a NAT does that forgot them or a peer that lost power.

    Nothing is closed while the fault lasts. The heal closes the silent connections, because what was lost on them can't be sent again.
    """

    name: ClassVar[str] = "half_open"

    def toxics(self, target: HasProxy) -> ToxicSpec:
        clients = target.proxy_handle.clients()
        if not clients:
            raise self.cannot_strike(
                target, "clients", "no client is connected through the proxy; connect one before the strike"
            )
        return ToxicSpec("timeout", STREAMS["both"], {"timeout": 0}, clients=clients)


@dataclass(frozen=True)
class SlowAccept(NetworkFault):
    """Delay new connections before they reach the server. Connections that exist are not affected.

    Args:
        seconds: the delay of each connection; whole milliseconds.
    """

    name: ClassVar[str] = "slow_accept"
    seconds: float

    def __post_init__(self) -> None:
        at_least("seconds", self.seconds, 0.001, "s")

    def strike(self, target: HasProxy) -> Strike:
        proxy = target.proxy_handle
        before = proxy.counters()
        milliseconds = round(self.seconds * 1000)
        proxy.add_accept_delay(milliseconds)
        return target.register(
            Strike(
                self.label(target),
                self,
                heal=lambda: proxy.remove_accept_delay(milliseconds),
                read_receipt=lambda: receipts.accepted(proxy, before),
            )
        )


@dataclass(frozen=True)
class Flap(NetworkFault):
    """Refuse and accept connections in turn, beginning with refuse, until the heal.

    Args:
        down: how long connections are refused: seconds, or a number of refused connections.
        up: how long they are accepted: seconds, or a number of accepted connections.
        unit: "seconds" or "connections". Only counts of connections repeat exactly, because they don't depend on the clients' speed.
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

    def takes(self) -> Mapping[Need, str]:
        return {"clients": CLOSED}

    def strike(self, target: HasProxy) -> Strike:
        if self.unit == "connections" and target.proxy_handle.counters().toxics is None:
            raise CannotInject(
                f"{self.label(target)}: the real Toxiproxy does not count the connections that it refuses"
            )
        flapper = _Flapper(target.proxy_handle, self)
        return target.register(Strike(self.label(target), self, heal=flapper.stop, read_receipt=flapper.read_receipt))


class _Flapper:
    """A thread that disables and enables a proxy in turn, as the strike of a `Flap`."""

    def __init__(self, proxy: ProxyHandle, fault: Flap) -> None:
        self._proxy = proxy
        self._fault = fault
        self._before = receipts.reported_counters(proxy)
        proxy.record_snapshot(self._before)
        self._over = threading.Event()
        self._is_down = True
        self._is_stopped = False
        proxy.flaps += 1
        proxy.disable()  # in the calling thread, so that the proxy refuses when the call returns
        self._thread = threading.Thread(target=self._run, name="resilience-flap", daemon=True)
        self._thread.start()

    def read_receipt(self) -> Receipt:
        """Count the connections that were refused or closed so far, in all turns."""
        return receipts.refusals(self._proxy, self._before)

    def stop(self) -> None:
        """End the thread and leave the proxy enabled. A second call continues where the first one failed."""
        self._over.set()
        self._thread.join()
        if self._is_down:
            self._enable()
        if not self._is_stopped:
            self._is_stopped = True
            self._proxy.flaps -= 1

    def _run(self) -> None:
        with contextlib.suppress(Exception):  # stop() raises the error again if the proxy is still disabled
            while True:
                is_over = self._wait(self._fault.down, self._count_refused)
                self._enable()
                if is_over or self._wait(self._fault.up, self._count_accepted):
                    return
                self._proxy.disable()
                self._is_down = True

    def _enable(self) -> None:
        self._proxy.enable()
        self._is_down = False

    def _count_accepted(self) -> int:
        return self._proxy.counters().accepted.connections

    def _count_refused(self) -> int:
        counters = self._proxy.counters()
        return counters.unattributed + (counters.refused.connections if counters.refused else 0)

    def _wait(self, amount: float, count: Callable[[], int]) -> bool:
        """Wait for an amount of seconds or connections. Return True if `stop` was called."""
        if self._fault.unit == "seconds":
            return self._over.wait(amount)
        enough = count() + amount
        while count() < enough:
            if self._over.wait(FLAP_POLL_INTERVAL):
                return True
        return False
