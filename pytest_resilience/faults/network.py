"""Faults of the network between a client and a server: what a Toxiproxy can do to a connection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from ..clock import SYSTEM
from ..errors import SetupError
from ..proxy.client import Counters, Door, Touched
from .fault import Fault, Receipt, Strike, Target, at_least

TOLD_WITHIN = 0.04  # seconds; seen: up to 2 ms on a busy machine
STREAMS = {"up": ("upstream",), "down": ("downstream",), "both": ("upstream", "downstream")}


class NetworkTarget(Target, Protocol):
    """A target that is reached through a proxy of ours."""

    @property
    def door(self) -> Door: ...


class NetworkFault(Fault):
    """A fault that the proxy in front of a server injects."""

    targets: ClassVar[tuple[str, ...]] = ("postgres", "redis")


@dataclass(frozen=True)
class Refuse(NetworkFault):
    """Refuse new connections (ECONNREFUSED) and cut those that exist."""

    name: ClassVar[str] = "refuse"

    def strike(self, target: NetworkTarget) -> Strike:
        before = target.door.counters()
        target.door.shut()

        def look() -> Receipt:
            # The kernel tells of a refused connection a moment after the client knows; nobody is called vacuous for that moment.
            receipt = _refusals(before, target.door.counters())
            give_up = SYSTEM.now() + TOLD_WITHIN
            while receipt.touched == 0 and SYSTEM.now() < give_up:
                SYSTEM.sleep(TOLD_WITHIN / 20)
                receipt = _refusals(before, target.door.counters())
            return receipt

        return target.struck(Strike(self.label(target), self, heal=target.door.open, look=look))


@dataclass(frozen=True)
class Reset(NetworkFault):
    """Reset (RST) every connection, idle ones too, and each new one as soon as it is there."""

    name: ClassVar[str] = "reset"

    def strike(self, target: NetworkTarget) -> Strike:
        return _strike_toxics(self, target, "reset_peer", ("downstream",), {"timeout": 0}, unit="connections")


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

    def strike(self, target: NetworkTarget) -> Strike:
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
    seconds: float = 0.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        at_least(
            "seconds", self.seconds, 0.001, "s (a latency in seconds; a millisecond is the least that a proxy can do)"
        )
        at_least("jitter", self.jitter, 0, "s")

    def strike(self, target: NetworkTarget) -> Strike:
        attributes = {"latency": round(self.seconds * 1000), "jitter": round(self.jitter * 1000)}
        return _strike_toxics(self, target, "latency", ("downstream",), attributes)


@dataclass(frozen=True)
class Bandwidth(NetworkFault):
    """Limit each connection's rate, in both directions.

    Args:
        bytes_per_s: bytes per second and direction; at least 1000, in steps of 1000.
    """

    name: ClassVar[str] = "bandwidth"
    bytes_per_s: float = 0

    def __post_init__(self) -> None:
        at_least("bytes_per_s", self.bytes_per_s, 1000, "bytes per second (use blackhole() to let nothing pass)")

    def strike(self, target: NetworkTarget) -> Strike:
        return _strike_toxics(self, target, "bandwidth", STREAMS["both"], {"rate": round(self.bytes_per_s / 1000)})


def _strike_toxics(
    fault: Fault,
    target: NetworkTarget,
    kind: str,
    streams: Iterable[str],
    attributes: Mapping[str, int],
    *,
    unit: str = "bytes",
) -> Strike:
    """Add one toxic of `kind` per stream, under names of their own so that overlapping strikes heal independently."""
    door = target.door
    struck_at = door.now()
    names: list[str] = []

    def heal() -> None:
        while names:
            door.remove_toxic(names[-1])
            names.pop()

    try:
        for stream in streams:
            names.append(door.add_toxic(kind, stream=stream, attributes=attributes, label=fault.name))
    except BaseException:
        heal()
        raise

    def look() -> Receipt:
        toxics = door.counters().toxics
        return _sum([toxics.get(name, Touched()) for name in names], unit, struck_at)

    return target.struck(Strike(fault.label(target), fault, heal=heal, look=look))


def _sum(touched: Iterable[Touched | None], unit: str, struck_at: float) -> Receipt:
    known = [t for t in touched if t is not None]
    if not known:
        return Receipt(None, unit)
    count = sum(t.bytes if unit == "bytes" else t.connections for t in known)
    firsts = [t.first for t in known if t.first is not None]
    lasts = [t.last for t in known if t.last is not None]
    return Receipt(
        count,
        unit,
        first=max(0.0, min(firsts) - struck_at) if firsts else None,
        last=max(0.0, max(lasts) - struck_at) if lasts else None,
    )


def _refusals(before: Counters, after: Counters) -> Receipt:
    """What a shut door refused or cut between two looks at its counters.

    The kernel refuses, not the proxy, so a backend may not be able to count the refused, or not all of them; then one cut
    connection is proof enough, and none leaves the question open.
    """
    refused = after.refused.since(before.refused) if after.refused and before.refused else None
    cut = after.cut.since(before.cut)
    perhaps = after.unattributed > before.unattributed
    if cut.connections == 0 and (refused is None or (refused.connections == 0 and perhaps)):
        return Receipt(None, "connections")
    return _sum([refused, cut], "connections", before.now)
