"""The stream parsers of Redis: any split gives the same messages, and garbage is reported and never raises."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_resilience.wire.redis import encode_command
from pytest_resilience.wire.redis_stream import (
    KEPT_BYTES,
    MAX_LINE,
    Command,
    Commands,
    Everything,
    Replies,
    Reply,
    Unfinished,
    begins_command,
)

NAMES = st.sampled_from([b"GET", b"set", b"EvalSha", b"JSON.SET", b"MULTI", b"PING", b"CLIENT", b"x" * 600])
WORDS = st.one_of(
    st.binary(max_size=30), st.sampled_from([b"\r\n", b"*1\r\n$4\r\nPING\r\n", b"$5\r\n", b"v" * (KEPT_BYTES + 9)])
)
MULTIBULK = st.builds(
    lambda name, words: (name, encode_command(name, *words), [name, *words]), NAMES, st.lists(WORDS, max_size=5)
)
INLINE = st.sampled_from(
    [
        (b"PING", b"PING\r\n", [b"PING"]),
        (b"get", b"get  a\n", [b"get", b"a"]),
        (b"SET", b"SET a 1\r\n", [b"SET", b"a", b"1"]),
    ]
)
NOTHING = st.sampled_from([(None, b"\r\n", []), (None, b"*0\r\n", []), (None, b"*-1\r\n", [])])
CLIENT_STREAMS = st.lists(st.one_of(MULTIBULK, INLINE, NOTHING), max_size=8)


def scalars():
    text = st.sampled_from([b"OK", b"", b"QUEUED", b"ERR no", b"1.5", b"t", b"-7"])
    lines = st.builds(
        lambda sign, line: sign + line + b"\r\n", st.sampled_from([b"+", b"-", b":", b",", b"#", b"(", b"_"]), text
    )
    bodies = st.builds(
        lambda sign, body: b"%b%d\r\n%b\r\n" % (sign, len(body), body), st.sampled_from([b"$", b"=", b"!"]), WORDS
    )
    return st.one_of(lines, bodies, st.sampled_from([b"$-1\r\n", b"*-1\r\n"]))


def attribute(pairs):
    return b"|%d\r\n" % len(pairs) + b"".join(key + value for key, value in pairs)


def aggregates(elements):
    lists = st.builds(
        lambda sign, each: b"%b%d\r\n" % (sign, len(each)) + b"".join(each),
        st.sampled_from([b"*", b"~"]),
        st.lists(elements, max_size=4),
    )
    pairs = st.lists(st.tuples(elements, elements), max_size=3)
    maps = pairs.map(lambda each: b"%%%d\r\n" % len(each) + b"".join(key + value for key, value in each))
    attributed = st.builds(lambda each, element: attribute(each) + element, pairs, elements)
    return st.one_of(lists, maps, attributed.map(lambda element: b"*1\r\n" + element))


ELEMENTS = st.recursive(scalars(), aggregates, max_leaves=12)
PUSHES = st.lists(ELEMENTS, max_size=3).map(lambda each: b">%d\r\n$7\r\nmessage\r\n" % (1 + len(each)) + b"".join(each))
ATTRIBUTES = st.lists(st.tuples(ELEMENTS, ELEMENTS), max_size=2).map(attribute)
SERVER_STREAMS = st.lists(
    st.one_of(
        ELEMENTS.map(lambda data: ("reply", data)),
        PUSHES.map(lambda data: ("push", data)),
        ATTRIBUTES.map(lambda data: ("attribute", data)),
    ),
    max_size=8,
)
CUTS = st.lists(st.integers(0, 400), max_size=12)


def pieces(data, cuts):
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[begin:end] for begin, end in itertools.pairwise(places)]


def fed(parser, parts):
    return [message for part in parts for message in parser.feed(part)]


def offsets(parts):
    """Return the begin and the end of each part in all of them."""
    ends, end = [], 0
    for part in parts:
        ends.append((end, end + len(part)))
        end += len(part)
    return ends


@settings(deadline=None)
@given(CLIENT_STREAMS, CUTS)
def test_any_split_gives_the_same_commands(stream, cuts):
    data = b"".join(encoded for _, encoded, _ in stream)
    expected = [
        Command(name[:KEPT_BYTES].decode().lower(), begin, end, len(words), tuple(word[:KEPT_BYTES] for word in words))
        for (name, _, words), (begin, end) in zip(stream, offsets([each for _, each, _ in stream]), strict=True)
        if name is not None
    ]
    parser = Commands(Everything())
    assert fed(parser, pieces(data, cuts)) == expected
    assert (parser.lost_at, parser.unfinished) == (None, None)


@settings(deadline=None)
@given(CLIENT_STREAMS, CUTS)
def test_words_are_kept_only_for_the_names_that_are_wanted(stream, cuts):
    data = b"".join(encoded for _, encoded, _ in stream)
    for command in fed(Commands({"get", "client"}), pieces(data, cuts)):
        assert (len(command.words) == command.word_count) == (command.name in ("get", "client"))


@settings(deadline=None)
@given(SERVER_STREAMS, CUTS)
def test_any_split_gives_the_same_replies(stream, cuts):
    data = b"".join(encoded for _, encoded in stream)
    places = offsets([encoded for _, encoded in stream])
    parser = Replies()
    found = fed(parser, pieces(data, cuts))
    assert [(each.kind, each.start, each.end) for each in found] == [
        (kind, *place) for (kind, _), place in zip(stream, places, strict=True)
    ]
    assert all(each.sign == data[each.start] for each in found)
    assert all(each.label == b"message" for each in found if each.kind == "push")
    assert found == fed(Replies(), [data])
    assert (parser.lost_at, parser.unfinished) == (None, None)


@settings(deadline=None)
@given(st.binary(max_size=200), CUTS, st.sampled_from([Commands, Replies]))
def test_garbage_never_raises_and_any_split_of_it_gives_the_same(data, cuts, kind):
    whole, split = kind(), kind()
    assert fed(split, pieces(data, cuts)) == fed(whole, [data])
    assert split.lost_at == whole.lost_at


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from([b"*", b"$", b"1", b"0", b"-", b"\r\n", b"+", b">", b"%", b"|", b"a", b"GET"]), max_size=40
    ),
    CUTS,
)
def test_bytes_that_resemble_redis_never_raise(parts, cuts):
    data = b"".join(parts)
    for kind in (Commands, Replies):
        whole, split = kind(), kind()
        assert fed(split, pieces(data, cuts)) == fed(whole, [data])
        assert split.lost_at == whole.lost_at


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00",  # a TLS handshake
        b"\x00\x00\x00\x08\x04\xd2\x16\x2f",  # an SSLRequest of Postgres
        b"*1\r\n+PING\r\n",
        b"*x\r\n",
        b"*9999999\r\n",
        b"*1\r\n$x\r\n",
        b"Host: example.org\r\n",
        b"a" * (MAX_LINE + 1),
    ],
)
def test_other_protocols_are_no_commands(data):
    parser = Commands()
    assert parser.feed(data) == []
    assert parser.lost_at == 0
    assert parser.feed(b"PING\r\n") == []


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 200 OK\r\n", b"$?\r\n", b"*1\n", b"+" + b"a" * MAX_LINE, b"\x15\x03\x01", b"$1x\r\n"]
)
def test_other_protocols_are_no_replies(data):
    parser = Replies()
    assert parser.feed(data) == []
    assert parser.lost_at == 0
    assert parser.feed(b"+OK\r\n") == []


def test_offsets_count_from_the_given_one():
    commands = Commands(offset=100)
    assert commands.feed(b"PING\r\n") == [Command("ping", 100, 106, 1)]
    commands.feed(b"\x16")
    assert commands.lost_at == 106
    assert Replies(offset=7).feed(b"+OK\r\n") == [Reply("reply", 7, 12, ord("+"))]


def test_an_unfinished_command_shows_the_words_that_are_complete():
    parser = Commands(Everything())
    parser.feed(b"PING\r\n*3\r\n$3\r\nSE")
    assert parser.unfinished == Unfinished(6, None, ())
    parser.feed(b"T\r\n$1\r\nk\r\n$1000000\r\nvvv")
    assert parser.unfinished == Unfinished(6, "set", (b"SET", b"k"))
    assert parser.feed(b"v" * 999997 + b"\r\n") == [
        Command("set", 6, 6 + 4 + 9 + 7 + 10 + 1000002, 3, (b"SET", b"k", b"v" * KEPT_BYTES))
    ]
    assert parser.unfinished is None


def test_an_unfinished_reply_shows_its_kind():
    parser = Replies()
    parser.feed(b"+OK\r\n>3\r\n$7\r\nmessage\r\n$1\r\n")
    assert parser.unfinished == Reply("push", 5, 26, ord(">"), b"message")


def test_views_are_taken_as_bytes_are():
    data = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n"
    assert (
        Commands({"get"}).feed(memoryview(data))
        == Commands({"get"}).feed(bytearray(data))
        == Commands({"get"}).feed(data)
    )


@pytest.mark.parametrize(
    ("data", "begins"),
    [
        (b"*2\r\n$3\r\nGET\r\n$1\r\na", True),
        (b"*2\r\n$4\r\nGET\r\n$1\r\na", False),
        (b"$3\r\nGET\r\n", False),
        (b"*1\r\n$4\r\nPIN", False),
    ],
)
def test_the_begin_of_a_command_is_recognised(data, begins):
    assert begins_command(data) is begins
