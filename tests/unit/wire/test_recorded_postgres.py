"""The readers of Postgres read the recorded conversations of drivers to their ends, in pieces of any size."""

from __future__ import annotations

import random

import pytest

from pytest_resilience.wire.postgres_stream import (
    CANCEL_REQUEST,
    COPY_IN,
    GSSENC_REQUEST,
    QUERY,
    READY,
    SSL_REQUEST,
    SYNC,
    ClientReader,
    Message,
    Reader,
    ServerReader,
)
from tests.support.conversations import RecordedConnection, drivers, load

DRIVERS = drivers("postgres")


class Stream:
    """One direction of a connection, with offsets that are counted from its beginning."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.messages: list[Message] = []
        self.size = 0

    def feed(self, piece: bytes) -> list[Message]:
        found = self.reader.feed(piece)
        begin = self.size - self.reader.kept
        self.size += len(piece)
        self.messages += [(kind, begin + start, begin + end) for kind, start, end in found]
        return found

    def end(self) -> int:
        """Return the offset behind the last message."""
        return self.messages[-1][2] if self.messages else 0


def read(connection: RecordedConnection, sizes: tuple[int, ...] = ()) -> tuple[Stream, Stream]:
    """Read a connection in the recorded pieces, or cut into pieces of random sizes."""
    chance = random.Random(7)
    server = ServerReader()
    up, down = Stream(ClientReader()), Stream(server)
    for direction, data in connection.pieces:
        at = 0
        while at < len(data):
            size = chance.choice(sizes) if sizes else len(data)
            piece = data[at : at + size]
            at += size
            if direction == "down":
                down.feed(piece)
                continue
            for kind, _, _ in up.feed(piece):
                if kind in (SSL_REQUEST, GSSENC_REQUEST):
                    server.expect_single_byte()
    return up, down


def test_all_drivers_of_postgres_are_recorded():
    assert DRIVERS == ["asyncpg", "jdbc", "node-postgres", "pg8000", "pgx", "psycopg", "psycopg2", "sqlalchemy"]


@pytest.mark.parametrize("driver", DRIVERS)
def test_both_directions_are_read_to_their_ends(driver):
    for connection in load(driver).connections.values():
        for stream in read(connection):
            kinds = {kind for kind, _, _ in stream.messages}
            assert stream.reader.unreadable == ("cancel" if CANCEL_REQUEST in kinds else "")
            assert [start for _, start, _ in stream.messages[1:]] == [end for _, _, end in stream.messages[:-1]]
            assert stream.end() == stream.size


@pytest.mark.parametrize("driver", DRIVERS)
def test_pieces_of_any_size_give_the_same_messages(driver):
    for connection in load(driver).connections.values():
        whole = [stream.messages for stream in read(connection)]
        assert [stream.messages for stream in read(connection, (1, 2, 3, 7, 50, 500, 5000))] == whole


@pytest.mark.parametrize("driver", DRIVERS)
def test_each_sync_and_each_query_has_its_ready(driver):
    for connection in load(driver).connections.values():
        up, down = read(connection)
        asked = sum(kind in (QUERY, SYNC) for kind, _, _ in up.messages)
        answered = sum(kind == READY for kind, _, _ in down.messages)
        copies = sum(kind == COPY_IN for kind, _, _ in down.messages)  # the server ignores a Sync that comes meanwhile
        expected = asked + 1 if answered else 0  # the startup has one, too; a refused session has none
        assert answered in ((expected - copies, expected) if driver == "pg8000" else (expected,))
