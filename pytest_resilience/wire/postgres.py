"""Postgres' protocol, version 3.0: bytes to messages. No sockets."""

from __future__ import annotations

from typing import NamedTuple

TERMINATE = b"X\0\0\0\4"
CANNOT_CONNECT_NOW = "57P03"  # starting up, shutting down or in recovery

_VERSION_3_0 = 196608


class Message(NamedTuple):
    """One message of the server: its type, one letter, and what it carries."""

    kind: bytes
    body: bytes


def startup(user: str, database: str) -> bytes:
    """The packet that opens a connection."""
    settings = b"".join(word.encode() + b"\0" for word in ("user", user, "database", database))
    body = _VERSION_3_0.to_bytes(4, "big") + settings + b"\0"
    return (len(body) + 4).to_bytes(4, "big") + body


def first_message(data: bytes) -> Message | None:
    """The first message in `data`, or None when it is not complete yet."""
    if len(data) < 5:
        return None
    end = 1 + int.from_bytes(data[1:5], "big")
    return Message(data[:1], data[5:end]) if len(data) >= end else None


def error_fields(body: bytes) -> dict[str, str]:
    """The fields of an ErrorResponse by their letter: "S" severity, "C" SQLSTATE, "M" message."""
    fields = (field.decode(errors="replace") for field in body.split(b"\0") if field)
    return {field[0]: field[1:] for field in fields}


def verdict(message: Message) -> str:
    """What the first answer to a startup packet says.

    Returns:
        "accepting" when the server goes on to ask who we are, "starting" when it asks to come back later, else its complaint.
    """
    if message.kind == b"R":
        return "accepting"
    if message.kind != b"E":
        return f"not a Postgres server: it answered with {message.kind!r}"
    fields = error_fields(message.body)
    if fields.get("C") == CANNOT_CONNECT_NOW:
        return "starting"
    return f"{fields.get('S', '')}: {fields.get('M', '')} ({fields.get('C', '')})"
