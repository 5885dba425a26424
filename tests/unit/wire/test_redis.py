"""Redis' protocol, tables of literals."""

import pytest

from pytest_resilience.wire import redis


def test_a_command_counts_bytes_and_not_letters():
    assert (
        redis.encode_command("SET", "größe", b"\xff")
        == b"*3\r\n$3\r\nSET\r\n$7\r\ngr\xc3\xb6\xc3\x9fe\r\n$1\r\n\xff\r\n"
    )


@pytest.mark.parametrize(
    ("data", "reply"),
    [
        (b"", None),
        (b"+PON", None),
        (b"+PONG\r\n", b"+PONG"),
        (b"-LOADING wait\r\n", b"-LOADING wait"),
        (b":7\r\n", b":7"),
        (b"$5\r\nab\r", None),
        (b"$5\r\nab\r\nc", None),
        (b"$5\r\nab\r\nc\r\n", b"ab\r\nc"),
        (b"$0\r\n\r\n", b""),
        (b"$-1\r\n", b""),
    ],
)
def test_the_first_reply_is_none_while_incomplete(data, reply):
    assert redis.first_reply(data) == reply


def test_the_first_reply_refuses_other_protocols():
    with pytest.raises(ValueError, match="HTTP"):
        redis.first_reply(b"HTTP/1.1 400 Bad Request\r\n")


def test_info_is_parsed_without_its_headings():
    text = b"# Server\r\nredis_version:7.2.4\r\nprocess_id:17\r\n\r\n# Clients\r\nexecutable:/a:b\r\n"
    assert redis.parse_info(text) == {"redis_version": "7.2.4", "process_id": "17", "executable": "/a:b"}


@pytest.mark.parametrize(
    ("data", "reply"),
    [
        (b"+OK\r\n", "OK"),
        (b":-7\r\n", -7),
        (b"$3\r\na\r\n\r\n", "a\r\n"),
        (b"$-1\r\n", None),
        (b"$2\r\n\xff\xfe\r\n", "\ufffd\ufffd"),
        (b"*0\r\n", []),
        (b"*3\r\n$1\r\na\r\n*1\r\n:1\r\n$-1\r\n", ["a", [1], None]),
    ],
)
def test_replies_are_read_from_bytes_in_any_pieces(data, reply):
    replies = redis.ReplyReader()
    taken = []
    for byte in data * 2:
        replies.feed(bytes([byte]))
        while found := replies.next_reply():
            taken += found
    assert taken == [reply, reply]


def test_an_error_is_a_reply():
    replies = redis.ReplyReader()
    replies.feed(b"-OOM command not allowed\r\n")
    (reply,) = replies.next_reply()
    assert isinstance(reply, redis.ErrorReply)
    assert str(reply) == "OOM command not allowed"


def test_the_reader_refuses_other_protocols():
    replies = redis.ReplyReader()
    replies.feed(b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.raises(ValueError, match="HTTP"):
        replies.next_reply()


def test_a_client_list_has_a_dict_for_each_client():
    text = "id=3 addr=127.0.0.1:1 name= flags=N cmd=client|list\nid=4 addr=[::1]:2 name=shop sub=1\n"
    assert redis.parse_client_list(text) == [
        {"id": "3", "addr": "127.0.0.1:1", "name": "", "flags": "N", "cmd": "client|list"},
        {"id": "4", "addr": "[::1]:2", "name": "shop", "sub": "1"},
    ]


def test_a_field_of_info_has_parts():
    assert redis.parse_info_field("keys=3,expires=0") == {"keys": "3", "expires": "0"}


@pytest.mark.parametrize("text", ["x", "", "a\r\nb", "ü", None])
def test_a_long_array_of_texts_is_read_as_a_short_one_is(text: str | None) -> None:
    data = b"$-1\r\n" if text is None else b"$%d\r\n%b\r\n" % (len(text.encode()), text.encode())
    many = redis.FAST_ARRAY_SIZE + 1
    whole = b"*%d\r\n" % many + data * many
    replies = redis.ReplyReader()
    for cut in (10, len(whole) - 1):
        replies.feed(whole[:cut])
        assert replies.next_reply() is None
        replies = redis.ReplyReader()
    replies.feed(whole + b"+OK\r\n")
    assert replies.next_reply() == ([text] * many,)
    assert replies.next_reply() == ("OK",)


@pytest.mark.parametrize(
    ("data", "replies"),
    [
        (b"", None),
        (b"+OK", None),
        (b"+OK\r\n$4\r\na:", None),
        (b"+OK\r\n$4\r\na:b\n\r\n", (b"+OK", b"a:b\n")),
        (b"-WRONGPASS no\r\n-NOAUTH no\r\n", (b"-WRONGPASS no", b"-NOAUTH no")),
    ],
)
def test_two_replies_are_read_together(data: bytes, replies: tuple[bytes, bytes] | None) -> None:
    assert redis.first_two_replies(data) == replies
