"""One toxic at work on one direction of one connection: what it holds there, and when it lets go of it.

What a link promises of its stages, and how they hand on to each other, stands in `link.py`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from .heap import MIN_HELD_BYTES
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
        "chunks_remaining",
        "count",
        "deadline",
        "ended",
        "inbox",
        "installed",
        "last_sent_at",
        "link",
        "number",
        "outbox",
        "skip_remaining",
        "touched",
        "toxic",
        "toxicity_draw",
        "unblocked_at",
        "waiting",
    )

    def __init__(self, link: Link, installed: InstalledToxic, now: float) -> None:
        self.link = link
        self.installed = installed
        self.inbox: deque[tuple[float, Item]] = deque()
        self.outbox: deque[Scheduled] = deque()
        self.waiting = 0  # bytes in the inbox
        self.last_sent_at = now  # when the last item left
        self.unblocked_at = now  # when there was last room in the inbox
        self.count = 0
        self.touched = False
        self.ended = False
        self._random: RandomSource | None = None
        self.toxicity_draw: float | None = None  # made once: no later change flips it
        self.deadline: Scheduled | None = None
        self.toxic: Toxic = _NOOP
        installed.seen += 1
        self.number = installed.seen
        self.skip_remaining = 0  # chunks or bytes to leave alone, as the trigger's `after` says
        self.chunks_remaining: int | None = None  # chunks to work on, as its `count` says
        self.restart_trigger()
        self.apply_settings(now)

    @property
    def random(self) -> RandomSource:
        if self._random is None:
            self._random = self.link.connection.random_for(self.installed.name, self.link.upward)
        return self._random

    def restart_trigger(self) -> None:
        """Start to count anew for the rule's trigger."""
        trigger = self.installed.trigger
        self.skip_remaining = trigger.after if trigger and trigger.after_unit != "connections" else 0
        self.chunks_remaining = trigger.count if trigger and trigger.count_unit == "chunks" else None

    def apply_settings(self, now: float) -> None:
        """Take the rule's present settings."""
        self.toxic = self.installed.toxic if self._applies() and self.chunks_remaining != 0 else _NOOP
        self.deadline = None if self.skip_remaining else self.toxic.on_start(now, self)

    def _applies(self) -> bool:
        """Whether the toxic works on this link: the trigger counts first, toxicity draws then."""
        trigger = self.installed.trigger
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
            if trigger.connections and not self._matches_client(trigger.connections):
                return False
        toxicity = self.installed.toxicity
        if toxicity >= 1.0:
            return True
        if self.toxicity_draw is None:
            self.toxicity_draw = self.random.random()
        return self.toxicity_draw < toxicity

    def _matches_client(self, places: tuple[int | str, ...]) -> bool:
        client = self.link.connection.client_address
        return any(place in (self.number, client, client.rpartition(":")[0].strip("[]")) for place in places)

    @property
    def _trigger_active(self) -> bool:
        return self.skip_remaining > 0 or self.chunks_remaining is not None

    def touch(self, now: float, size: int) -> None:
        installed = self.installed
        installed.bytes += size
        if self.touched:
            installed.hits.last = now
        else:
            self.touched = True
            installed.hits.add(now)

    def push(self, arrived: float, item: Item) -> None:
        """Take the next item. Those who call look at `full` first, removals aside."""
        if isinstance(item, bytes):
            self.waiting += len(item)
            if self.toxic.touches_all and not self._trigger_active:
                self.touch(arrived, len(item))
        self.inbox.append((arrived, item))

    @property
    def full(self) -> bool:
        """True if the source has to wait: the queue is as long as the toxic's may be, or as large as this connection's share."""
        return len(self.inbox) >= self.toxic.capacity or (
            self.waiting > MIN_HELD_BYTES and self.waiting > self.link.connection.queue_limit
        )

    def process_next(self) -> None:
        """Turn the next item into what goes on, and when."""
        if self.full:
            self.unblocked_at = max(self.last_sent_at, self.inbox[0][0])
        arrived, item = self.inbox.popleft()
        if isinstance(item, bytes):
            self.waiting -= len(item)
        if self.ended:
            self.link.dropped += len(item) if isinstance(item, bytes) else 0
            return
        now = max(arrived, self.last_sent_at)
        if isinstance(item, bytes):
            dues = (
                self._apply_trigger(item, arrived, now)
                if self._trigger_active
                else self.toxic.on_data(item, arrived, now, self)
            )
            self.link.dropped += len(item)
        elif item is CLOSE:
            dues = ((now, item),)
        else:
            dues = self.toxic.on_end(item, arrived, now, self)
        for at, what in dues:
            now = max(now, at)
            self.outbox.append((now, what))
            if isinstance(what, bytes):
                self.link.dropped -= len(what)
            elif what is not END:
                self.ended = True

    def _apply_trigger(self, chunk: bytes, arrived: float, now: float) -> list[Scheduled]:
        """A chunk under a trigger that counts chunks or bytes."""
        dues: list[Scheduled] = []
        if self.skip_remaining:
            trigger = self.installed.trigger
            if trigger is not None and trigger.after_unit == "bytes":
                before, chunk = chunk[: self.skip_remaining], chunk[self.skip_remaining :]
                self.skip_remaining -= len(before)
            else:
                before, chunk = chunk, b""
                self.skip_remaining -= 1
            dues.append((now, before))
            if not self.skip_remaining:
                self.deadline = self.toxic.on_start(now, self)
            if not chunk:
                return dues
        if self.chunks_remaining is not None and self.toxic is not _NOOP:
            self.chunks_remaining -= 1
        if self.toxic.touches_all:
            self.touch(now, len(chunk))
        dues += self.toxic.on_data(chunk, arrived, now, self)
        if self.chunks_remaining == 0:
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
        self.last_sent_at = min(self.last_sent_at, now)

    def held_bytes(self) -> int:
        """Bytes that wait in here."""
        return sum(len(item) for _, item in (*self.outbox, *self.inbox) if isinstance(item, bytes))
