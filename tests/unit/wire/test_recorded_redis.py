"""The parsers of Redis read the recorded conversations of drivers to their ends, in pieces of any size."""

from __future__ import annotations

import random

import pytest

from pytest_resilience.wire.redis_session import SESSION_COMMANDS, Session
from pytest_resilience.wire.redis_stream import Command, Commands, Everything, Replies, Reply
from tests.support.conversations import RecordedConnection, drivers, load

DRIVERS = drivers("redis")


def pieces_of(data: bytes, chance: random.Random) -> list[bytes]:
    pieces, at = [], 0
    while at < len(data):
        size = chance.choice((1, 2, 3, 7, 50, 500, 5000))
        pieces.append(data[at : at + size])
        at += size
    return pieces


def commands_of(pieces: list[bytes]) -> list[Command]:
    parser = Commands(Everything())
    found = [command for piece in pieces for command in parser.feed(piece)]
    assert parser.lost_at is None
    return found


def replies_of(pieces: list[bytes]) -> list[Reply]:
    parser = Replies()
    found = [reply for piece in pieces for reply in parser.feed(piece)]
    assert parser.lost_at is None
    return found


def test_all_drivers_of_redis_are_recorded():
    assert DRIVERS == ["go-redis", "hiredis", "ioredis", "node-redis", "redis-py-7", "redis-py-8"]


@pytest.mark.parametrize("driver", DRIVERS)
def test_commands_reach_to_the_end_of_each_stream(driver):
    for connection in load(driver).connections.values():
        data = connection.stream("up")
        found = commands_of([data])
        assert found[0].start == 0
        assert found[-1].end == len(data)


@pytest.mark.parametrize("driver", DRIVERS)
def test_replies_reach_to_the_end_of_each_stream(driver):
    for connection in load(driver).connections.values():
        data = connection.stream("down")
        found = replies_of([data])
        assert [reply.start for reply in found] == [0, *(reply.end for reply in found[:-1])]
        assert found[-1].end == len(data)


@pytest.mark.parametrize("driver", DRIVERS)
def test_pieces_of_any_size_give_the_same_messages(driver):
    chance = random.Random(7)
    for connection in load(driver).connections.values():
        up, down = connection.stream("up"), connection.stream("down")
        assert commands_of(pieces_of(up, chance)) == commands_of([up])
        assert replies_of(pieces_of(down, chance)) == replies_of([down])


def unpaired(connection: RecordedConnection) -> list[str]:
    """Return the names of the commands without a reply, and a question mark for each reply without a command."""
    left = []
    session, commands, replies = Session(), Commands(SESSION_COMMANDS), Replies()
    for direction, data in connection.pieces:
        if direction == "up":
            for command in commands.feed(data):
                session.sent(command)
        else:
            for reply in replies.feed(data):
                if session.replied(reply) is None and reply.kind == "reply" and not is_message(reply, session):
                    left.append("?")
    return left + [expected.name for expected in session.outstanding]


def is_message(reply: Reply, session: Session) -> bool:
    """True for what comes without a command: lines of MONITOR, and messages and confirmations under RESP2."""
    return session.is_stream or (session.subscribed and reply.label != b"")


@pytest.mark.parametrize("driver", DRIVERS)
def test_each_command_has_its_reply(driver):
    left = [name for connection in load(driver).connections.values() for name in unpaired(connection)]
    assert left == []
