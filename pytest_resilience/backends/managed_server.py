"""A base class of the servers and proxies that a backend runs itself, as processes or in containers."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod

from ..clock import Clock
from ..errors import BackendDied
from ..redaction import scrubbed
from .backend import Address

HOST = "127.0.0.1"  # where they listen, or where their ports are published
ANSWER_WITHIN = 1.0  # seconds for a connection and one answer while a server starts
STOP_WITHIN = 5.0  # seconds for an orderly shutdown
LOG_TAIL_CHARS = 4000  # of a log that an error shows


class ManagedServer(ABC):
    """A server or proxy that should run until the plugin ends it.

    Args:
        name: the name in messages.
        clock: the clock to wait with.
    """

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self._clock = clock
        self._log_begin = 0  # the byte of the log at which the present start begins
        self._expected_running = False

    @abstractmethod
    def log_text(self, since: int = 0) -> str:
        """Return its log from byte `since` on."""

    @abstractmethod
    def _how_it_ended(self) -> str | None:
        """Return how the main process ended, such as "exit code 1", or None while it runs."""

    def check(self) -> None:
        """Check that it still runs if it should.

        Raises:
            BackendDied: it ended and no test had struck it.
        """
        if self._expected_running and (how := self._how_it_ended()) is not None:
            tail = scrubbed(self.log_text(self._log_begin))[-LOG_TAIL_CHARS:].rstrip() or "(it wrote nothing)"
            raise BackendDied(f"{self.name} ended with {how} although no test struck it; its log, last lines:\n{tail}")


def connect_and_send(address: Address, data: bytes) -> socket.socket:
    """Return a new connection to `address` on which `data` has been sent.

    Raises:
        OSError: nothing accepts the connection within a second.
    """
    connection = socket.create_connection(address, timeout=ANSWER_WITHIN)
    connection.sendall(data)
    return connection
