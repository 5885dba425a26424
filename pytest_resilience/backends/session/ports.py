"""Free ports on loopback."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

PORT_TRIES = 3
FIRST, LAST = 10000, 32767  # the kernel gives outgoing connections ports from 32768 (Linux) or 49152 (macOS) on


def free_port() -> int:
    """Return a port that could be bound just now, below the ports that the kernel gives to outgoing connections.

    Another process may bind the port before the caller does, so the caller must be able to try again (`with_free_port`).
    """
    size = LAST - FIRST + 1
    start = int.from_bytes(os.urandom(4), "big")
    for step in range(size):
        port = FIRST + (start + step) % size
        with socket.socket() as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise OSError(f"no free port from {FIRST} to {LAST}")


class PortTaken(Exception):
    """Another process has bound the port first.

    Attributes:
        error: the error to raise when no other port is tried.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def taken_or(error: Exception, log: str) -> Exception:
    """Return a PortTaken for the error of a start, if the log shows that the port was taken, and else the error.

    Args:
        error: the error of a process that has exited before it was ready.
        log: the output of the process.
    """
    return PortTaken(error) if "address already in use" in log.lower() else error


def with_free_port(
    attempt: Callable[[int], Value], *, tries: int = PORT_TRIES, taken: type[Exception] = PortTaken
) -> Value:
    """Call `attempt`, which chooses a port, and call it again if another process has taken the port.

    Args:
        attempt: called with the number of the try, from 0.
        tries: how often to call `attempt` at most.
        taken: what `attempt` raises if the port was taken.

    Returns:
        The value of the first successful call.

    Raises:
        Exception: the error of the last try; of a PortTaken, the error that it carries.
    """
    for number in range(tries - 1):
        try:
            return attempt(number)
        except taken:
            continue
    try:
        return attempt(tries - 1)
    except PortTaken as last:
        raise last.error from None
