"""Reading from a socket until a message is complete."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TypeVar

Message = TypeVar("Message")

CHUNK = 1 << 16  # bytes


def receive(connection: socket.socket, parse: Callable[[bytes], Message | None]) -> Message | None:
    """Read from a connection until `parse` returns a message.

    Args:
        connection: a blocking socket; its time-out applies to each read.
        parse: returns the message out of the bytes received so far, or None while it is incomplete.

    Returns:
        The message, or None if the peer closed the connection before the message was complete.
    """
    data = b""
    while (message := parse(data)) is None:
        chunk = connection.recv(CHUNK)
        if not chunk:
            return None
        data += chunk
    return message


def receive_all(connection: socket.socket) -> bytes:
    """Return all bytes until the peer closes the connection."""
    data = bytearray()
    while chunk := connection.recv(CHUNK):
        data += chunk
    return bytes(data)
