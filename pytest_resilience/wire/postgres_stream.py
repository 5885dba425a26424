"""Readers of both directions of a Postgres session, version 3 of the protocol, for a program in the middle.

A reader splits the stream into messages, as offsets into the data, and does not copy the data. The splits of the stream into pieces
make no difference. A reader never raises: for bytes of another protocol it sets `unreadable`. Source of the formats: Postgres'
documentation, chapters 54.2 and 54.7.
"""

from __future__ import annotations

import re
from struct import Struct
from typing import TypeAlias

Data: TypeAlias = bytes | memoryview

MAX_HEAD = 65536
"""Bytes of a message that are kept until all of them are there. Of a longer message, the reader shows the head only."""

MAX_STARTUP = 10000
"""Bytes of the first packet at most, as in the server."""

MAX_LENGTH = 1 << 30

# Kinds of packets without a type byte.
STARTUP, SSL_REQUEST, GSSENC_REQUEST, CANCEL_REQUEST = 1, 2, 3, 4
SINGLE_BYTE = 5
"""The server's response to SSL_REQUEST and GSSENC_REQUEST."""

# Kinds of messages of the client.
QUERY, PARSE, BIND, EXECUTE, CLOSE, SYNC, FUNCTION_CALL = b"QPBECSF"

# Kinds of messages of the server.
(
    COMMAND_COMPLETE,
    EMPTY_QUERY,
    SUSPENDED,
    ERROR,
    READY,
    ROW,
    PARAMETER_STATUS,
    COPY_IN,
    COPY_BOTH,
    COPY_DATA,
    NOTICE,
    NOTIFICATION,
) = b"CIsEZDSGWdNA"

_CODES = {80877103: SSL_REQUEST, 80877104: GSSENC_REQUEST, 80877102: CANCEL_REQUEST}
_SHORT_LENGTHS = {SSL_REQUEST: 8, GSSENC_REQUEST: 8}
_TLS_HANDSHAKE = 22
_CLIENT_KINDS = frozenset(b"QPBECSFDHXdcfp")
_SERVER_KINDS = frozenset(b"RKSZ123TDCIENnstAGWHdcvV")
_LONG_HEADS = frozenset(b"QPBEC")

_length_at = Struct(">I").unpack_from
_two_at = Struct(">II").unpack_from


Message: TypeAlias = tuple[int, int, int]
"""The kind of a message, the offset of its first byte, and the offset behind its last byte.

The kind is the type byte, or one of the kinds of this module. A message of which only the head is there ends behind the data.
"""


class Reader:
    """A reader of one direction.

    Attributes:
        data: the data that the offsets refer to: what was kept, with the last piece behind it. Valid until the next call.
        kept: bytes at the beginning of `data` that came with earlier pieces.
        begin: bytes at the beginning of `data` that belong to a message that was shown before.
        end: offset of the first byte that belongs to no message that was shown.
        head: what is kept, from there on.
        unreadable: the reason why the stream can't be read: "encrypted", "other" for another protocol, or "" if it can.
    """

    __slots__ = ("_heads", "_kinds", "_rest", "begin", "data", "end", "head", "kept", "unreadable")

    def __init__(self, kinds: frozenset[int], heads: frozenset[int]) -> None:
        self._kinds = kinds
        self._heads = heads
        self.head = b""
        self._rest = 0
        self.data: Data = b""
        self.kept = self.begin = self.end = 0
        self.unreadable = ""

    def feed(self, piece: Data) -> list[Message]:
        """Take the next piece of the stream. Return the messages that are complete, or long enough, with it."""
        head = self.head
        self.data = data = head + piece if head else piece
        self.kept = len(head)
        size = len(data)
        self.begin = position = min(self._rest, size)
        self._rest -= position
        messages: list[Message] = []
        if not self.unreadable:
            position = self._split(data, position, size, messages)
        else:
            position = size
        self.end = position
        self.head = bytes(data[position:]) if position < size else b""
        return messages

    @property
    def at_boundary(self) -> bool:
        """True if the next byte begins a message."""
        return not (self._rest or self.head)

    def _split(self, data: Data, position: int, size: int, messages: list[Message]) -> int:
        kinds = self._kinds
        while position < size:
            kind = data[position]
            if kind not in kinds:
                return self._give_up("other", size)
            if size - position < 5:
                return position
            (length,) = _length_at(data, position + 1)
            if not 4 <= length <= MAX_LENGTH:
                return self._give_up("other", size)
            end = position + 1 + length
            if end > size:
                wanted = min(1 + length, MAX_HEAD) if kind in self._heads else 5
                if size - position < wanted:
                    return position
                self._rest = end - size
                messages.append((kind, position, end))
                return size
            messages.append((kind, position, end))
            position = end
        return position

    def _give_up(self, reason: str, size: int) -> int:
        self.unreadable = reason
        self._rest = 0
        return size


class ClientReader(Reader):
    """A reader of the client's direction, from its first byte on."""

    __slots__ = ("_started",)

    def __init__(self) -> None:
        super().__init__(_CLIENT_KINDS, _LONG_HEADS)
        self._started = False

    def _split(self, data: Data, position: int, size: int, messages: list[Message]) -> int:
        while not self._started and position < size:
            packet = self._packet(data, position, size)
            if packet is None:
                return size if self.unreadable else position
            messages.append(packet)
            kind, _, position = packet
            self._started = kind == STARTUP
            if kind == CANCEL_REQUEST:
                return self._give_up("cancel", size)
        return super()._split(data, position, size, messages)

    def _packet(self, data: Data, position: int, size: int) -> Message | None:
        if data[position]:
            self._give_up("encrypted" if data[position] == _TLS_HANDSHAKE else "other", size)
            return None
        if size - position < 8:
            return None
        length, code = _two_at(data, position)
        kind = STARTUP if code >> 16 == 3 else _CODES.get(code)
        if kind is None or not 8 <= length <= _SHORT_LENGTHS.get(kind, MAX_STARTUP):
            self._give_up("other", size)
            return None
        return (kind, position, position + length) if size - position >= length else None


class ServerReader(Reader):
    """A reader of the server's direction, from the beginning of a message on."""

    __slots__ = ("_single_bytes",)

    def __init__(self) -> None:
        super().__init__(_SERVER_KINDS, frozenset((ERROR, READY, PARAMETER_STATUS)))
        self._single_bytes = 0

    def expect_single_byte(self) -> None:
        """Take the next byte as the response to a request for encryption."""
        self._single_bytes += 1

    def keep_heads(self) -> None:
        """Show each message when all of it is there, or MAX_HEAD bytes."""
        self._heads = self._kinds

    def restart(self) -> None:
        """Take the next byte as the beginning of a message."""
        self.head = b""
        self._rest = 0
        self.unreadable = ""

    def _split(self, data: Data, position: int, size: int, messages: list[Message]) -> int:
        while self._single_bytes and position < size:
            self._single_bytes -= 1
            messages.append((SINGLE_BYTE, position, position + 1))
            position += 1
        return super()._split(data, position, size, messages)


_SKIMMED = frozenset(b"BEQSDH")
_EXECUTE_HEAD = b"E\0\0\0\x09\0"  # of the portal without a name
_EXECUTE_SIZE = 10
_SYNC = b"S\0\0\0\4"
_EXECUTE_AND_SYNC_SIZE = _EXECUTE_SIZE + len(_SYNC)


def count_groups(piece: Data) -> int:
    """Return the number of groups of the client that a piece ends.

    Args:
        piece: from the beginning of a message on.

    Returns:
        -1 if the piece has to be read: it ends inside a message, or has messages other than Bind, Describe, Execute, Flush, Sync
        and Query.
    """
    data = bytes(piece)
    size = len(data)
    position = groups = 0
    while position + 5 <= size:
        kind = data[position]
        (length,) = _length_at(data, position + 1)
        if kind not in _SKIMMED or length < 4:
            return -1
        position += 1 + length
        if kind == BIND:  # mostly, this is behind it
            if data.startswith(_EXECUTE_HEAD, position) and data.startswith(_SYNC, position + _EXECUTE_SIZE):
                position += _EXECUTE_AND_SYNC_SIZE
                groups += 1
        elif kind in (SYNC, QUERY):
            groups += 1
    return groups if position == size else -1


_DESCRIBE = b"D\0\0\0\6P\0"  # of the portal without a name
_BIND_PORTAL = 5  # offset of the name of the portal in a Bind


def executions(piece: Data) -> list[tuple[int, bytes]] | None:
    """Return the statements that a piece of the client executes, one in each group.

    Args:
        piece: from the beginning of a message on.

    Returns:
        (BIND, name of the prepared statement) or (QUERY, text) for each group. None if the piece has to be read: it ends inside a
        message, or has other messages than a Bind, Describe, Execute and Sync of the portal without a name, and Query.
    """
    data = bytes(piece)
    size = len(data)
    position = 0
    found: list[tuple[int, bytes]] = []
    while position + 5 <= size:
        kind = data[position]
        (length,) = _length_at(data, position + 1)
        end = position + 1 + length
        if kind == BIND and length > 5 and end <= size and not data[position + _BIND_PORTAL]:
            name = position + _BIND_PORTAL + 1
            found.append((BIND, data[name : data.find(b"\0", name, end)]))
            if data.startswith(_DESCRIBE, end):
                end += len(_DESCRIBE)
            if not (data.startswith(_EXECUTE_HEAD, end) and data.startswith(_SYNC, end + _EXECUTE_SIZE)):
                return None
            end += _EXECUTE_AND_SYNC_SIZE
        elif kind == QUERY and length > 4:
            found.append((QUERY, data[position + 5 : end - 1]))
        else:
            return None
        position = end
    return found if position == size else None


_READY_HEAD = b"Z\0\0\0\5"
_READY_SIZE = 6
_count_ready = re.compile(rb"Z\x00\x00\x00\x05[ITE](?=[^\x00]\x00|\Z)").findall  # a message, or the end, is behind it


def ends_ready(piece: Data) -> bool:
    """True if a piece of the server's direction ends in ReadyForQuery. Data of rows can look like it."""
    return piece[-_READY_SIZE:-1] == _READY_HEAD


def count_ready(piece: bytes) -> int:
    """Return the number of ReadyForQuery in a piece of whole messages that ends in one. Binary data of rows can look like one."""
    found = piece.count(_READY_HEAD)
    return found if found == 1 else len(_count_ready(piece))


# --- bodies ----------------------------------------------------------------------------------------------------------


def texts(body: Data, count: int) -> list[bytes]:
    """Return the first `count` zero-terminated texts of a body. Texts that are missing are empty."""
    found = bytes(body).split(b"\0", count)[:count]
    return found + [b""] * (count - len(found))


def startup_settings(packet: Data) -> dict[str, str]:
    """Return the settings of a startup packet, such as user, database and application_name."""
    words = [word.decode(errors="replace") for word in bytes(packet[8:]).rstrip(b"\0").split(b"\0")]
    return dict(zip(words[::2], words[1::2], strict=False))


# --- messages to write -----------------------------------------------------------------------------------------------

MESSAGES = {
    "25006": "cannot execute the statement in a read-only transaction",
    "40001": "could not serialize access due to concurrent update",
    "40P01": "deadlock detected",
    "53300": "sorry, too many clients already",
    "55P03": "could not obtain lock on row",
    "57014": "canceling statement due to statement timeout",
    "57P01": "terminating connection due to administrator command",
    "57P02": "terminating connection because of crash of another server process",
    "57P03": "the database system is starting up",
}
"""The server's own texts of errors, by SQLSTATE."""


def message(kind: bytes, body: bytes) -> bytes:
    """Return a message with type and length."""
    return kind + (len(body) + 4).to_bytes(4, "big") + body


def error_message(code: str, text: str = "") -> str:
    """Return the text of an error: `text`, or the server's own text for the code, if there is one."""
    return text or MESSAGES.get(code, f"error {code}, raised by a rule of the proxy")


def error_response(code: str, text: str, *, severity: str = "ERROR") -> bytes:
    """Return an ErrorResponse."""
    fields = (("S", severity), ("V", severity), ("C", code), ("M", text))
    return message(b"E", b"".join(f"{name}{value}\0".encode() for name, value in fields) + b"\0")


def raising_query(code: str, text: str) -> bytes:
    """Return a Query that makes the server raise an error."""
    quoted = text.replace("\\", "\\\\").replace("'", "''")
    body = f"begin raise exception using errcode = '{code}', message = e'{quoted}'; end"
    tag = "$resilience$"
    while tag in body:
        tag = f"{tag[:-1]}_$"
    return message(b"Q", f"do {tag}{body}{tag}\0".encode())


def execute(portal: str) -> bytes:
    """Return an Execute without a limit."""
    return message(b"E", f"{portal}\0".encode() + b"\0\0\0\0")


ROLLBACK = message(b"Q", b"rollback\0")
