"""Small commands and replies are recognized exactly as the parsers of streams read them."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_resilience.wire.redis import encode_command
from pytest_resilience.wire.redis_small import MAX_DATA, MAX_SIZE, name_of_head, small_commands, small_replies
from pytest_resilience.wire.redis_stream import Commands, Replies

SIZES = st.sampled_from([0, 1, 9, 10, 99, 100, MAX_SIZE, MAX_SIZE + 1, 1000])
WORDS = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [b"\r\n", b"\r\n$1\r\n", b"*1\r\n$4\r\nPING\r\n", b"$3\r\nfoo\r\n", b"\n*2\r\n$3\r\nGET\r\n$1\r\na"]
    ),
    SIZES.map(lambda size: b"x" * size),
)
COMMANDS = st.lists(
    st.builds(
        lambda name, words: encode_command(name, *words),
        st.sampled_from(["GET", "set", "EvalSha", "PING", "x" * 120, "\xe4"]),
        st.lists(WORDS, max_size=9),
    ),
    min_size=1,
    max_size=6,
).map(b"".join)
REPLIES = st.lists(
    st.one_of(
        WORDS.map(lambda body: b"$%d\r\n%b\r\n" % (len(body), body)),
        st.sampled_from(
            [b"$-1\r\n", b"+OK\r\n", b"-ERR no\r\n", b":7\r\n", b"_\r\n", b"*1\r\n:1\r\n", b">1\r\n+x\r\n"]
        ),
    ),
    min_size=1,
    max_size=6,
).map(b"".join)


@settings(deadline=None, max_examples=500)
@given(COMMANDS, st.integers(0, 4000))
@example(encode_command("SET", "a", b"\r\n$1\r\n" + b"x" * 30), 30)
@example(encode_command("SET", "a", "b") + encode_command("SET", "a", "b"), len(encode_command("SET", "a", "b")) + 20)
def test_commands_are_those_of_the_parser(data, left):
    data = data[: max(1, len(data) - left)]
    parser = Commands()
    names = [command.name for command in parser.feed(data)]
    heads = small_commands(data)
    if heads is not None:
        assert parser.is_between
        assert len(heads) == len(names)
        assert all(name_of_head(head) in (name, None) for head, name in zip(heads, names, strict=True))


@settings(deadline=None, max_examples=500)
@given(REPLIES, st.integers(0, 4000))
def test_replies_are_those_of_the_parser(data, left):
    data = data[: max(1, len(data) - left)]
    parser = Replies()
    replies = parser.feed(data)
    number = small_replies(data)
    if number:
        assert parser.is_between
        assert number == len(replies)
        assert all(reply.kind == "reply" for reply in replies)


@given(st.binary(min_size=1, max_size=80))
def test_other_bytes_are_no_commands_and_no_replies(data):
    small_replies(data)
    assert small_commands(b"\0" + data) is None


@pytest.mark.parametrize("size", [0, 1, 9, 10, 99, 100, 101, 199, MAX_SIZE])
def test_each_size_up_to_the_largest_is_recognized(size):
    command = encode_command("SET", b"k" * size, b"v" * size)
    assert small_commands(command * 2) == [b"*3\r\n$3\r\nSET\r\n"] * 2
    assert small_replies(b"$%d\r\n%b\r\n" % (size, b"v" * size) * 3) == 3


@pytest.mark.parametrize(
    "data",
    [
        encode_command("GET", b"k" * (MAX_SIZE + 1)),
        encode_command("GET", "k")[:-1],
        encode_command("GET", "k") + b"*",
        encode_command("GET", "k", "v")[: -len(b"$1\r\nv\r\n")],
        encode_command("MSET", *(["k", "v"] * 5)),
        b"*2\r\n$3\r\nGET\r\n$2\r\nk\r\n",
        b"PING\r\n",
        encode_command("GET", "k") * (MAX_DATA // 20 + 1),
    ],
    ids=[
        "too long",
        "a byte is missing",
        "a byte of the next",
        "a word is missing",
        "11 words",
        "a wrong size",
        "inline",
        "too much",
    ],
)
def test_other_data_is_left_to_the_parser(data):
    assert small_commands(data) is None


def test_a_name_without_its_size_is_none():
    assert name_of_head(b"*1\r\n$4\r\nPing\r\n") == "ping"
    assert name_of_head(b"*1\r\n$5\r\nPING\r\n") is None


@pytest.mark.parametrize(
    "data", [b"*1\r\n:1\r\n", b">1\r\n+x\r\n", b"+OK\r\n+O", b"$3\r\nfoo\r", b"$2\r\nfoo\r\n", b"+OK\r\n" * 20_000]
)
def test_other_replies_are_left_to_the_parser(data):
    assert small_replies(data) == 0
