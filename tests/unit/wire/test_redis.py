"""Redis' protocol, tables of literals."""

import pytest

from pytest_resilience.wire import redis


def test_command_counts_bytes_not_letters():
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
def test_first_reply_waits_until_it_is_complete(data, reply):
    assert redis.first_reply(data) == reply


def test_what_is_no_reply_is_refused():
    with pytest.raises(ValueError, match="HTTP"):
        redis.first_reply(b"HTTP/1.1 400 Bad Request\r\n")


def test_info_is_a_dict_without_headings():
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
def test_replies_come_one_by_one_however_the_bytes_are_cut(data, reply):
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


def test_bytes_that_are_no_reply_are_refused():
    replies = redis.ReplyReader()
    replies.feed(b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.raises(ValueError, match="HTTP"):
        replies.next_reply()


def test_clients_are_a_dict_each():
    text = "id=3 addr=127.0.0.1:1 name= flags=N cmd=client|list\nid=4 addr=[::1]:2 name=shop sub=1\n"
    assert redis.parse_client_list(text) == [
        {"id": "3", "addr": "127.0.0.1:1", "name": "", "flags": "N", "cmd": "client|list"},
        {"id": "4", "addr": "[::1]:2", "name": "shop", "sub": "1"},
    ]


def test_a_field_of_info_may_have_parts():
    assert redis.parse_info_field("keys=3,expires=0") == {"keys": "3", "expires": "0"}


@pytest.mark.parametrize("text", ["x", "", "a\r\nb", "ü", None])
def test_an_array_of_many_texts_is_read_like_one_of_few(text: str | None) -> None:
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
def test_two_replies(data: bytes, replies: tuple[bytes, bytes] | None) -> None:
    assert redis.first_two_replies(data) == replies
