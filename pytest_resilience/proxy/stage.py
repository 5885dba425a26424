"""One toxic at work on one direction of one connection.

The promises of a link to its toxics, and the way from stage to stage, are described in `link.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol

from .heap import MIN_HELD_BYTES
from .installed_toxic import InstalledToxic
from .toxics.noop import Noop
from .toxics.toxic import BACK, CLOSE, END, SAME, Deadline, Item, RandomSource, Scheduled, Toxic

_NOOP = Noop()


class StageOwner(Protocol):
    """The connection that a stage works on.

    Attributes:
        client_address: "host:port".
        queue_limit: bytes that one stage may queue on this connection.
    """

    @property
    def client_address(self) -> str: ...
    @property
    def queue_limit(self) -> int: ...
    def random_for(self, toxic: str, *, upward: bool) -> RandomSource:
        """Return a new generator for one toxic in one direction."""


class Stage:
    """The place of one toxic on one link, with the items that it holds there.

    Attributes:
        answers: items for the other direction; None until there is one.
        deadline: an event that is due at a fixed time, whatever else happens.
        dropped: bytes that came in and never go on.
        ended: nothing goes on any more.
        last_sent_at: when the last item left.
        number: 1 on the first link that the toxic came to, for triggers that count connections.
        toxicity_draw: the random number that is compared with the toxicity. It is drawn once, so that no later change flips it.
        unblocked_at: when the inbox last had room.
        waiting: bytes in the inbox.
    """

    __slots__ = (
        "_owner",
        "_random",
        "answers",
        "chunks_remaining",
        "deadline",
        "dropped",
        "ended",
        "inbox",
        "installed",
        "last_sent_at",
        "number",
        "outbox",
        "skip_remaining",
        "state",
        "touched",
        "toxic",
        "toxicity_draw",
        "unblocked_at",
        "waiting",
    )

    def __init__(self, installed: InstalledToxic, now: float, owner: StageOwner) -> None:
        self._owner = owner
        self.installed = installed
        self.inbox: deque[tuple[float, Item]] = deque()
        self.outbox: deque[tuple[float, Item]] = deque()
        self.answers: deque[tuple[float, Item]] | None = None
        self.state = installed.toxic.new_state()
        self.waiting = 0
        self.dropped = 0
        self.last_sent_at = now
        self.unblocked_at = now
        self.touched = False
        self.ended = False
        self._random: RandomSource | None = None
        self.toxicity_draw: float | None = None
        self.deadline: Deadline | None = None
        self.toxic: Toxic = _NOOP
        installed.seen += 1
        self.number = installed.seen
        self.skip_remaining = 0  # chunks or bytes that the trigger's `after` still leaves alone
        self.chunks_remaining: int | None = None  # chunks that the trigger's `count` still allows
        self.restart_trigger()
        self.apply_settings(now)

    @property
    def random(self) -> RandomSource:
        """The generator of this stage. It is made at the first use."""
        if self._random is None:
            self._random = self._owner.random_for(self.installed.name, upward=self.installed.upward)
        return self._random

    def restart_trigger(self) -> None:
        """Restart the counts of the trigger."""
        trigger = self.installed.trigger
        self.skip_remaining = trigger.after if trigger and trigger.after_unit != "connections" else 0
        self.chunks_remaining = trigger.count if trigger and trigger.count_unit == "chunks" else None

    def apply_settings(self, now: float) -> None:
        """Work with the present settings of the toxic."""
        self.toxic = self.installed.toxic if self._applies() and self.chunks_remaining != 0 else _NOOP
        self.deadline = None if self.skip_remaining else self.toxic.on_start(now, self)

    def _applies(self) -> bool:
        """True if the toxic works on this link. The trigger selects first; the toxicity then draws among the selected links."""
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

    def _matches_client(self, selectors: tuple[int | str, ...]) -> bool:
        client = self._owner.client_address
        host = client.rpartition(":")[0].strip("[]")
        return any(selector in (self.number, client, host) for selector in selectors)

    @property
    def _trigger_active(self) -> bool:
        return self.skip_remaining > 0 or self.chunks_remaining is not None

    def touch(self, now: float, size: int) -> None:
        """Count `size` bytes that the toxic affected."""
        installed = self.installed
        installed.bytes += size
        if self.touched:
            installed.hits.last = now
        else:
            self.touched = True
            installed.hits.add(now)

    def push(self, arrived: float, item: Item) -> None:
        """Take the next item. Callers check `full` first, except when a toxic is removed."""
        if isinstance(item, bytes):
            self.waiting += len(item)
            if self.toxic.touches_all and not self._trigger_active:
                self.touch(arrived, len(item))
        self.inbox.append((arrived, item))

    @property
    def full(self) -> bool:
        """True if the source has to wait, because the toxic's queue is full or holds this connection's share of the memory."""
        return len(self.inbox) >= self.toxic.capacity or (
            self.waiting > MIN_HELD_BYTES and self.waiting > self._owner.queue_limit
        )

    def process_next(self) -> None:
        """Replace the next item of the inbox by what the toxic makes of it."""
        if self.full:
            self.unblocked_at = max(self.last_sent_at, self.inbox[0][0])
        arrived, item = self.inbox.popleft()
        if isinstance(item, bytes):
            self.waiting -= len(item)
        if self.ended:
            self.dropped += len(item) if isinstance(item, bytes) else 0
            return
        now = max(arrived, self.last_sent_at)
        scheduled: Iterable[Scheduled]
        if isinstance(item, bytes):
            if self._trigger_active:
                scheduled = self._apply_trigger(item, arrived, now)
            else:
                scheduled = self.toxic.on_data(item, arrived, now, self)
            self.dropped += len(item)
        elif item is CLOSE:
            scheduled = ((now, item, SAME),)
        else:
            scheduled = self.toxic.on_end(item, arrived, now, self)
        for at, each, direction in scheduled:
            if direction is BACK:
                self._add_answer(max(arrived, at), each)
                continue
            now = max(now, at)
            self.outbox.append((now, each))
            if isinstance(each, bytes):
                self.dropped -= len(each)
            elif each is not END:
                self.ended = True

    def _add_answer(self, at: float, item: Item) -> None:
        if self.answers is None:
            self.answers = deque()
        self.answers.append((max(at, self.answers[-1][0]) if self.answers else at, item))

    def _apply_trigger(self, chunk: bytes, arrived: float, now: float) -> list[Scheduled]:
        """Return what becomes of a chunk under a trigger that counts chunks or bytes."""
        scheduled: list[Scheduled] = []
        if self.skip_remaining:
            trigger = self.installed.trigger
            if trigger is not None and trigger.after_unit == "bytes":
                skipped, chunk = chunk[: self.skip_remaining], chunk[self.skip_remaining :]
                self.skip_remaining -= len(skipped)
            else:
                skipped, chunk = chunk, b""
                self.skip_remaining -= 1
            scheduled.append((now, skipped, SAME))
            if not self.skip_remaining:
                self.deadline = self.toxic.on_start(now, self)
            if not chunk:
                return scheduled
        if self.chunks_remaining is not None and self.toxic is not _NOOP:
            self.chunks_remaining -= 1
        if self.toxic.touches_all:
            self.touch(now, len(chunk))
        scheduled += self.toxic.on_data(chunk, arrived, now, self)
        if self.chunks_remaining == 0:
            self.toxic = _NOOP
            self.deadline = None
        return scheduled

    def cut(self, now: float) -> None:
        """End the direction behind the items in the outbox, and drop all that comes later."""
        self.outbox.append((max(now, self.outbox[-1][0]) if self.outbox else now, END))
        self.ended = True

    def release(self, now: float) -> None:
        """Let the outbox and the answers go on at once."""
        self.outbox = deque((min(at, now), item) for at, item in self.outbox)
        if self.answers:
            self.answers = deque((min(at, now), item) for at, item in self.answers)
        self.last_sent_at = min(self.last_sent_at, now)

    def held_bytes(self) -> int:
        """Return the bytes in the outbox and the inbox."""
        return sum(len(item) for _, item in (*self.outbox, *self.inbox) if isinstance(item, bytes))
