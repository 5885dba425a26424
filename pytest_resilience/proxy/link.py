"""One direction of one connection: the promises that every toxic relies on live here.

Without toxics a link receives into one big buffer that all links share and sends at once: the short path of `Link.on_event`.
With toxics, data goes through a chain of stages, one per toxic in the order of their addition. A stage works on one chunk at
a time:

- order is kept: a chunk never passes the one before it;
- times are exact: a chunk enters the next stage at the time it was due, not when the loop got round to it, so chained
  toxics add up under any load;
- a full stage holds back the one before it, and the first one the socket. Nobody waits: the loop goes on with other links;
- what reaches the end is written as far as the destination takes it; the rest waits, and holds back the stages;
- an update releases the chunk that is being worked on; those behind it get the new settings, from their own arrival;
- a removal lets go of everything that the stage holds, at once and in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from errno import EAGAIN, ECONNRESET, EINPROGRESS, EINTR, ENOTCONN, EPIPE
from typing import TYPE_CHECKING

from .event_loop import ERR, HUP, IN, OUT, EventLoop, Timer
from .heap import MIN_HELD_BYTES
from .installed_toxic import InstalledToxic
from .stage import Stage
from .toxics.toxic import CLOSE, END, NEVER, RESET, Item, StreamEvent

if TYPE_CHECKING:
    from .connection import Connection
    from .tls import TlsStream

BUFFER = bytearray(262144)
VIEW = memoryview(BUFFER)

CHUNK = 32768
"""Bytes that a toxic sees at once, at most: Toxiproxy's buffer, which shapes the steps of slicer and bandwidth."""

MAX_ITEMS_PER_TURN = 16
"""Items that a link moves before others get their turn."""

WOULD_BLOCK = (EAGAIN, EINTR, ENOTCONN, EINPROGRESS)  # ENOTCONN: what macOS says while it connects
PEER_GONE = (ECONNRESET, EPIPE)


class Link:
    """One direction: from a source to a destination, through the stages.

    Attributes:
        upward: from the client to the upstream.
        peer: the other direction; its source is our destination.
        mask: what the loop watches at our source's descriptor.
        bytes: received so far.
        lost: of those, dropped by toxics or for want of a destination.
        out: what the destination did not take yet; None most of the time.
        ended: the source has nothing more to say.
        done: the destination has been told so.
    """

    __slots__ = (
        "bytes",
        "connection",
        "done",
        "drained_at",
        "dropped",
        "ended",
        "fd",
        "loop",
        "mask",
        "out",
        "peer",
        "recv_into",
        "reset_seen",
        "send",
        "stages",
        "timer",
        "upward",
    )

    peer: Link

    def __init__(self, connection: Connection, loop: EventLoop, *, upward: bool) -> None:
        self.connection = connection
        self.loop: EventLoop | TlsStream = loop  # with TLS at the source, what stands between
        self.upward = upward
        self.bytes = 0
        self.dropped = 0
        self.stages: tuple[Stage, ...] = ()
        self.out: deque[memoryview | bytes | StreamEvent] | None = None
        self.ended = False
        self.done = False
        self.reset_seen = False
        self.drained_at = 0.0  # when the destination last took everything
        self.mask = 0
        self.fd = -1
        self.timer: Timer | None = None
        self.recv_into: Callable[..., int]
        self.send: Callable[[memoryview | bytes], int]

    # --- the loop calls these ----------------------------------------------------------------------------------------

    def on_event(self, events: int) -> None:
        """Something is ready at our source's descriptor: it can be read, or the other direction can write to it."""
        if events == IN:
            if self.stages:
                self._read_into_stages()
                return
            # The short path; nothing in it that is not needed.
            try:
                size = self.recv_into(BUFFER)
            except OSError as error:
                self._source_failed(error)
                return
            if not size:
                self._on_source_end(RESET if self.reset_seen else END)
                return
            self.bytes += size
            try:
                sent = self.send(VIEW[:size])
            except OSError as error:
                sent = self._send_failed(error, size)
            if sent != size:
                self._wait_for_destination(bytes(VIEW[sent:size]))
            return
        if events & (OUT | ERR | HUP) and self.mask & OUT:
            self.peer.flush()
        if events & (IN | ERR | HUP) and self.mask & IN and not self.connection.closed:
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
                if item is END and not self.connection.connected:
                    return
                out.popleft()
                if self._apply_event(item):
                    return
                continue
            try:
                sent = self.send(item)
            except OSError as error:
                sent = self._send_failed(error, len(item))
            if self.connection.closed:
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
        self.timer = None
        self.pump(self.loop.now())

    # --- what the source says ----------------------------------------------------------------------------------------

    def _source_failed(self, error: OSError) -> None:
        if error.errno in WOULD_BLOCK:
            return  # nothing there after all
        if error.errno not in PEER_GONE and not self.upward and not self.connection.connected:
            self.connection.dial_failed(error)
        else:
            self._on_source_end(RESET if error.errno in PEER_GONE else CLOSE)

    def _on_source_end(self, event: StreamEvent) -> None:
        self.ended = True
        if not self.stages and self.out is None and (self.peer.done or event is not END):
            self._apply_event(event)  # the connection is over; no need to tell the loop first
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
        """Move on whatever is due and has room; then wait for the next due time, for room, or for data."""
        stages = self.stages
        for stage in stages:
            if stage.deadline is not None and stage.deadline[0] <= now:
                stage.touch(now, 0)
                event = stage.deadline[1]
                stage.deadline = None
                if event is END:
                    stage.cut(now)
                elif isinstance(event, StreamEvent):
                    self._apply_event(event)
                    return
        last = len(stages) - 1
        budget = MAX_ITEMS_PER_TURN
        again = True
        while again:
            again = False
            for index in range(last, -1, -1):
                stage = stages[index]
                while True:
                    if not budget:
                        self._update_interest()
                        self._reschedule(now)
                        return
                    if not stage.outbox:
                        if not stage.inbox:
                            break
                        stage.process_next()
                        again = again or index > 0  # there may be room now for what the stage before holds
                        continue
                    at, item = stage.outbox[0]
                    if at > now:
                        break
                    budget -= 1
                    if index == last:
                        if self.out is not None:
                            break
                        stage.outbox.popleft()
                        stage.last_sent_at = max(at, self.drained_at)
                        if self._write(item):
                            return
                    else:
                        following = stages[index + 1]
                        if following.full:
                            break
                        stage.outbox.popleft()
                        stage.last_sent_at = max(at, following.unblocked_at)
                        following.push(stage.last_sent_at, item)
                        again = True
        self._update_interest()
        self._arm_timer(now)

    def _reschedule(self, now: float) -> None:
        """There is more to move, but others must have their turn first."""
        if self.timer is not None:
            self.timer.cancel()
        self.timer = self.loop.call_at(now, self.on_timer)

    def _arm_timer(self, now: float) -> None:
        soonest = NEVER
        for stage in self.stages:
            if stage.outbox and now < stage.outbox[0][0] < soonest:
                soonest = stage.outbox[0][0]
            if stage.deadline is not None and stage.deadline[0] < soonest:
                soonest = stage.deadline[0]
        timer = self.timer
        if timer is not None and timer.when <= soonest:
            return  # wakes us early at worst
        if timer is not None:
            timer.cancel()
        self.timer = self.loop.call_at(soonest, self.on_timer) if soonest < NEVER else None

    def add(self, installed: InstalledToxic, now: float) -> None:
        """Put a new toxic between the last one and the destination."""
        self.stages = (*self.stages, Stage(self, installed, now))
        self.pump(now)

    def update(self, installed: InstalledToxic, now: float, *, restart: bool = False) -> None:
        """Work on with a toxic's new settings; with `aim`, with a new trigger too."""
        for stage in self.stages:
            if stage.installed is installed:
                if restart:
                    stage.restart_trigger()
                stage.apply_settings(now)
                stage.release(now)
        self.pump(now)

    def remove(self, installed: InstalledToxic, now: float) -> None:
        """Take a toxic out, and let go of what it holds."""
        index = next((place for place, each in enumerate(self.stages) if each.installed is installed), None)
        if index is None:
            return
        stage = self.stages[index]
        self.stages = self.stages[:index] + self.stages[index + 1 :]
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
        self.pump(now)

    # --- to the destination ------------------------------------------------------------------------------------------

    def _write(self, item: Item) -> bool:
        """Write to the destination, or line up behind what waits for it. True if the connection is over."""
        if self.out is not None:
            self.out.append(item)
            return False
        if isinstance(item, StreamEvent):
            if item is END and not self.connection.connected:
                self._wait_for_destination(item)
                return False
            return self._apply_event(item)
        if not item:
            return False
        try:
            sent = self.send(item)
        except OSError as error:
            sent = self._send_failed(error, len(item))
        if self.connection.closed:
            return True
        if sent < len(item):
            self._wait_for_destination(memoryview(item)[sent:])
        return False

    def _apply_event(self, event: StreamEvent) -> bool:
        if event is not END:
            self.connection.close(reset=event is RESET)
            return True
        if not self.done:
            self.done = True
            self.connection.half_closed(self)
        return self.connection.closed

    def _wait_for_destination(self, item: memoryview | bytes | StreamEvent) -> None:
        if self.connection.closed:
            return
        self.out = deque((item,))
        self.watch(self.mask & ~IN)
        self.peer.watch(self.peer.mask | OUT)

    def _send_failed(self, error: OSError, size: int) -> int:
        """Bytes to count as sent after an error: none if the destination is only busy, all if it is gone."""
        if error.errno in WOULD_BLOCK:
            return 0
        if error.errno not in PEER_GONE and self.upward and not self.connection.connected:
            self.connection.dial_failed(error)
            return 0
        self.send = self._drop
        self.dropped += size
        peer = self.peer
        peer.reset_seen = True  # the error is told once; the next read there says "end of stream"
        if peer.ended:
            # It had half-closed, and then went away altogether: a RST, behind what it had said before.
            if peer.done:
                self.connection.close(reset=True)
            else:
                peer._on_source_end(RESET)
        return size

    def _drop(self, data: memoryview | bytes) -> int:
        """The `send` of a link whose destination is gone."""
        self.dropped += len(data)
        return len(data)

    # --- what the loop watches ---------------------------------------------------------------------------------------

    def watch(self, mask: int) -> None:
        """Have the loop watch our source for IN (we read) and OUT (the peer writes)."""
        if mask != self.mask and not self.connection.closed:
            self.loop.watch(self.fd, mask, self.mask)
            self.mask = mask

    def _update_interest(self) -> None:
        """Read from the source only if there is room for what it says."""
        if self.ended:
            return
        if self.out is not None or (self.stages and self.stages[0].full):
            self.watch(self.mask & ~IN)
            if self.stages and self.stages[0].waiting > MIN_HELD_BYTES:
                self.connection.watch_held_memory()
        else:
            self.watch(self.mask | IN)

    def held_bytes(self) -> int:
        """Bytes received and neither sent nor lost."""
        waiting = sum(len(item) for item in self.out or () if not isinstance(item, StreamEvent))
        return waiting + sum(stage.held_bytes() for stage in self.stages)
