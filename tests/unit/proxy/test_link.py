"""The promises of a link: order, exact times, back-pressure, updates, removals, triggers, answers.

A link between two fakes on a clock that only the test moves; no sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from errno import EAGAIN, ECONNRESET
from random import Random
from typing import Any

import pytest

from pytest_resilience.proxy.event_loop import IN, OUT, Timer
from pytest_resilience.proxy.installed_toxic import InstalledToxic
from pytest_resilience.proxy.link import MAX_ITEMS_PER_TURN, Link
from pytest_resilience.proxy.tap import Back, Hold, Piece
from pytest_resilience.proxy.toxics import build
from pytest_resilience.proxy.toxics.toxic import (
    BACK,
    CLOSE,
    END,
    RESET,
    SAME,
    Scheduled,
    StreamEvent,
    Toxic,
    ToxicContext,
)
from pytest_resilience.wire import toxiproxy as wire
from pytest_resilience.wire.go_json import JsonObject


class FakeLoop:
    def __init__(self) -> None:
        self.time = 0.0
        self.timers: list[Timer] = []

    def now(self) -> float:
        return self.time

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        self.timers.append(Timer(when, call))
        return self.timers[-1]

    def watch(self, fd: int, mask: int, before: int) -> None:
        pass

    def advance(self, seconds: float, *, late: float = 0.0) -> None:
        """Let time pass, firing timers on the way, each `late` seconds after it was due."""
        end = self.time + seconds
        while True:
            due = [timer for timer in self.timers if timer.call is not None and timer.when <= end]
            if not due:
                break
            timer = min(due)
            self.timers.remove(timer)
            self.time = max(self.time, timer.when + late)
            assert timer.call is not None
            timer.call()
        self.time = max(self.time, end)


class FakeConnection:
    """Both ends of one link. `incoming` is what the source sends, and `sent` is what the destination got, with times."""

    connected = True
    client_address = "127.0.0.1:5000"
    queue_limit = 1 << 30

    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.closed = False
        self.how = ""
        self.held_much = 0
        self.incoming: list[bytes | OSError] = []
        self.sent: list[tuple[float, bytes]] = []
        self.answered: list[tuple[float, bytes]] = []  # what the source got back
        self.back_room: int | None = None  # bytes that the source takes; None: all
        self.room: int | None = None  # bytes that the destination takes; None: all
        self.link = self._make(upward=True)
        self.back = self._make(upward=False)
        self.link.peer, self.back.peer = self.back, self.link
        self.link.recv_into = self._recv_into
        self.link.send = self._send
        self.back.send = self._send_back
        self.link.mask = self.back.mask = IN

    def _make(self, *, upward: bool) -> Link:
        return Link(self, self.loop, upward=upward)  # type: ignore[arg-type]

    def _recv_into(self, buffer: bytearray, size: int = 262144) -> int:
        item = self.incoming.pop(0) if self.incoming else BlockingIOError(EAGAIN, "")
        if isinstance(item, OSError):
            raise item
        part, rest = item[:size], item[size:]
        if rest:
            self.incoming.insert(0, rest)
        buffer[: len(part)] = part
        return len(part)

    def _send(self, data: Any) -> int:
        size = len(data) if self.room is None else min(len(data), self.room)
        if self.room is not None:
            self.room -= size
        if not size:
            raise BlockingIOError(EAGAIN, "")
        self.sent.append((round(self.loop.time, 6), bytes(data[:size])))
        return size

    def _send_back(self, data: Any) -> int:
        size = len(data) if self.back_room is None else min(len(data), self.back_room)
        if self.back_room is not None:
            self.back_room -= size
        if not size:
            raise BlockingIOError(EAGAIN, "")
        self.answered.append((round(self.loop.time, 6), bytes(data[:size])))
        return size

    def random_for(self, installed: str, *, upward: bool) -> Random:
        return Random(f"{installed}{upward}")

    def watch_held_memory(self) -> None:
        self.held_much += 1

    def half_closed(self, link: Link) -> None:
        self.how = "half-closed"

    def close(self, *, reset: bool = False) -> None:
        self.closed = True
        self.how = "reset" if reset else "closed"

    def dial_failed(self, error: Exception) -> None:
        self.how = "dial failed"

    # --- for the tests ------------------------------------------------------------------------------------------------

    def read(self, *chunks: bytes | OSError) -> None:
        """Let these chunks arrive, one event each, as far as the link still listens."""
        for chunk in chunks:
            self.incoming.append(chunk)
            if self.reading:
                self.link.on_event(IN)

    @property
    def reading(self) -> bool:
        return bool(self.link.mask & IN)

    def take(self, room: int | None) -> None:
        """Let the destination take `room` more bytes."""
        self.room = room
        self.back.on_event(OUT)

    def take_back(self, room: int | None) -> None:
        """Let the source take `room` more bytes of the answers."""
        self.back_room = room
        self.link.on_event(OUT)

    def install(self, toxic: Toxic, *, upward: bool = True) -> InstalledToxic:
        """Put a toxic of a test on the link, or on the other direction."""
        stream = "upstream" if upward else "downstream"
        installed = InstalledToxic(name=f"toy-{stream}", kind="noop", stream=stream, toxicity=1.0, attributes={})
        installed.toxic = toxic
        (self.link if upward else self.back).add(installed, self.loop.time)
        return installed

    def add(
        self, kind: str, toxicity: float = 1.0, trigger: dict[str, Any] | None = None, **attributes: int
    ) -> InstalledToxic:
        made = None
        for name, value in (trigger or {}).items():
            made = made or wire.Trigger()
            made.read(name, JsonObject(value.items()) if isinstance(value, dict) else value)
        merged = wire.merge_attributes(kind, JsonObject(attributes.items()), {})
        installed = InstalledToxic(
            name=kind, kind=kind, stream="upstream", toxicity=toxicity, attributes=merged, trigger=made
        )
        self.link.add(installed, self.loop.time)
        return installed

    def change(self, installed: InstalledToxic, **attributes: int) -> None:
        installed.update(
            toxicity=installed.toxicity,
            attributes=wire.merge_attributes(installed.kind, JsonObject(attributes.items()), installed.attributes),
        )
        self.link.update(installed, self.loop.time)

    def remove(self, installed: InstalledToxic) -> None:
        self.link.remove(installed, self.loop.time)


@pytest.fixture
def wired() -> FakeConnection:
    return FakeConnection()


def test_without_toxics_data_is_sent_at_once(wired: FakeConnection) -> None:
    wired.read(b"abc")
    assert wired.sent == [(0.0, b"abc")]
    assert wired.link.bytes == 3


def test_full_destination_stops_the_reading_until_it_takes_more(wired: FakeConnection) -> None:
    wired.room = 2
    wired.read(b"abcdef")
    assert (wired.sent, wired.reading, wired.link.held_bytes()) == ([(0.0, b"ab")], False, 4)
    wired.take(1)
    assert (wired.reading, wired.link.held_bytes()) == (False, 3)
    wired.take(None)
    assert (wired.sent[1:], wired.reading) == ([(0.0, b"c"), (0.0, b"def")], True)


def test_spurious_event_does_nothing(wired: FakeConnection) -> None:
    wired.link.on_event(IN)
    installed = wired.add("latency", latency=1)
    wired.link.on_event(IN)
    wired.remove(installed)
    assert (wired.sent, wired.how, wired.reading) == ([], "", True)


@pytest.mark.parametrize(
    ("last", "how"), [(b"", "half-closed"), (OSError(ECONNRESET, ""), "reset"), (OSError(1, ""), "closed")]
)
def test_how_the_source_ends_is_passed_on(wired: FakeConnection, last: Any, how: str) -> None:
    wired.read(b"abc", last)
    assert (wired.sent, wired.how) == ([(0.0, b"abc")], how)


@pytest.mark.parametrize(("last", "how"), [(b"", "half-closed"), (OSError(ECONNRESET, ""), "reset")])
def test_the_end_follows_held_data(wired: FakeConnection, last: Any, how: str) -> None:
    wired.add("latency", latency=1000)
    wired.read(b"abc", last)
    wired.loop.advance(0.9)
    assert (wired.sent, wired.how) == ([], "")
    wired.loop.advance(0.2)
    assert (wired.sent, wired.how) == ([(1.0, b"abc")], how)


def test_end_waits_behind_a_full_destination(wired: FakeConnection) -> None:
    wired.room = 1
    wired.read(b"ab")
    wired.link._on_source_end(wired_end())
    assert wired.how == ""
    wired.take(None)
    assert (wired.sent, wired.how) == ([(0.0, b"a"), (0.0, b"b")], "half-closed")


def wired_end() -> Any:
    from pytest_resilience.proxy.toxics.toxic import END

    return END


def test_chained_times_add_up_however_late_the_loop_is(wired: FakeConnection) -> None:
    wired.add("latency", latency=100)
    wired.add("bandwidth", rate=1)
    wired.add("latency", latency=200)
    wired.read(b"x" * 100)
    wired.loop.advance(1.0, late=0.03)
    assert wired.sent == [(0.43, b"x" * 100)]  # 0.1 + 0.1 + 0.2, and late once, not thrice


def test_burst_through_two_latencies_keeps_its_distances(wired: FakeConnection) -> None:
    wired.add("latency", latency=100)
    wired.add("latency", latency=100)
    for number in range(5):
        wired.read(bytes([number]))
        wired.loop.advance(0.01)
    wired.loop.advance(1.0)
    assert wired.sent == [(round(0.2 + number * 0.01, 6), bytes([number])) for number in range(5)]


def test_jitter_never_overtakes(wired: FakeConnection) -> None:
    wired.add("latency", latency=100, jitter=100)
    wired.read(*(bytes([number]) for number in range(50)))
    wired.loop.advance(1.0)
    assert b"".join(data for _, data in wired.sent) == bytes(range(50))


def test_bandwidth_holds_the_source_back_and_keeps_its_rate(wired: FakeConnection) -> None:
    wired.add("bandwidth", rate=10)
    wired.read(*[b"x" * 1000] * 5)
    assert not wired.reading
    assert len(wired.incoming) == 3  # one is worked on, one waits, the rest stays with the kernel
    for _ in range(6):
        wired.loop.advance(0.1)
        while wired.reading and wired.incoming:
            wired.link.on_event(IN)
    assert [at for at, _ in wired.sent] == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_toxics_see_chunks_of_32_kib(wired: FakeConnection) -> None:
    installed = wired.add("bandwidth", rate=1_000_000)
    wired.read(b"x" * 100_000)
    assert installed.bytes == 32768


def test_update_releases_the_chunk_at_work_and_counts_from_arrival_for_the_rest(wired: FakeConnection) -> None:
    installed = wired.add("latency", latency=3000)
    wired.read(b"1", b"2")
    wired.loop.advance(0.1)
    wired.change(installed, latency=500)
    assert wired.sent == [(0.1, b"1")]
    wired.loop.advance(1.0)
    assert wired.sent[1:] == [(0.5, b"2")]


def test_removal_in_the_middle_lets_go_in_order(wired: FakeConnection) -> None:
    wired.add("latency", latency=100)
    middle = wired.add("bandwidth", rate=0)
    wired.add("latency", latency=100)
    wired.read(b"1", b"2", b"3")
    wired.loop.advance(1.0)
    wired.remove(middle)
    wired.loop.advance(1.0)
    assert wired.sent == [(1.1, b"1"), (1.1, b"2"), (1.1, b"3")]


def test_removal_with_a_full_destination_loses_nothing(wired: FakeConnection) -> None:
    installed = wired.add("bandwidth", rate=0)
    wired.read(b"1", b"2")
    wired.room = 0
    wired.remove(installed)
    assert (wired.sent, wired.link.held_bytes(), wired.reading) == ([], 2, False)
    wired.take(None)
    assert (wired.sent, wired.reading) == ([(0.0, b"1"), (0.0, b"2")], True)


def test_queue_beyond_the_share_of_the_connection_stops_the_reading(wired: FakeConnection) -> None:
    wired.queue_limit = 100_000
    wired.add("latency", latency=1000)
    wired.read(*[b"x" * 32768] * 9)
    assert not wired.reading
    assert 100_000 < wired.link.stages[0].waiting <= 100_000 + 32768
    assert wired.held_much
    wired.loop.advance(1.0)
    assert (wired.reading, wired.link.stages[0].waiting) == (True, 0)
    wired.loop.advance(60.0)
    assert b"".join(data for _, data in wired.sent) == b"x" * 32768 * (len(wired.sent))


def test_share_of_a_connection_never_stops_the_last_chunk(wired: FakeConnection) -> None:
    wired.queue_limit = 1
    wired.add("latency", latency=1000)
    for second in range(3):
        wired.read(b"x" * 32768)
        wired.loop.advance(1.0)
        assert wired.sent[-1] == (second + 1.0, b"x" * 32768)
    assert not wired.held_much


def test_removal_of_a_timeout_closes(wired: FakeConnection) -> None:
    installed = wired.add("timeout")
    wired.read(b"lost")
    assert wired.link.dropped_bytes() == 4
    wired.remove(installed)
    assert (wired.sent, wired.how) == ([], "closed")


def test_timeout_is_absolute(wired: FakeConnection) -> None:
    wired.add("timeout", timeout=300)
    for _ in range(2):
        wired.loop.advance(0.1)
        wired.read(b"x")
    wired.loop.advance(0.099)
    assert wired.how == ""
    wired.loop.advance(0.002)
    assert wired.how == "closed"


def test_reset_peer_strikes_an_idle_link_at_once(wired: FakeConnection) -> None:
    installed = wired.add("reset_peer")
    assert (wired.how, installed.hits.count) == ("reset", 1)


def test_removal_of_a_toxic_that_is_not_there_does_nothing(wired: FakeConnection) -> None:
    installed = wired.add("noop")
    wired.remove(installed)
    wired.remove(installed)
    assert wired.link.stages == ()


def test_limit_data_closes_behind_a_latency_that_comes_later(wired: FakeConnection) -> None:
    wired.add("limit_data", bytes=3)
    wired.add("latency", latency=100)
    wired.read(b"abcdef", b"more")
    assert wired.how == ""
    wired.loop.advance(0.2)
    assert (wired.sent, wired.how) == ([(0.1, b"abc")], "closed")


def test_cut_ends_this_direction_behind_held_data(wired: FakeConnection) -> None:
    wired.add("latency", latency=100)
    wired.read(b"before")
    wired.add("cut")
    wired.loop.advance(0.05)
    assert wired.how == "half-closed"
    wired.read(b"after")
    wired.loop.advance(1.0)
    assert wired.sent == []
    assert wired.link.dropped_bytes() == len(b"beforeafter")


def test_slicer_pauses_after_its_last_piece(wired: FakeConnection) -> None:
    wired.add("slicer", average_size=2, delay=100_000)
    wired.read(b"abcd", b"e")
    wired.loop.advance(1.0)
    assert wired.sent == [(0.0, b"ab"), (0.1, b"cd"), (0.2, b"e")]


@pytest.mark.parametrize(
    ("trigger", "held"),
    [
        ({"after": 2}, b"cd"),
        ({"after": {"bytes": 3}}, b"d"),
        ({"count": 0}, b""),
        ({"after": {"connections": 1}}, b""),
        ({"connections": [1]}, b"abcd"),
        ({"connections": [2]}, b""),
        ({"connections": ["127.0.0.1"]}, b"abcd"),
        ({"connections": ["127.0.0.1:5000"]}, b"abcd"),
        ({"connections": ["10.0.0.1"]}, b""),
        ({"count": {"connections": 1}}, b"abcd"),
        ({"count": {"connections": 0}}, b""),
    ],
)
def test_triggers(wired: FakeConnection, trigger: dict[str, Any], held: bytes) -> None:
    installed = wired.add("bandwidth", trigger=trigger)
    wired.read(b"a", b"b", b"c", b"d")
    passed = b"".join(data for _, data in wired.sent)
    assert passed == b"abcd"[: 4 - len(held)] if held else b"abcd"
    assert installed.hits.count == (1 if held else 0)


def test_count_ends_the_work(wired: FakeConnection) -> None:
    installed = wired.add("latency", latency=100, trigger={"after": 1, "count": 1})
    wired.read(b"a", b"b", b"c")
    wired.loop.advance(1.0)
    assert wired.sent == [(0.0, b"a"), (0.1, b"b"), (0.1, b"c")]  # c waits for b and gets no delay
    assert (installed.hits.count, installed.bytes) == (1, 1)


def test_draw_is_made_once(wired: FakeConnection) -> None:
    installed = wired.add("bandwidth", toxicity=0.5)
    before = wired.link.stages[0].toxicity_draw
    wired.change(installed, rate=1)
    wired.add("noop")
    assert wired.link.stages[0].toxicity_draw == before
    assert before is not None


def test_destination_that_is_gone_takes_everything_and_is_remembered(wired: FakeConnection) -> None:
    def fail(data: Any) -> int:
        raise OSError(ECONNRESET, "")

    wired.link.send = fail
    wired.read(b"abc", b"def")
    assert (wired.link.dropped_bytes(), wired.back.reset_seen, wired.reading) == (6, True, True)


def test_destination_that_had_half_closed_and_is_gone_resets(wired: FakeConnection) -> None:
    def fail(data: Any) -> int:
        raise OSError(ECONNRESET, "")

    wired.link.send = fail
    wired.back.ended = wired.back.done = True
    wired.read(b"abc")
    assert wired.how == "reset"


def test_much_that_is_due_goes_in_turns(wired: FakeConnection) -> None:
    wired.add("slicer", average_size=1)
    wired.read(b"x" * 100)
    assert len(wired.sent) == MAX_ITEMS_PER_TURN
    wired.loop.advance(0.0)
    assert len(wired.sent) == 100


# --- toxics with state that answer back ------------------------------------------------------------------------------


class Answer(Toxic):
    """Answer each chunk with its number and its bytes. Pass the chunk on only with `passes`."""

    def __init__(self, *, delay: float = 0.0, passes: bool = False, event: StreamEvent | None = None) -> None:
        self.delay = delay
        self.passes = passes
        self.event = event

    def new_state(self) -> list[bytes]:
        return []

    def on_data(self, chunk: bytes, arrived: float, now: float, context: ToxicContext) -> Iterator[Scheduled]:
        context.state.append(chunk)
        yield (now + self.delay, b"%d:%s;" % (len(context.state), chunk), BACK)
        if self.event is not None:
            yield (now + self.delay, self.event, BACK)
        if self.passes:
            yield (now, chunk, SAME)


def test_toxic_counts_and_answers_in_order(wired: FakeConnection) -> None:
    wired.install(Answer())
    wired.read(b"a", b"b", b"c")
    assert (wired.answered, wired.sent) == ([(0.0, b"1:a;"), (0.0, b"2:b;"), (0.0, b"3:c;")], [])
    assert wired.link.stages[0].state == [b"a", b"b", b"c"]
    assert (wired.link.dropped_bytes(), wired.back.dropped_bytes()) == (3, -12)


def test_each_link_has_a_state_that_updates_keep(wired: FakeConnection) -> None:
    toxic, other = Answer(), FakeConnection()
    installed = wired.install(toxic)
    other.install(toxic)
    wired.read(b"a")
    other.read(b"x")
    wired.link.update(installed, 0.0)
    wired.read(b"b")
    assert (wired.answered, other.answered) == ([(0.0, b"1:a;"), (0.0, b"2:b;")], [(0.0, b"1:x;")])


def test_delayed_answer_waits_while_the_chunk_goes_on(wired: FakeConnection) -> None:
    wired.install(Answer(delay=0.5, passes=True))
    wired.read(b"a")
    assert (wired.sent, wired.answered) == ([(0.0, b"a")], [])
    wired.read(b"b")
    wired.loop.advance(2.0)
    assert wired.sent == [(0.0, b"a"), (0.5, b"b")], "a chunk is worked on when the answer to the one before has gone"
    assert [data for _, data in wired.answered] == [b"1:a;", b"2:b;"]
    assert wired.answered[0][0] == 0.5


def test_answer_passes_through_the_toxics_of_its_direction(wired: FakeConnection) -> None:
    latency = wired.install(build("latency", {"delay": 0.2}), upward=False)
    wired.install(Answer())
    wired.read(b"a")
    assert wired.answered == []
    wired.loop.advance(1.0)
    assert wired.answered == [(0.2, b"1:a;")]
    assert latency.bytes == 4


def test_toxics_that_answer_each_other_take_turns(wired: FakeConnection) -> None:
    wired.install(Answer(delay=0.25), upward=False)
    wired.install(Answer(delay=0.25))
    wired.read(b"a")
    wired.loop.advance(1.1)
    assert wired.link.stages[0].state == [b"a", b"1:1:a;;", b"2:2:1:1:a;;;;"]
    assert (wired.sent, wired.answered) == ([], [])


def test_client_that_reads_no_answers_is_not_read_from(wired: FakeConnection) -> None:
    wired.back_room = 2
    wired.install(Answer())
    wired.read(b"a", b"b", b"c", b"d")
    assert wired.answered == [(0.0, b"1:")]
    assert not wired.reading
    assert wired.link.stages[0].state == [b"a", b"b"], "no chunk is worked on while an answer waits"
    wired.take_back(None)
    wired.loop.advance(0.1)
    while wired.reading and wired.incoming:
        wired.link.on_event(IN)
    assert b"".join(data for _, data in wired.answered) == b"1:a;2:b;3:c;4:d;"[: len(wired.answered) * 4]
    assert wired.reading


@pytest.mark.parametrize(("event", "how"), [(CLOSE, "closed"), (RESET, "reset"), (END, "half-closed")])
def test_event_that_is_answered_follows_the_answer(wired: FakeConnection, event: StreamEvent, how: str) -> None:
    wired.install(Answer(event=event))
    wired.read(b"a")
    assert (wired.answered, wired.how) == ([(0.0, b"1:a;")], how)
    if event is END:
        assert (wired.back.ended, wired.back.done, wired.link.ended) == (True, True, False)
        wired.read(b"b")
        assert len(wired.answered) == 1, "an answer is dropped after the end of its direction"


def test_removal_lets_answers_go_at_once(wired: FakeConnection) -> None:
    installed = wired.install(Answer(delay=5.0))
    wired.read(b"a", b"b")
    wired.remove(installed)
    assert wired.answered == [(0.0, b"1:a;")]
    assert wired.sent == [(0.0, b"b")], "a chunk that no toxic has seen is passed on"


def test_update_lets_an_answer_go_at_once(wired: FakeConnection) -> None:
    installed = wired.install(Answer(delay=5.0))
    wired.read(b"a")
    wired.loop.advance(1.0)
    wired.link.update(installed, wired.loop.time)
    assert wired.answered == [(1.0, b"1:a;")]


# --- the tap ---------------------------------------------------------------------------------------------------------


def tapped(wired: FakeConnection, *returned: Iterable[Piece] | None) -> list[bytes]:
    """Put a tap on the link that returns these pieces, one after the other. Return the list of the data that it has got."""
    answers = iter(returned)
    got: list[bytes] = []

    def watcher(data: bytes | memoryview) -> Iterable[Piece] | None:
        got.append(bytes(data))
        return next(answers, None)

    wired.link.tap = watcher
    return got


def test_data_goes_on_as_the_tap_returns_it(wired: FakeConnection) -> None:
    got = tapped(wired, None, (b"x", b"y"), ())
    wired.read(b"abc", b"def", b"ghi")
    assert got == [b"abc", b"def", b"ghi"]
    assert wired.sent == [(0.0, b"abc"), (0.0, b"x"), (0.0, b"y")]
    assert wired.link.bytes - wired.link.dropped_bytes() - wired.link.held_bytes() == 5


def test_the_tap_gets_data_behind_all_toxics(wired: FakeConnection) -> None:
    got = tapped(wired, (b"instead",))
    wired.add("latency", latency=1000)
    wired.read(b"abc")
    assert got == []
    wired.loop.advance(1.0)
    assert got == [b"abc"]
    assert wired.sent == [(1.0, b"instead")]


def test_pieces_wait_for_a_destination_that_is_busy_and_are_not_tapped_again(wired: FakeConnection) -> None:
    got = tapped(wired, (b"abc", b"def"))
    wired.room = 1
    wired.read(b"x")
    assert not wired.reading
    assert wired.link.held_bytes() == 5
    wired.take(None)
    assert [data for _, data in wired.sent] == [b"a", b"bc", b"def"]
    assert got == [b"x"]
    assert wired.reading


def test_a_hold_stops_the_direction_until_its_release(wired: FakeConnection) -> None:
    hold = Hold()
    tapped(wired, (b"a", hold, b"b"))
    wired.read(b"x")
    assert wired.sent == [(0.0, b"a")]
    assert not wired.reading
    assert not wired.back.mask & OUT  # or the loop would be called again and again
    wired.link.write_pieces((b"c",))
    hold.release()
    hold.release()
    assert [data for _, data in wired.sent] == [b"a", b"b", b"c"]
    assert wired.reading


def test_a_hold_behind_another_begins_when_that_one_is_released(wired: FakeConnection) -> None:
    first, second = Hold(), Hold(2.0)
    tapped(wired, (first, b"a", second, b"b"))
    wired.read(b"x")
    wired.loop.advance(5.0)
    first.release()
    assert wired.sent == [(5.0, b"a")]
    wired.loop.advance(5.0)
    assert wired.sent == [(5.0, b"a"), (7.0, b"b")]


def test_a_hold_that_is_released_while_the_destination_is_busy_waits_for_it(wired: FakeConnection) -> None:
    hold = Hold()
    tapped(wired, (hold, b"abc"))
    wired.read(b"x")
    wired.room = 1
    hold.release()
    assert wired.back.mask & OUT
    wired.take(None)
    assert [data for _, data in wired.sent] == [b"a", b"bc"]


def test_a_hold_behind_data_for_a_busy_destination_ends_the_wait_for_room(wired: FakeConnection) -> None:
    hold = Hold()
    tapped(wired, (b"abc", hold, b"d"))
    wired.room = 1
    wired.read(b"x")
    wired.take(None)
    assert [data for _, data in wired.sent] == [b"a", b"bc"]
    assert not wired.back.mask & OUT  # or the loop would be called again and again
    hold.release()
    assert wired.sent[-1] == (0.0, b"d")


def test_the_end_of_the_source_waits_behind_a_hold(wired: FakeConnection) -> None:
    hold = Hold()
    tapped(wired, (hold, b"a"))
    wired.read(b"x")
    wired.link._on_source_end(END)
    assert (wired.sent, wired.how) == ([], "")
    hold.release()
    assert wired.sent == [(0.0, b"a")]
    assert wired.how == "half-closed"


def test_an_event_takes_the_place_of_what_is_behind_a_hold(wired: FakeConnection) -> None:
    hold = Hold(then=RESET)
    tapped(wired, (hold, b"a"))
    wired.read(b"x")
    hold.release()
    assert (wired.sent, wired.how) == ([], "reset")


def test_a_release_after_the_end_of_the_connection_does_nothing(wired: FakeConnection) -> None:
    hold = Hold(1.0)
    tapped(wired, (hold, b"a"))
    wired.read(b"x")
    wired.close()
    wired.loop.advance(2.0)
    assert hold.released
    assert wired.sent == []


def test_a_tap_answers_and_closes_in_order(wired: FakeConnection) -> None:
    tapped(wired, (b"a", Back(b"no"), Back(CLOSE), b"never"))
    wired.read(b"x")
    assert wired.sent == [(0.0, b"a")]
    assert wired.answered == [(0.0, b"no")]
    assert wired.how == "closed"


def test_a_close_waits_for_an_answer_that_the_client_does_not_read_yet(wired: FakeConnection) -> None:
    tapped(wired, (Back(b"no"), Back(CLOSE)))
    wired.back_room = 1
    wired.read(b"x")
    assert not wired.closed
    wired.take_back(None)
    assert [data for _, data in wired.answered] == [b"n", b"o"]
    assert wired.how == "closed"
