"""What a toxic is: events and their times go in, events and their due times come out.

A toxic does no I/O and reads no clock. One object holds the settings, in seconds and bytes, and is shared by all connections;
what a toxic has to remember about one direction of one connection, it keeps in the `ToxicState` that it is handed. `link.py` keeps
the promises that all toxics rely on: order, back-pressure, ends of stream, removal and updates.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class StreamEvent:
    """Something other than data that travels along a link."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


END = StreamEvent("END")
"""End of stream: the other side of this direction gets a FIN; the other direction lives on."""
CLOSE = StreamEvent("CLOSE")
"""Close both sockets."""
RESET = StreamEvent("RESET")
"""Close both sockets with a RST."""

NEVER = float("inf")

Item = bytes | StreamEvent
Scheduled = tuple[float, Item]
"""When something goes on, in seconds of the loop's clock, and what. NEVER: when the toxic is updated or removed."""


class RandomSource(Protocol):
    """What a toxic needs of random.Random."""

    def random(self) -> float: ...
    def uniform(self, a: float, b: float) -> float: ...
    def randrange(self, start: int, stop: int) -> int: ...
    def normalvariate(self, mu: float, sigma: float) -> float: ...
    def paretovariate(self, alpha: float) -> float: ...


class ToxicState(Protocol):
    """One toxic's place on one link."""

    count: int
    """A number to keep for as long as the toxic is on the link, updates included; starts at 0."""

    @property
    def random(self) -> RandomSource:
        """This place's own generator: the same numbers for the same seed, connection, direction and toxic."""

    def touch(self, now: float, size: int) -> None:
        """Say that the toxic really did something at `now`, to `size` bytes (0: to the connection)."""


class Toxic:
    """The interface, with the defaults of a toxic that does nothing.

    Attributes:
        capacity: how many chunks may wait for the one that is being worked on, before the sender is held back.
        touches_all: every chunk that arrives counts as touched; if False, the toxic calls `touch` itself.
        closes_on_removal: removing the toxic closes the connections that it works on.
    """

    __slots__ = ()

    capacity = 1
    touches_all = False
    closes_on_removal = False

    def on_start(self, now: float, memory: ToxicState) -> Scheduled | None:
        """The toxic comes to a link, new or old, or has new settings. Returns what to do at what time, whatever else happens."""
        return None

    def on_data(self, chunk: bytes, arrived: float, now: float, memory: ToxicState) -> Iterable[Scheduled]:
        """A chunk is next.

        Args:
            chunk: 1 to 32768 bytes.
            arrived: when it came in.
            now: when the one before it had gone on, if that was later.
            memory: what there is to remember about this link.
        """
        return ((now, chunk),)

    def on_end(self, end: StreamEvent, arrived: float, now: float, memory: ToxicState) -> Iterable[Scheduled]:
        """The sender's end of stream (END) or RST (RESET) is next."""
        return ((now, end),)
