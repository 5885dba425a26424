"""The command to which each reply of Redis belongs."""

import pytest

from pytest_resilience.wire.redis_session import SESSION_COMMANDS, Session
from pytest_resilience.wire.redis_stream import Commands, Replies


def talk(session, *lines):
    """Play a conversation, a line each: "> command" or "< bytes". Return the names of the commands that the replies answered."""
    commands, replies, answered = Commands(SESSION_COMMANDS), Replies(), []
    for line in lines:
        side, _, text = line.partition(" ")
        if side == ">":
            for command in commands.feed(text.encode() + b"\r\n"):
                session.sent(command)
        else:
            for reply in replies.feed(text.encode().replace(b"|", b"\r\n")):
                expected = session.replied(reply)
                answered.append(expected.name if expected else None)
    return answered


def test_replies_answer_commands_in_order():
    session = Session()
    assert talk(session, "> GET a", "> BLPOP q 0", "> SET a 1", "< $-1|", "< *2|$1|q|$1|x|+OK|") == [
        "get",
        "blpop",
        "set",
    ]
    assert not session.outstanding


def test_pushes_answer_nothing():
    lines = ("> HELLO 3", "< %1|$5|proto|:3|", "> GET a", "< >2|$10|invalidate|*1|$1|a|", "< $1|1|")
    assert talk(Session(), *lines) == ["hello", None, "get"]


def test_an_attribute_answers_nothing():
    session = Session()
    talk(session, "> HELLO 3", "< +OK|", "> GET a")
    assert [session.replied(each) for each in Replies().feed(b"|1\r\n+ttl\r\n:3\r\n")] == [None]
    assert talk(session, "< $1|1|") == ["get"]


def test_confirmations_answer_subscriptions_under_resp3():
    session = Session()
    lines = (
        "> HELLO 3",
        "< +OK|",
        "> SUBSCRIBE a b",
        "> PING",
        "< >3|$9|subscribe|$1|a|:1|",
        "< >3|$7|message|$1|a|$1|x|",
    )
    assert talk(session, *lines) == ["hello", None, None]
    assert talk(session, "< >3|$9|subscribe|$1|b|:2|", "< +PONG|") == ["subscribe", "ping"]


def test_confirmations_answer_subscriptions_under_resp2():
    session = Session()
    lines = ("> SUBSCRIBE a", "> PING", "< *3|$9|subscribe|$1|a|:1|", "< *3|$7|message|$1|a|$1|x|", "< *2|$4|pong|$0||")
    assert talk(session, *lines) == ["subscribe", None, "ping"]


def test_an_array_that_begins_like_a_message_is_a_reply_without_a_subscription():
    assert talk(Session(), "> LRANGE a 0 -1", "< *3|$7|message|$1|a|$1|x|") == ["lrange"]


def test_an_error_answers_a_whole_subscription():
    assert talk(Session(), "> SUBSCRIBE a b", "> PING", "< -NOPERM no|+PONG|") == ["subscribe", "ping"]


@pytest.mark.parametrize(
    ("lines", "answered"),
    [
        (("> CLIENT REPLY SKIP", "> SET a 1", "> GET a", "< $1|1|"), ["get"]),
        (("> CLIENT REPLY OFF", "> SET a 1", "> CLIENT REPLY ON", "> GET a", "< +OK|$1|1|"), ["client", "get"]),
        (("> MONITOR", '< +OK|+1 [0] "GET"|'), ["monitor", None]),
        (
            ("> MULTI", "> SET a 1", "> SUBSCRIBE a", "> EXEC", "< +OK|+QUEUED|+QUEUED|*0|"),
            ["multi", "set", "subscribe", "exec"],
        ),
    ],
)
def test_exceptions_from_one_reply_for_each_command(lines, answered):
    assert talk(Session(), *lines) == answered


def test_a_transaction_is_known_until_its_end():
    session = Session()
    talk(session, "> MULTI", "< +OK|")
    assert session.in_multi
    talk(session, "> EXEC")
    assert not session.in_multi
    talk(session, "< *0|", "> MULTI", "< -LOADING wait|")
    assert not session.in_multi


def test_the_name_of_the_client_is_known():
    session = Session()
    talk(session, "> CLIENT SETNAME worker:1")
    assert session.client_name == "worker:1"
    talk(session, "> HELLO 3 AUTH u p SETNAME worker:2")
    assert session.client_name == "worker:2"
    talk(session, "> RESET")
    assert session.client_name == ""
