"""The record layer of one TLS connection: OpenSSL in memory, and the cipher text on its way to the socket."""

from __future__ import annotations

import _socket as so
import ssl
from typing import Any

from .event_loop import WOULD_BLOCK

MAX_RECORD = 16384
"""Bytes of plain text in one TLS record, at most."""

_EMPTY = memoryview(b"")


class TlsRecords:
    """Plain text to records and back, over a socket.

    Args:
        sock: non-blocking.
        server: the name in the certificate of a peer that is the server; None if the peer is the client.

    Attributes:
        backlog: cipher text that the socket did not take yet.
        ended: the peer has sent its end of stream.
        error: of an earlier write, for the next caller.
        server_side: True if the peer is the client.
    """

    __slots__ = (
        "_close_notify_sent",
        "_incoming",
        "_outgoing",
        "_session",
        "_socket",
        "backlog",
        "ended",
        "error",
        "server_side",
    )

    def __init__(self, sock: so.socket, context: ssl.SSLContext, server: str | None) -> None:
        self._socket = sock
        self._incoming = incoming = ssl.MemoryBIO()
        self._outgoing = outgoing = ssl.MemoryBIO()
        self.server_side = server is None
        self._session = context.wrap_bio(incoming, outgoing, self.server_side, server)
        self._close_notify_sent = False
        self.backlog = _EMPTY
        self.ended = False
        self.error: OSError | None = None

    @property
    def unread(self) -> bool:
        """True if cipher text waits to be decrypted."""
        return bool(self._incoming.pending)

    @property
    def unsent(self) -> bool:
        """True if OpenSSL has produced cipher text that is not in the backlog yet."""
        return bool(self._outgoing.pending)

    def receive(self, data: bytes | memoryview) -> None:
        """Take cipher text from the socket."""
        self._incoming.write(data)

    def do_handshake(self) -> bool:
        """Continue the handshake with what was received. Return True when it is done.

        Raises:
            ssl.SSLError: the handshake failed.
        """
        try:
            self._session.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def decrypt(self, view: memoryview) -> int:
        """Decrypt what was received into `view`. Return the length of the plain text.

        Raises:
            ssl.SSLError: the cipher text is invalid.
        """
        count = 0
        read = self._session.read
        try:
            while count < len(view):  # always true: see the rules of tls.py
                got: Any = read(len(view) - count, view[count:])
                if not got:  # close_notify
                    self.ended = True
                    return count
                count += got
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # close_notify, after this side sent one
            self.ended = True
        return count

    def encrypt(self, data: memoryview) -> int:
        """Encrypt up to a record of `data`. Return how many bytes were encrypted."""
        return self._session.write(data[:MAX_RECORD])

    def flush(self) -> bool:
        """Write the cipher text that waits. Return True if none is left.

        Raises:
            OSError: the error of the socket.
        """
        while True:
            if not self.backlog:
                if not self._outgoing.pending:
                    if self._close_notify_sent:
                        self._shutdown_write()
                    return True
                self.backlog = memoryview(self._outgoing.read())
            try:
                sent = self._socket.send(self.backlog)
            except OSError as error:
                if error.errno in WOULD_BLOCK:
                    return False
                self.backlog = _EMPTY
                raise
            self.backlog = self.backlog[sent:]

    def try_flush(self) -> None:
        """Write the cipher text that waits, and keep an error for the next caller."""
        try:
            self.flush()
        except OSError as error:
            self.error = error

    def send_close_notify(self) -> None:
        """Send a close_notify, and a FIN when all cipher text is written."""
        try:
            self._session.unwrap()
        except ssl.SSLError:
            pass  # the peer need not have sent its own close_notify
        self._close_notify_sent = True
        self.try_flush()

    def _shutdown_write(self) -> None:
        try:
            self._socket.shutdown(so.SHUT_WR)
        except OSError:
            pass  # the peer is gone, which reading will report


def tls_error_text(error: ssl.SSLError) -> str:
    """Return OpenSSL's reason for an error, without its line numbers."""
    text = (error.reason or str(error)).replace("_", " ").lower()
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{text}: {error.verify_message}"
    return text
