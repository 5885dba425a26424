"""One direction of one connection, and the promises that every toxic relies on.

Without toxics a link receives into one large buffer that all links share, and sends at once: the short path of `Link.on_event`.
With toxics, data goes through a chain of stages, one for each toxic in the order of their addition:

    source > Stage > Stage > ... > destination

A stage works on one chunk at a time. The promises are:

- Order: a chunk never passes the one before it.
- Exact times: a chunk enters the next stage at the time at which it was due, not when the loop came round to it. So chained
  toxics add up under any load.
- Back-pressure: a full stage holds back the stage before it, and the first stage holds back the socket. The loop never blocks; it
  serves other links.
- The destination gets as much as it takes. The rest waits, and holds back the stages.
- An update releases the chunk that is being worked on. The chunks behind it get the new settings, from their own arrival.
- A removal releases everything that the stage holds, at once and in order.
- An answer of a toxic enters the other direction at its due time, in order, and waits for room there.

A tap, if there is one, gets the data last, before the destination (see `tap.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from errno import ECONNRESET, EPIPE
from typing import Protocol

from .event_loop import ERR, HUP, IN, OUT, WOULD_BLOCK, Handler, Timer
from .heap import MIN_HELD_BYTES
from .installed_toxic import InstalledToxic
from .stage import Stage, StageOwner
from .tap import Back, Hold, Piece, Watcher
from .toxics.toxic import CLOSE, END, NEVER, RESET, Item, StreamEvent

BUFFER = bytearray(262144)
VIEW = memoryview(BUFFER)

CHUNK = 32768
"""Bytes that a toxic gets at once, at most. It is Toxiproxy's buffer size, which shapes the steps of slicer and bandwidth."""

MAX_ITEMS_PER_TURN = 16
"""Items that a link moves before other links get their turn."""

PEER_GONE = (ECONNRESET, EPIPE)


class LinkOwner(StageOwner, Protocol):
    """The connection that a link is one direction of.

    Attributes:
        closed: both sockets are closed.
        connected: the upstream has answered at least once.
    """

    closed: bool

    @property
    def connected(self) -> bool: ...
    def close(self, *, reset: bool = False) -> None:
        """Close both sockets, with a RST if `reset`."""

    def half_closed(self, link: Link) -> None:
        """Pass the end of one direction on to its destination."""

    def dial_failed(self, error: Exception) -> None:
        """Try the next address of the upstream, or close."""

    def watch_held_memory(self) -> None:
        """Release memory later, because a toxic has queued much."""


class SourceLoop(Protocol):
    """The event loop as a link uses it. With TLS at the link's source, the TLS stream takes its place."""

    handlers: dict[int, Handler]
    now: Callable[[], float]

    def watch(self, fd: int, mask: int, before: int) -> None: ...
    def unregister(self, fd: int, mask: int) -> None: ...
    @property
    def call_at(self) -> Callable[[float, Callable[[], None]], Timer]: ...


class Link:
    """One direction, from a source through the stages to a destination.

    Attributes:
        upward: True from the client to the upstream.
        owner: the connection.
        peer: the other direction. Its source is this link's destination.
        loop: watches the source.
        fd: the source's descriptor; -1 before there is one.
        mask: what the loop watches at `fd`.
        bytes: received so far.
        stages: one for each toxic that works on this link.
        out: what the destination did not take yet; usually None.
        ended: the source has sent its end of stream.
        done: the end of stream was passed on to the destination.
        reset_seen: writing to the source has met a reset, so its next end of stream is one.
        drained_at: when the destination last took everything.
        answers_waiting: a stage of the peer has answers for this link, and waits for room.
        tap: called with the data that is about to go on; None for no tap.
    """

    __slots__ = (
        "_dropped",
        "answers_waiting",
        "bytes",
        "done",
        "drained_at",
        "ended",
        "fd",
        "loop",
        "mask",
        "out",
        "owner",
        "peer",
        "recv_into",
        "reset_seen",
        "send",
        "stages",
        "tap",
        "timer",
        "upward",
    )

    peer: Link

    def __init__(self, owner: LinkOwner, loop: SourceLoop, *, upward: bool) -> None:
        self.owner = owner
        self.loop = loop
        self.upward = upward
        self.bytes = 0
        self._dropped = 0  # without those that present stages have dropped, and less the bytes of answers
        self.answers_waiting = False
        self.stages: tuple[Stage, ...] = ()
        self.out: deque[memoryview | bytes | StreamEvent | Hold] | None = None
        self.tap: Watcher | None = None
        self.ended = False
        self.done = False
        self.reset_seen = False
        self.drained_at = 0.0
        self.mask = 0
        self.fd = -1
        self.timer: Timer | None = None
        self.recv_into: Callable[..., int]
        self.send: Callable[[memoryview | bytes], int]

    # --- callbacks of the event loop ---------------------------------------------------------------------------------

    def on_event(self, events: int) -> None:
        """Handle events at the source's descriptor, which can be read, or to which the other direction can write."""
        if events == IN:
            if self.stages:
                self._read_into_stages()
                return
            # The short path. It does nothing that is not needed.
            try:
                size = self.recv_into(BUFFER)
            except OSError as error:
                self._source_failed(error)
                return
            if not size:
                self._on_source_end(RESET if self.reset_seen else END)
                return
            self.bytes += size
            if self.tap is not None:
                pieces = self.tap(VIEW[:size])
                if pieces is not None:
                    self._replace(size, pieces)
                    return
            try:
                sent = self.send(VIEW[:size])
            except OSError as error:
                sent = self._send_failed(error, size)
            if sent != size:
                self._wait_for_destination(bytes(VIEW[sent:size]))
            return
        if events & (OUT | ERR | HUP) and self.mask & OUT:
            self.peer.flush()
        if events & (IN | ERR | HUP) and self.mask & IN and not self.owner.closed:
            self.on_event(IN)

    def _read_into_stages(self) -> None:
        try:
            size = self.recv_into(BUFFER, CHUNK)
        except OSError as error:
            self._source_failed(error)
            return
        if not size:
            self._on_source_end(RESET if self.reset_seen else END)
            return
        self.bytes += size
        now = self.loop.now()
        self.stages[0].push(now, bytes(VIEW[:size]))
        self.pump(now)

    def flush(self) -> None:
        """Write what waits for the destination."""
        out = self.out
        while out:
            item = out[0]
            if isinstance(item, StreamEvent):
                if item is END and not self.owner.connected:
                    return
                out.popleft()
                if self._apply_event(item):
                    return
                continue
            if isinstance(item, Hold):
                if not item.released:
                    self._begin(item)
                    return
                out.popleft()
                if item.then is not None and self._apply_event(item.then):
                    return
                continue
            try:
                sent = self.send(item)
            except OSError as error:
                sent = self._send_failed(error, len(item))
            if self.owner.closed:
                return
            if sent < len(item):
                out[0] = memoryview(item)[sent:]
                return
            out.popleft()
        self.out = None
        self.peer.watch(self.peer.mask & ~OUT)
        if self.stages:
            now = self.drained_at = self.loop.now()
            self.pump(now)
        else:
            self._update_interest()

    def on_timer(self) -> None:
        """Move on what is due."""
        self.timer = None
        self.pump(self.loop.now())

    # --- from the source ---------------------------------------------------------------------------------------------

    def _source_failed(self, error: OSError) -> None:
        if error.errno in WOULD_BLOCK:
            return  # a spurious event
        if error.errno not in PEER_GONE and not self.upward and not self.owner.connected:
            self.owner.dial_failed(error)
        else:
            self._on_source_end(RESET if error.errno in PEER_GONE else CLOSE)

    def _on_source_end(self, event: StreamEvent) -> None:
        self.ended = True
        if not self.stages and self.out is None and (self.peer.done or event is not END):
            self._apply_event(event)  # the connection is over; the loop need not be updated first
            return
        self.watch(self.mask & ~IN)
        if self.stages:
            now = self.loop.now()
            self.stages[0].push(now, event)
            self.pump(now)
        else:
            self._write(event)

    # --- through the stages ------------------------------------------------------------------------------------------

    def pump(self, now: float) -> None:
        """Move on every item that is due and has room, then wait for the next due time, for room, or for data."""
        stages = self.stages
        for stage in stages:
            deadline = stage.deadline
            if deadline is not None and deadline[0] <= now and self._fire_deadline(stage, deadline[1], now):
                return
        last = len(stages) - 1
        budget = MAX_ITEMS_PER_TURN
        moved_between_stages = True
        while moved_between_stages:
            moved_between_stages = False
            for index in range(last, -1, -1):
                stage = stages[index]
                if not (stage.inbox or stage.outbox or stage.answers):
                    continue
                left = self._advance(stage, stages[index + 1] if index < last else None, now, budget)
                if left < 0:
                    return
                if not left:
                    self._update_interest()
                    self._reschedule(now)
                    return
                if index < last and left < budget:
                    moved_between_stages = True
                budget = left
        self._update_interest()
        self._arm_timer(now)

    def _fire_deadline(self, stage: Stage, event: StreamEvent, now: float) -> bool:
        """Apply the deadline of a stage, which is over. Return True if the connection is closed."""
        stage.deadline = None
        stage.touch(now, 0)
        if event is END:
            stage.cut(now)
            return False
        self._apply_event(event)
        return True

    def _advance(self, stage: Stage, following: Stage | None, now: float, budget: int) -> int:
        """Move on what is due in one stage, to the following stage or to the destination.

        Return what is left of `budget`, the number of items that may be moved; -1 if the connection is closed.
        """
        while budget:
            if stage.answers and self._hand_back(stage, now):
                return -1
            if not stage.outbox:
                if not stage.inbox or stage.answers:
                    break
                stage.process_next()
                continue
            at, item = stage.outbox[0]
            if at > now:
                break
            if following is None:
                if self.out is not None:
                    break
                stage.outbox.popleft()
                stage.last_sent_at = max(at, self.drained_at)
                if self._write(item):
                    return -1
            else:
                if following.full:
                    break
                stage.outbox.popleft()
                stage.last_sent_at = max(at, following.unblocked_at)
                following.push(stage.last_sent_at, item)
            budget -= 1
        return budget

    def _hand_back(self, stage: Stage, now: float) -> bool:
        """Move the answers that are due to the other direction, as far as it has room. Return True if the connection is closed."""
        answers = stage.answers
        while answers and answers[0][0] <= now:
            if self.peer.blocked:
                self.peer.answers_waiting = True
                break
            at, item = answers.popleft()
            if self.peer.push_answer(item, at):
                return True
        return False

    def push_answer(self, item: Item, at: float) -> bool:
        """Take an item of a toxic of the other direction, as if the source had sent it. Return True if the connection is closed.

        It is dropped if the source has ended.
        """
        if isinstance(item, StreamEvent):
            if item is not END:
                return self._apply_event(item)
            if not self.ended:
                self._on_source_end(END)
        elif not self.ended and item:
            self._dropped -= len(item)
            if self.stages:
                self.stages[0].push(at, item)
                self._reschedule(at)  # not pump(): a stage of this link may be what the other direction answers to
            else:
                self._write(item)
        return self.owner.closed

    def _reschedule(self, now: float) -> None:
        """Continue after other links had their turn."""
        if self.timer is not None:
            self.timer.cancel()
        self.timer = self.loop.call_at(now, self.on_timer)

    def _arm_timer(self, now: float) -> None:
        soonest = NEVER
        for stage in self.stages:
            if stage.outbox and now < stage.outbox[0][0] < soonest:
                soonest = stage.outbox[0][0]
            if stage.answers and now < stage.answers[0][0] < soonest:
                soonest = stage.answers[0][0]
            if stage.deadline is not None and stage.deadline[0] < soonest:
                soonest = stage.deadline[0]
        timer = self.timer
        if timer is not None and timer.when <= soonest:
            return  # it fires early at worst
        if timer is not None:
            timer.cancel()
        self.timer = self.loop.call_at(soonest, self.on_timer) if soonest < NEVER else None

    def add(self, installed: InstalledToxic, now: float) -> None:
        """Put a new toxic between the last one and the destination."""
        self.stages = (*self.stages, Stage(installed, now, self.owner))
        self.pump(now)

    def update(self, installed: InstalledToxic, now: float, *, restart: bool = False) -> None:
        """Work with a toxic's new settings. With `restart`, restart the counts of its trigger too."""
        for stage in self.stages:
            if stage.installed is installed:
                if restart:
                    stage.restart_trigger()
                stage.apply_settings(now)
                stage.release(now)
        self.pump(now)

    def remove(self, installed: InstalledToxic, now: float) -> None:
        """Take a toxic out, and release what it holds."""
        index = next((place for place, each in enumerate(self.stages) if each.installed is installed), None)
        if index is None:
            return
        stage = self.stages[index]
        self.stages = self.stages[:index] + self.stages[index + 1 :]
        self._dropped += stage.dropped
        if stage.toxic.closes_on_removal:
            stage.touch(now, 0)
            self._apply_event(CLOSE)
            return
        held = [item for _, item in (*stage.outbox, *stage.inbox)]
        for item in held:
            if index < len(self.stages):
                self.stages[index].push(now, item)
            elif self._write(item):
                return
        for _, item in stage.answers or ():
            if self.peer.push_answer(item, now):
                return
        self.pump(now)

    # --- to the destination ------------------------------------------------------------------------------------------

    def _write(self, item: Item) -> bool:
        """Pass an item through the tap to the destination. Return True if the connection is closed."""
        if self.tap is not None and isinstance(item, bytes):
            pieces = self.tap(item)
            if pieces is not None:
                return self._replace(len(item), pieces)
        return self._write_item(item)

    def _replace(self, size: int, pieces: Iterable[Piece]) -> bool:
        """Write what the tap has made of `size` bytes. Return True if the connection is closed."""
        self._dropped += size
        return self.write_pieces(pieces)

    def write_pieces(self, pieces: Iterable[Piece]) -> bool:
        """Write what comes from a tap and not from the source. Return True if the connection is closed."""
        for piece in pieces:
            if self.owner.closed:
                return True
            link, item = (self.peer, piece.item) if isinstance(piece, Back) else (self, piece)
            if isinstance(item, bytes):
                link._dropped -= len(item)
            link._write_item(item)
        return self.owner.closed

    def _begin(self, hold: Hold) -> None:
        """Stop at a hold, which is the first item of `out`."""
        self.watch(self.mask & ~IN)
        self.peer.watch(self.peer.mask & ~OUT)
        if not hold.begun:
            hold.begun = True
            hold.on_release = self._on_release
            if hold.seconds is not None:
                self.loop.call_at(self.loop.now() + hold.seconds, hold.release)

    def _on_release(self) -> None:
        """Go on behind a hold that was released."""
        if not self.owner.closed:
            self.peer.watch(self.peer.mask | OUT)
            self.flush()

    def _write_item(self, item: Item | Hold) -> bool:
        """Write to the destination, or line up behind what waits for it. Return True if the connection is closed."""
        if self.out is not None:
            self.out.append(item)
            return False
        if isinstance(item, Hold):
            if not item.released:
                self.out = deque((item,))
                self._begin(item)
            return False
        if isinstance(item, StreamEvent):
            if item is END and not self.owner.connected:
                self._wait_for_destination(item)
                return False
            return self._apply_event(item)
        if not item:
            return False
        try:
            sent = self.send(item)
        except OSError as error:
            sent = self._send_failed(error, len(item))
        if self.owner.closed:
            return True
        if sent < len(item):
            self._wait_for_destination(memoryview(item)[sent:])
        return False

    def _apply_event(self, event: StreamEvent) -> bool:
        """End this direction or the connection. Return True if the connection is closed."""
        if event is not END:
            self.owner.close(reset=event is RESET)
            return True
        if not self.done:
            self.done = True
            self.owner.half_closed(self)
        return self.owner.closed

    def _wait_for_destination(self, item: memoryview | bytes | StreamEvent) -> None:
        if self.owner.closed:
            return
        self.out = deque((item,))
        self.watch(self.mask & ~IN)
        self.peer.watch(self.peer.mask | OUT)

    def _send_failed(self, error: OSError, size: int) -> int:
        """Return the bytes to count as sent after an error, which are none if the destination is only busy, and all if it is gone."""
        if error.errno in WOULD_BLOCK:
            return 0
        if error.errno not in PEER_GONE and self.upward and not self.owner.connected:
            self.owner.dial_failed(error)
            return 0
        self.send = self._drop
        self._dropped += size
        peer = self.peer
        peer.reset_seen = True  # the kernel reports the error once; the next read there returns an end of stream
        if peer.ended:
            # The destination had half-closed and is gone now: a RST, behind the data that it sent before.
            if peer.done:
                self.owner.close(reset=True)
            else:
                peer._on_source_end(RESET)
        return size

    def _drop(self, data: memoryview | bytes) -> int:
        """Take the place of `send` when the destination is gone."""
        self._dropped += len(data)
        return len(data)

    # --- the loop's interest -----------------------------------------------------------------------------------------

    def watch(self, mask: int) -> None:
        """Have the loop watch the source for IN (this link reads) and OUT (the peer writes)."""
        if mask != self.mask and not self.owner.closed:
            self.loop.watch(self.fd, mask, self.mask)
            self.mask = mask

    def _update_interest(self) -> None:
        """Read from the source only while there is room for its data."""
        if self.answers_waiting and not self.blocked:
            self.answers_waiting = False
            self.peer._reschedule(self.loop.now())
        if self.ended:
            return
        if self.out is not None or (self.stages and self.stages[0].full):
            self.watch(self.mask & ~IN)
            if self.stages and self.stages[0].waiting > MIN_HELD_BYTES:
                self.owner.watch_held_memory()
        else:
            self.watch(self.mask | IN)

    @property
    def blocked(self) -> bool:
        """True if the destination, or the first stage, takes no more data now."""
        return self.out is not None or bool(self.stages and self.stages[0].full)

    @property
    def peer_done(self) -> bool:
        """True if the other direction has passed on its end of stream."""
        return self.peer.done

    # --- figures -----------------------------------------------------------------------------------------------------

    def held_bytes(self) -> int:
        """Return the bytes that were received and neither sent nor dropped."""
        waiting = sum(len(item) for item in self.out or () if not isinstance(item, StreamEvent | Hold))
        return waiting + sum(stage.held_bytes() for stage in self.stages)

    def dropped_bytes(self) -> int:
        """Return the bytes that were received and will not be sent, because toxics dropped them or the destination is gone."""
        return self._dropped + sum(stage.dropped for stage in self.stages)
