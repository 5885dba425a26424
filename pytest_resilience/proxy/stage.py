"""One toxic at work on one direction of one connection: what it holds there, and when it lets go of it.

What a link promises of its stages, and how they hand on to each other, stands in `link.py`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from .heap import MIN_HELD
from .installed_toxic import InstalledToxic
from .toxics.noop import Noop
from .toxics.toxic import CLOSE, END, Item, RandomSource, Scheduled, Toxic

if TYPE_CHECKING:
    from .link import Link

_NOOP = Noop()


class Stage:
    """One toxic's place on one link, with what it holds there."""

    __slots__ = (
        "_random",
        "clock",
        "count",
        "deadline",
        "draw",
        "ended",
        "inbox",
        "left",
        "link",
        "number",
        "outbox",
        "room",
        "rule",
        "skip",
        "touched",
        "toxic",
        "waiting",
    )

    def __init__(self, link: Link, rule: InstalledToxic, now: float) -> None:
        self.link = link
        self.rule = rule
        self.inbox: deque[tuple[float, Item]] = deque()
        self.outbox: deque[Scheduled] = deque()
        self.waiting = 0  # bytes in the inbox
        self.clock = now  # when the last item left
        self.room = now  # when there was last room in the inbox
        self.count = 0
        self.touched = False
        self.ended = False
        self._random: RandomSource | None = None
        self.draw: float | None = None  # made once: no later change flips it
        self.deadline: Scheduled | None = None
        self.toxic: Toxic = _NOOP
        rule.seen += 1
        self.number = rule.seen
        self.skip = 0  # chunks or bytes to leave alone, as the trigger's `after` says
        self.left: int | None = None  # chunks to work on, as its `count` says
        self.aim()
        self.settle(now)

    @property
    def random(self) -> RandomSource:
        if self._random is None:
            self._random = self.link.connection.chance(self.rule.name, self.link.upward)
        return self._random

    def aim(self) -> None:
        """Start to count anew for the rule's trigger."""
        trigger = self.rule.trigger
        self.skip = trigger.after if trigger and trigger.after_unit != "connections" else 0
        self.left = trigger.count if trigger and trigger.count_unit == "chunks" else None

    def settle(self, now: float) -> None:
        """Take the rule's present settings."""
        self.toxic = self.rule.toxic if self._chosen() and self.left != 0 else _NOOP
        self.deadline = None if self.skip else self.toxic.on_start(now, self)

    def _chosen(self) -> bool:
        """Whether the toxic works on this link: the trigger counts first, toxicity draws then."""
        trigger = self.rule.trigger
        if trigger is not None:
            first = 1 + (trigger.after if trigger.after_unit == "connections" else 0)
            if self.number < first:
                return False
            if (
                trigger.count is not None
                and trigger.count_unit == "connections"
                and self.number >= first + trigger.count
            ):
                return False
            if trigger.connections and not self._named(trigger.connections):
                return False
        toxicity = self.rule.toxicity
        if toxicity >= 1.0:
            return True
        if self.draw is None:
            self.draw = self.random.random()
        return self.draw < toxicity

    def _named(self, places: tuple[int | str, ...]) -> bool:
        client = self.link.connection.shown_client
        return any(place in (self.number, client, client.rpartition(":")[0].strip("[]")) for place in places)

    @property
    def _gated(self) -> bool:
        return self.skip > 0 or self.left is not None

    def touch(self, now: float, size: int) -> None:
        rule = self.rule
        rule.bytes += size
        if self.touched:
            rule.hits.last = now
        else:
            self.touched = True
            rule.hits.add(now)

    def enter(self, arrived: float, item: Item) -> None:
        """Take the next item. Those who call look at `full` first, removals aside."""
        if isinstance(item, bytes):
            self.waiting += len(item)
            if self.toxic.touches_all and not self._gated:
                self.touch(arrived, len(item))
        self.inbox.append((arrived, item))

    @property
    def full(self) -> bool:
        """True if the source has to wait: the queue is as long as the toxic's may be, or as large as this connection's share."""
        return len(self.inbox) >= self.toxic.capacity or (
            self.waiting > MIN_HELD and self.waiting > self.link.connection.held_share
        )

    def work(self) -> None:
        """Turn the next item into what goes on, and when."""
        if self.full:
            self.room = max(self.clock, self.inbox[0][0])
        arrived, item = self.inbox.popleft()
        if isinstance(item, bytes):
            self.waiting -= len(item)
        if self.ended:
            self.link.lost += len(item) if isinstance(item, bytes) else 0
            return
        now = max(arrived, self.clock)
        if isinstance(item, bytes):
            dues = self._gate(item, arrived, now) if self._gated else self.toxic.on_data(item, arrived, now, self)
            self.link.lost += len(item)
        elif item is CLOSE:
            dues = ((now, item),)
        else:
            dues = self.toxic.on_end(item, arrived, now, self)
        for at, what in dues:
            now = max(now, at)
            self.outbox.append((now, what))
            if isinstance(what, bytes):
                self.link.lost -= len(what)
            elif what is not END:
                self.ended = True

    def _gate(self, chunk: bytes, arrived: float, now: float) -> list[Scheduled]:
        """A chunk under a trigger that counts chunks or bytes."""
        dues: list[Scheduled] = []
        if self.skip:
            trigger = self.rule.trigger
            if trigger is not None and trigger.after_unit == "bytes":
                before, chunk = chunk[: self.skip], chunk[self.skip :]
                self.skip -= len(before)
            else:
                before, chunk = chunk, b""
                self.skip -= 1
            dues.append((now, before))
            if not self.skip:
                self.deadline = self.toxic.on_start(now, self)
            if not chunk:
                return dues
        if self.left is not None and self.toxic is not _NOOP:
            self.left -= 1
        if self.toxic.touches_all:
            self.touch(now, len(chunk))
        dues += self.toxic.on_data(chunk, arrived, now, self)
        if self.left == 0:
            self.toxic = _NOOP
            self.deadline = None
        return dues

    def cut(self, now: float) -> None:
        """End here: what is held still goes, and nothing after it."""
        self.outbox.append((max(now, self.outbox[-1][0]) if self.outbox else now, END))
        self.ended = True

    def release(self, now: float) -> None:
        """Let the chunk that is being worked on go at once."""
        self.outbox = deque((min(at, now), item) for at, item in self.outbox)
        self.clock = min(self.clock, now)

    def held(self) -> int:
        """Bytes that wait in here."""
        return sum(len(item) for _, item in (*self.outbox, *self.inbox) if isinstance(item, bytes))
