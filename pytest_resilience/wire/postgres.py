"""The protocol of Postgres, version 3.0, without sockets."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

TERMINATE = b"X\0\0\0\4"
CANNOT_CONNECT_NOW = "57P03"  # the server starts up, shuts down or recovers

_VERSION_3_0 = 196608


class Message(NamedTuple):
    """One message of the server.

    Attributes:
        kind: the type, one letter.
        body: the bytes behind type and length.
    """

    kind: bytes
    body: bytes


def startup(user: str, database: str) -> bytes:
    """Return the packet that opens a session."""
    return startup_message({"user": user, "database": database})


def first_message(data: bytes) -> Message | None:
    """Return the first message in `data`, or None while it is incomplete."""
    if len(data) < 5:
        return None
    end = 1 + int.from_bytes(data[1:5], "big")
    return Message(data[:1], data[5:end]) if len(data) >= end else None


def error_fields(body: bytes) -> dict[str, str]:
    """Return the fields of an ErrorResponse by their letters, such as "S" severity, "C" SQLSTATE and "M" message."""
    fields = (field.decode(errors="replace") for field in body.split(b"\0") if field)
    return {field[0]: field[1:] for field in fields}


def startup_status(message: Message) -> str:
    """Return the state of a server by its first response to a startup packet.

    Returns:
        "accepting" if the server goes on to authentication, "starting" if it can't serve yet, otherwise its error.
    """
    if message.kind == b"R":
        return "accepting"
    if message.kind != b"E":
        return f"not a Postgres server: it answered with {message.kind!r}"
    fields = error_fields(message.body)
    if fields.get("C") == CANNOT_CONNECT_NOW:
        return "starting"
    return f"{fields.get('S', '')}: {fields.get('M', '')} ({fields.get('C', '')})"


# -- the client's side of a session

SSL_REQUEST = b"\0\0\0\x08" + (80877103).to_bytes(4, "big")
SYNC = b"S\0\0\0\4"

_CANCEL_REQUEST = 80877102

_BOOL = {16, 1000}
_INTEGERS = {20, 21, 23, 26, 28, 1005, 1007, 1016, 1028}
_FLOATS = {700, 701, 1700, 1021, 1022, 1231}
_ARRAYS = {1000, 1005, 1007, 1016, 1028, 1021, 1022, 1231, 1001, 1002, 1003, 1009, 1014, 1015, 2211}


class MessageReader:
    """A buffer of bytes of the server that returns them as messages."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        """Add bytes that the server sent."""
        self._data += data

    def next_message(self) -> Message | None:
        """Return the next message, or None while it is incomplete."""
        if len(self._data) < 5:
            return None
        end = 1 + int.from_bytes(self._data[1:5], "big")
        if len(self._data) < end:
            return None
        message = Message(bytes(self._data[:1]), bytes(self._data[5:end]))
        del self._data[:end]
        return message


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body


def _text(word: str) -> bytes:
    if "\0" in word:
        raise ValueError("Postgres takes no NUL in a text")
    return word.encode() + b"\0"


def startup_message(settings: Mapping[str, str]) -> bytes:
    """Return the packet that opens a session with `user`, `database` and further settings."""
    body = _VERSION_3_0.to_bytes(4, "big") + b"".join(_text(word) for pair in settings.items() for word in pair) + b"\0"
    return (len(body) + 4).to_bytes(4, "big") + body


def cancel_request(process: int, secret: bytes) -> bytes:
    """Return the packet that cancels the statement of a session, to be sent on another connection."""
    body = _CANCEL_REQUEST.to_bytes(4, "big") + process.to_bytes(4, "big") + secret
    return (len(body) + 4).to_bytes(4, "big") + body


def password_message(word: str) -> bytes:
    """Return the response to a request for a password in clear text."""
    return _message(b"p", _text(word))


def md5_password_message(user: str, word: str, salt: bytes) -> bytes:
    """Return the response to a request for a password hashed by MD5."""
    inner = hashlib.md5(word.encode() + user.encode(), usedforsecurity=False).hexdigest()
    return password_message("md5" + hashlib.md5(inner.encode() + salt, usedforsecurity=False).hexdigest())


class Scram:
    """One SCRAM-SHA-256 handshake (RFC 5802, RFC 7677), without channel binding.

    Args:
        word: the password.
        nonce: a printable text without a comma that is never used twice.
        name: the name of the user; default empty, since Postgres takes the name in the startup packet.
    """

    MECHANISM = "SCRAM-SHA-256"

    def __init__(self, word: str, nonce: str, *, name: str = "") -> None:
        self._password = unicodedata.normalize("NFKC", word).encode()
        self._nonce = nonce
        self._first = f"n={name},r={nonce}"
        self._expected = b""

    def initial_response(self) -> bytes:
        """Return the message that begins the handshake."""
        body = f"n,,{self._first}".encode()
        return _message(b"p", _text(self.MECHANISM) + len(body).to_bytes(4, "big") + body)

    def proof(self, challenge: bytes) -> bytes:
        """Return the message with the proof that this client has the password.

        Args:
            challenge: the server's first message.

        Raises:
            ValueError: the challenge belongs to another handshake.
        """
        fields = dict(part.split("=", 1) for part in challenge.decode().split(","))
        if not fields["r"].startswith(self._nonce) or fields["r"] == self._nonce:
            raise ValueError("the server's challenge belongs to another handshake")
        salted = hashlib.pbkdf2_hmac("sha256", self._password, base64.b64decode(fields["s"]), int(fields["i"]))
        without_proof = f"c=biws,r={fields['r']}"
        signed = f"{self._first},{challenge.decode()},{without_proof}".encode()
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        signature = hmac.digest(hashlib.sha256(client_key).digest(), signed, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        self._expected = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), signed, "sha256")
        return _message(b"p", f"{without_proof},p={base64.b64encode(proof).decode()}".encode())

    def verify(self, last: bytes) -> None:
        """Check the proof that the server has the password.

        Args:
            last: the server's last message.

        Raises:
            ValueError: the proof is wrong.
        """
        if last != b"v=" + base64.b64encode(self._expected):
            raise ValueError("the server does not have the password")


def query(sql: str) -> bytes:
    """Return a message that runs statements without arguments (simple protocol)."""
    return _message(b"Q", _text(sql))


def parameterized_query(sql: str, arguments: Sequence[object]) -> bytes:
    """Return messages that run one statement with arguments for $1, $2 ... (extended protocol). All results are text."""
    values = b"".join(_argument(argument) for argument in arguments)
    bind = b"\0\0" + b"\0\0" + len(arguments).to_bytes(2, "big") + values + b"\0\0"
    return (
        _message(b"P", b"\0" + _text(sql) + b"\0\0")
        + _message(b"B", bind)
        + _message(b"D", b"P\0")
        + _message(b"E", b"\0" + b"\0\0\0\0")
        + SYNC
    )


def _argument(value: object) -> bytes:
    if value is None:
        return (-1).to_bytes(4, "big", signed=True)
    data = _literal(value).encode()
    return len(data).to_bytes(4, "big") + data


def _literal(value: object) -> str:
    match value:
        case bool():
            return "t" if value else "f"
        case list() | tuple():
            return "{" + ",".join(_element(item) for item in value) + "}"
        case str() | int() | float():
            return str(value)
    raise TypeError(f"an argument must be str, int, float, bool, None or a list of them, got {type(value).__name__}")


def _element(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list | tuple):
        return _literal(value)
    return '"' + _literal(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


class Column(NamedTuple):
    """One column of a result.

    Attributes:
        name: the name of the column.
        type: the object id of its type.
    """

    name: str
    type: int


def columns(body: bytes) -> list[Column]:
    """Return the columns of a RowDescription."""
    found: list[Column] = []
    at = 2
    for _ in range(int.from_bytes(body[:2], "big")):
        end = body.index(b"\0", at)
        found.append(Column(body[at:end].decode(errors="replace"), int.from_bytes(body[end + 7 : end + 11], "big")))
        at = end + 19
    return found


def row_values(body: bytes, described: Sequence[Column]) -> list[Any]:
    """Return the values of a DataRow.

    Args:
        body: the body of the message.
        described: the columns of the result.

    Returns:
        bool, int, float, lists of these, and str for all other types; None for NULL.
    """
    row: list[Any] = []
    at = 2
    for column in described:
        size = int.from_bytes(body[at : at + 4], "big", signed=True)
        at += 4
        if size < 0:
            row.append(None)
            continue
        row.append(_value(body[at : at + size].decode(errors="replace"), column.type))
        at += size
    return row


def _value(text: str, kind: int) -> Any:
    if kind in _ARRAYS:
        return _array(text, kind)
    return _scalar(text, kind)


def _scalar(text: str, kind: int) -> Any:
    if kind in _BOOL:
        return text == "t"
    if kind in _INTEGERS:
        return int(text)
    if kind in _FLOATS:
        return float(text)
    return text


_ARRAY_PART = re.compile(r'[{},]|"(?:[^"\\]|\\.)*"|[^{},"]+', re.DOTALL)


def _array(text: str, kind: int) -> list[Any]:
    """Return an array by its text, such as {1,2}, {{1},{2}} or {"a b",NULL}."""
    levels: list[list[Any]] = [[]]
    for part in _ARRAY_PART.findall(text.partition("=")[2] if text.startswith("[") else text):
        match part[0]:
            case "{":
                levels[-1].append([])
                levels.append(levels[-1][-1])
            case "}":
                levels.pop()
            case ",":
                pass
            case '"':
                levels[-1].append(_scalar(re.sub(r"\\(.)", r"\1", part[1:-1], flags=re.DOTALL), kind))
            case _:
                levels[-1].append(None if part == "NULL" else _scalar(part, kind))
    (array,) = levels[0]
    assert isinstance(array, list), "an array begins with a brace"
    return array
