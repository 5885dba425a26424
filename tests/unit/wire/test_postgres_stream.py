"""The readers of both directions of Postgres: any split gives the same messages, and garbage never raises."""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import pairwise
from typing import TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_resilience.wire import postgres_stream as wire

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

Reader: TypeAlias = wire.ClientReader | wire.ServerReader
Seen: TypeAlias = list[tuple[int, int, int]]

STARTUP = wire.message(b"", b"\0\3\0\0user\0u\0application_name\0a\0\0")
PACKETS = st.lists(st.sampled_from([struct.pack(">II", 8, 80877103), struct.pack(">II", 8, 80877104)]), max_size=2).map(
    b"".join
)
BODIES = st.one_of(st.binary(max_size=40), st.integers(0, 3 * wire.MAX_HEAD).map(bytes))


def messages(kinds: bytes) -> st.SearchStrategy[bytes]:
    one = st.builds(lambda kind, body: wire.message(bytes([kind]), body), st.sampled_from(list(kinds)), BODIES)
    return st.lists(one, max_size=8).map(b"".join)


CLIENT = st.builds(lambda packets, rest: packets + STARTUP + rest, PACKETS, messages(b"QPBDECSFHXdcfp"))
SERVER = messages(b"RKSZ123TDCIENnstAGWHdcvV")


def read(reader: Reader, pieces: list[bytes]) -> Seen:
    """Return the messages with their offsets in the whole stream."""
    seen: Seen = []
    position = 0
    for piece in pieces:
        for kind, start, end in reader.feed(piece):
            offset = position - reader.kept
            seen.append((kind, start + offset, end + offset))
        position += len(piece)
    return seen


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(place, len(stream)) for place in places), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


PLACES = st.lists(st.integers(0, 2000), max_size=12)


@patient
@given(CLIENT, PLACES)
def test_any_split_of_the_clients_stream_gives_the_same_messages(stream: bytes, places: list[int]) -> None:
    assert read(wire.ClientReader(), cut(stream, places)) == read(wire.ClientReader(), [stream])


@patient
@given(SERVER, PLACES)
def test_any_split_of_the_servers_stream_gives_the_same_messages(stream: bytes, places: list[int]) -> None:
    assert read(wire.ServerReader(), cut(stream, places)) == read(wire.ServerReader(), [stream])


@patient
@given(SERVER)
def test_every_byte_of_a_stream_belongs_to_one_message(stream: bytes) -> None:
    edges = [0, *(end for _, _, end in read(wire.ServerReader(), [stream]))]
    assert [start for _, start, _ in read(wire.ServerReader(), [stream])] == edges[:-1]
    assert edges[-1] == len(stream)


@pytest.mark.parametrize("make", [wire.ClientReader, wire.ServerReader])
@patient
@given(pieces=st.lists(st.binary(max_size=60), max_size=20))
def test_garbage_never_raises_and_is_not_kept(make: Callable[[], Reader], pieces: list[bytes]) -> None:
    reader = make()
    for piece in pieces:
        reader.feed(piece)
        assert not (reader.unreadable and reader.head)
        assert len(reader.head) < wire.MAX_HEAD


@patient
@given(CLIENT, st.integers(0, 200), st.binary(min_size=1, max_size=30))
def test_a_stream_that_turns_into_garbage_never_raises(stream: bytes, place: int, garbage: bytes) -> None:
    reader = wire.ClientReader()
    read(reader, [stream[:place] + garbage, stream[place:]])
    assert reader.end <= len(reader.data)


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (b"\x16\x03\x01\x00", "encrypted"),
        (struct.pack(">II", 8, 80877103) + b"\x16\x03\x01", "encrypted"),
        (b"PING\r\n", "other"),
        (b"GET / HTTP/1.1\r\n", "other"),
        (struct.pack(">II", 8, 12345), "other"),
        (struct.pack(">II", 20000, 196608), "other"),
        (struct.pack(">IIII", 16, 80877102, 1, 2), "cancel"),
        (STARTUP + b"?", "other"),
        (STARTUP + b"Q\0\0\0\3", "other"),
        (STARTUP + b"Q\x7f\0\0\0", "other"),
    ],
)
def test_a_stream_that_is_no_session_is_reported_with_the_reason(first: bytes, reason: str) -> None:
    reader = wire.ClientReader()
    for byte in first:
        reader.feed(bytes([byte]))
    assert reader.unreadable == reason
    assert reader.feed(b"more") == []
    assert reader.head == b""


def test_a_long_message_is_shown_when_its_head_is_there_and_not_again() -> None:
    query = wire.message(b"Q", b"x" * (3 * wire.MAX_HEAD))
    reader = wire.ClientReader()
    reader.feed(STARTUP)
    assert reader.feed(query[: wire.MAX_HEAD - 1]) == []
    assert reader.feed(query[wire.MAX_HEAD - 1 : wire.MAX_HEAD]) == [(wire.QUERY, 0, len(query))]
    assert reader.feed(query[wire.MAX_HEAD : -1]) == []
    assert reader.begin == len(reader.data)
    assert reader.feed(query[-1:] + wire.message(b"S", b"")) == [(wire.SYNC, 1, 6)]
    assert reader.begin == 1


def test_the_response_to_a_request_for_encryption_is_no_message() -> None:
    reader = wire.ServerReader()
    reader.expect_single_byte()
    assert reader.feed(b"NR\0\0\0\4") == [(wire.SINGLE_BYTE, 0, 1), (ord("R"), 1, 6)]


@pytest.mark.parametrize(
    ("piece", "ends"), [(b"C\0\0\0\4Z\0\0\0\5I", True), (b"Z\0\0\0\5", False), (b"", False), (b"Z\0\0\0\5Ix", False)]
)
def test_a_piece_ends_ready(piece: bytes, ends: bool) -> None:
    assert wire.ends_ready(piece) is ends
    assert wire.ends_ready(memoryview(piece)) is ends


def test_texts_of_a_body_are_cut_at_zeros() -> None:
    assert wire.texts(b"portal\0name\0\0\1", 2) == [b"portal", b"name"]
    assert wire.texts(b"port", 2) == [b"port", b""]


def test_settings_of_a_startup_packet() -> None:
    assert wire.startup_settings(STARTUP) == {"user": "u", "application_name": "a"}


@pytest.mark.parametrize("text", ["it's", "a\\b", "$resilience$", "$resilience_$ $resilience$"])
def test_the_text_of_an_error_can_not_end_its_quotes(text: str) -> None:
    query = wire.raising_query("40001", text)[5:-1].decode()
    tag = query[3 : query.index("$", 4) + 1]
    assert query.count(tag) == 2
    assert query.endswith(tag)


GROUPS = st.lists(
    st.one_of(
        messages(b"BEQSDHPC"),
        st.builds(
            lambda name, described: (
                wire.message(b"B", b"\0" + name + b"\0\0\0")
                + (wire.message(b"D", b"P\0") if described else b"")
                + wire.execute("")
                + wire.message(b"S", b"")
            ),
            st.sampled_from([b"", b"name"]),
            st.booleans(),
        ),
        st.sampled_from([wire.message(b"Q", b"select 1\0")]),
    ),
    max_size=6,
).map(b"".join)


@patient
@given(GROUPS, st.integers(0, 40))
def test_the_groups_of_a_piece_are_those_that_a_reader_finds(stream: bytes, missing: int) -> None:
    piece = stream[: len(stream) - missing]
    reader = wire.ClientReader()
    reader.feed(STARTUP)
    kinds = [kind for kind, _, end in reader.feed(piece) if end <= len(piece)]
    ended = sum(kind in (wire.SYNC, wire.QUERY) for kind in kinds)
    whole = reader.at_boundary and not reader.unreadable
    assert wire.count_groups(piece) in ((-1, ended) if whole else (-1,))
    executions = wire.executions(piece)
    assert executions is None or (
        whole and len(executions) == ended == kinds.count(wire.EXECUTE) + kinds.count(wire.QUERY)
    )


def test_the_executions_of_a_piece_are_names_and_texts() -> None:
    bound = wire.message(b"B", b"\0name\0\0\0\0\1\0\0\0\1\0\0\0") + wire.execute("") + wire.message(b"S", b"")
    text = wire.message(b"Q", b"select 1\0")
    assert wire.executions(bound + text + bound) == [
        (wire.BIND, b"name"),
        (wire.QUERY, b"select 1"),
        (wire.BIND, b"name"),
    ]
    assert wire.executions(memoryview(b"")) == []
    assert wire.executions(bound[:-1]) is None
    assert wire.executions(wire.message(b"P", b"\0\0\0\0") + bound) is None
    assert wire.count_groups(bound + text + bound) == 3


READY = wire.message(b"Z", b"T")


@pytest.mark.parametrize("between", [b"", wire.message(b"2", b""), wire.message(b"D", b"\0\1\0\0\0\1Z")])
@pytest.mark.parametrize("number", [1, 2, 5])
def test_answers_of_a_piece_are_counted(between: bytes, number: int) -> None:
    assert wire.count_ready((between + READY) * number) == number


def test_a_text_that_looks_like_the_end_of_an_answer_is_not_counted() -> None:
    row = wire.message(b"D", b"\0\2\0\0\0\x142026-11-30T00:00:00Z\0\0\0\5Three")
    assert wire.count_ready(row + READY + row + READY) == 2
