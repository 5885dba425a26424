"""Redis' protocol, tables of literals."""

import pytest

from pytest_resilience.wire import redis


def test_command_counts_bytes_not_letters():
    assert redis.command("SET", "größe", b"\xff") == b"*3\r\n$3\r\nSET\r\n$7\r\ngr\xc3\xb6\xc3\x9fe\r\n$1\r\n\xff\r\n"


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
    assert redis.info_fields(text) == {"redis_version": "7.2.4", "process_id": "17", "executable": "/a:b"}
