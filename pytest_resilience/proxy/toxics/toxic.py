r"""The interface of a toxic, which takes events with their times and returns items with the times at which they are due.

A toxic does no I/O and reads no clock. One object holds the settings, in seconds and bytes, and all connections share it. What a
toxic remembers about one direction of one connection is its state there: `new_state()` makes it, and each call gets it as
`context.state`. `link.py` keeps the promises that all toxics rely on: order, back-pressure, ends of stream, removal and updates.

A toxic can answer back, as a server would. An item with the direction BACK enters the other direction of the connection at its due
time, as if that direction's source had sent it, and passes through the toxics there. For example, an upstream toxic that refuses each
request yields the error with BACK, and nothing else:

    class Refuse(Toxic):
        def new_state(self) -> RequestParser:
            return RequestParser()

        def on_data(self, chunk, arrived, now, context):
            for request in context.state.feed(chunk):
                yield now, b"-ERR refused\r\n", BACK

Items of each direction keep their order. A stage takes the next chunk when all items of the one before have gone on, those with BACK
included. So a client that does not read what is answered is not read from, either. An answer is dropped if the other direction has
ended. BACK with CLOSE or RESET is the same as without it: both end the connection.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any, Protocol


class StreamEvent:
    """An event that travels along a link in place of data."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


END = StreamEvent("END")
"""End of stream: the destination of this direction gets a FIN. The other direction lives on."""
CLOSE = StreamEvent("CLOSE")
"""Close both sockets."""
RESET = StreamEvent("RESET")
"""Close both sockets with a RST."""

NEVER = float("inf")

Item = bytes | StreamEvent


class Direction(Enum):
    """The direction in which an item goes on."""

    SAME = "same"
    BACK = "back"


SAME = Direction.SAME
"""To the next stage, or to the destination."""
BACK = Direction.BACK
"""Into the other direction of the connection."""


Scheduled = tuple[float, Item, Direction]
"""The time at which an item goes on, the item, and SAME or BACK. A plain tuple, as toxics make one for each chunk.

The time is in seconds of the loop's clock. NEVER holds the item until the toxic is updated or removed.
"""

Deadline = tuple[float, StreamEvent]
"""A time and the event that is due then, whatever else happens."""


class RandomSource(Protocol):
    """The methods of random.Random that toxics use."""

    def random(self) -> float: ...
    def uniform(self, a: float, b: float) -> float: ...
    def randrange(self, start: int, stop: int) -> int: ...
    def normalvariate(self, mu: float, sigma: float) -> float: ...
    def paretovariate(self, alpha: float) -> float: ...


class ToxicContext(Protocol):
    """One toxic's place on one link."""

    state: Any
    """The object that `new_state` returned when the toxic came to the link. It is kept for as long, updates included."""

    @property
    def random(self) -> RandomSource:
        """The generator of this place: the same numbers for the same seed, connection, direction and toxic."""

    def touch(self, now: float, size: int) -> None:
        """Count an effect of the toxic at `now`, on `size` bytes (0: on the connection)."""


class Toxic:
    """The interface, with the defaults of a toxic that does nothing.

    Attributes:
        capacity: chunks that may wait for the one that is being worked on, before the sender is held back.
        touches_all: every chunk that arrives counts as touched. If False, the toxic calls `touch` itself.
        closes_on_removal: removing the toxic closes the connections that it works on.
    """

    __slots__ = ()

    capacity = 1
    touches_all = False
    closes_on_removal = False

    def new_state(self) -> Any:
        """Return the state of the toxic on a link that it has just come to. None, the default, is for a toxic without state."""
        return None

    def on_start(self, now: float, context: ToxicContext) -> Deadline | None:
        """Return an event that is due at a fixed time.

        Called when the toxic comes to a link, new or old, and when it has new settings.
        """
        return None

    def on_data(self, chunk: bytes, arrived: float, now: float, context: ToxicContext) -> Iterable[Scheduled]:
        """Return what becomes of the next chunk.

        Args:
            chunk: 1 to 32768 bytes.
            arrived: when it came in.
            now: when the chunk before it had gone on, if that was later.
            context: the toxic's place on this link.
        """
        return ((now, chunk, SAME),)

    def on_end(self, end: StreamEvent, arrived: float, now: float, context: ToxicContext) -> Iterable[Scheduled]:
        """Return what becomes of the sender's end of stream (END) or RST (RESET)."""
        return ((now, end, SAME),)
