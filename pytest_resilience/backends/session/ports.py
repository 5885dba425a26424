"""Ports on loopback that nobody uses."""

from __future__ import annotations

import os
import socket

FIRST, LAST = 10000, 32767  # the kernel gives outgoing connections ports from 32768 (Linux) or 49152 (macOS) on


def free_port() -> int:
    """A port that could be bound just now, below those that outgoing connections get.

    That nobody takes it before its user binds it is likely, not certain: whoever uses it must be ready to try another.
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
