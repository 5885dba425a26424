"""TLS between a socket and its link, so that toxics see plain text. Imported only if TLS is used, as ssl is slow to import.

A `TlsStream` takes two places of its link: the socket's (`recv_into`, `send`, `shutdown`, `close`), and that of the loop that watches
the socket. So a link has no code for TLS, and a connection without TLS does not import this file. The rules:

- Nothing blocks. OpenSSL works on memory, and the bytes go in and out when the loop reports that they can.
- The stream does the handshake alone. Until it is done, the link's destination seems to be busy.
- `send` counts plain text as sent when all of its cipher text was sent, as SSL_write does. So the link's counts, its back-pressure,
  and its close after the last byte work with TLS, too.
- `recv_into` leaves no plain text inside OpenSSL, as no descriptor would ever be ready for it. It reads so little cipher text that
  the buffer has room for all plain text, including the start of a record that came before.
"""

from __future__ import annotations

import _socket as so
import ssl
from errno import EAGAIN, ECONNRESET, EPIPE
from typing import Any, Protocol

from ..wire.postgres_tls import Negotiation
from .event_counter import EventCounter
from .event_loop import ERR, HUP, IN, OUT, WOULD_BLOCK, EventLoop, Timer
from .tls_records import MAX_RECORD, TlsRecords, tls_error_text

HANDSHAKE_TIMEOUT = 30.0
"""Seconds for a handshake. With an upstream they include the time to connect."""


class TlsReader(Protocol):
    """The link that reads from the TLS peer.

    Attributes:
        peer_done: the other direction has passed on its end of stream, so the TLS peer gets no more data.
    """

    @property
    def peer_done(self) -> bool: ...
    def on_event(self, events: int) -> None:
        """Handle events, as from the event loop."""


class TlsOwner(Protocol):
    """The connection that the TLS peer is one end of.

    Attributes:
        connected: the upstream has answered at least once.
    """

    @property
    def connected(self) -> bool: ...
    def close(self, *, reset: bool = False) -> None:
        """Close both sockets."""

    def dial_failed(self, error: Exception) -> None:
        """Try the next address of the upstream, or close."""

    def tls_failed(self, reason: str, *, upward: bool) -> None:
        """Close the connection, because TLS failed with the client (`upward`) or with the upstream."""


class TlsStream:
    """TLS with one peer, in place of the socket and the loop of the link that reads from this peer.

    Args:
        sock: non-blocking. The stream owns it from now on.
        server: the name in the certificate of a peer that is the server; None if the peer is the client.
        reader: the link that reads from the peer.
        owner: the connection.
        failures: counts failed handshakes and broken streams.
        negotiation: what comes before the handshake; None for nothing.
    """

    __slots__ = (
        "_closed",
        "_deadline",
        "_early_plaintext",
        "_failures",
        "_link_mask",
        "_loop",
        "_mask",
        "_negotiation",
        "_owner",
        "_plain",
        "_reader",
        "_ready",
        "_received_any",
        "_records",
        "_socket",
        "_unacknowledged",
        "_wake",
        "_write_ended",
        "call_at",
        "handlers",
        "now",
    )

    def __init__(
        self,
        sock: so.socket,
        context: ssl.SSLContext,
        server: str | None,
        reader: TlsReader,
        owner: TlsOwner,
        loop: EventLoop,
        failures: EventCounter,
        negotiation: Negotiation | None = None,
    ) -> None:
        self._socket = sock
        self._negotiation = negotiation
        self._plain = False  # the negotiation has ended without TLS
        self._records = TlsRecords(sock, context, server)
        self._reader = reader
        self._owner = owner
        self._loop = loop
        self._failures = failures
        self._mask = 0  # what the loop watches
        self._link_mask = 0  # what the link wants to be watched
        self._received_any = False
        self._ready = False  # the handshake is done
        self._write_ended = False  # the end of stream has to be sent
        self._closed = False
        self._unacknowledged = 0  # plain text of the link that is in the backlog, and not yet counted as sent
        self._early_plaintext = b""  # plain text that came with the end of the handshake
        self._wake: Timer | None = None
        self._deadline: Timer | None = None
        self.handlers = loop.handlers
        self.now = loop.now
        self.call_at = loop.call_at

    # --- as the link's loop ------------------------------------------------------------------------------------------

    def watch(self, fd: int, mask: int, before: int) -> None:
        """Report the events in `mask` to the link. The first call begins the handshake."""
        self._link_mask = mask
        if self._deadline is None:
            self.handlers[fd] = self._on_event
            self._deadline = self.call_at(self.now() + HANDSHAKE_TIMEOUT, self._on_handshake_timeout)
            if self._negotiation is not None:
                self._send_plain(self._negotiation.begin())
            if self._records.server_side or self._negotiation is not None:
                self._update_watch()
            else:
                self._do_handshake()  # sends the ClientHello; an error shows at the socket
            return
        self._update_watch()
        self._wake_link()

    def unregister(self, fd: int, mask: int) -> None:
        """Stop all callbacks."""
        self._loop.unregister(fd, self._mask)

    def _update_watch(self) -> None:
        """Have the loop watch what the link and the stream need."""
        if self._closed:
            return
        if self._ready:
            mask = self._link_mask if not self._records.backlog else self._link_mask | OUT
        else:
            mask = IN | OUT if self._records.backlog else IN
        if mask != self._mask:
            self._loop.watch(self._socket.fileno(), mask, self._mask)
            self._mask = mask

    def _wake_link(self) -> None:
        """Call the link later if it wants to read, and there is data or an end that the descriptor does not show."""
        if self._wake is None and self._link_mask & IN and (self._records.ended or self._early_plaintext):
            self._wake = self.call_at(self.now(), self._on_wake)

    def _on_wake(self) -> None:
        self._wake = None
        if self._link_mask & IN:
            self._reader.on_event(IN)

    def _on_event(self, events: int) -> None:
        if not self._ready:
            self._continue_handshake(events)
            return
        if self._records.backlog and not self._unacknowledged and events & OUT:
            try:
                self._records.flush()
            except OSError as error:
                self._records.error = error
                events |= ERR
        link_events = events & (self._link_mask | ERR | HUP)
        if link_events:
            self._reader.on_event(link_events)
        else:
            self._update_watch()

    # --- the handshake -----------------------------------------------------------------------------------------------

    def _continue_handshake(self, events: int) -> None:
        try:
            if self._records.backlog and events & OUT:
                self._records.flush()
            if events & ~OUT:
                data = self._socket.recv(MAX_RECORD)
                if not data:
                    raise self._records.error or ConnectionResetError(
                        ECONNRESET, "closed in the middle of the handshake"
                    )
                self._received_any = True
                if self._negotiation is not None:
                    self._negotiate(self._negotiation, data)
                    return
                self._records.receive(data)
        except OSError as error:
            if error.errno not in WOULD_BLOCK:
                self._handshake_failed(error)
                return
        if self._negotiation is None:
            self._do_handshake()
        else:
            self._update_watch()

    def _negotiate(self, negotiation: Negotiation, data: bytes) -> None:
        """Take bytes that come before the handshake."""
        step = negotiation.feed(data)
        self._send_plain(step.answer)
        if step.then == "more":
            self._update_watch()
            return
        self._negotiation = None
        if step.then == "refused":
            self._fail(step.reason)
        elif step.then == "plain":
            self._continue_in_plain_text(step.rest)
        else:
            self._records.receive(step.rest)
            self._do_handshake()

    def _send_plain(self, data: bytes) -> None:
        """Send bytes of the negotiation, or leave them for when the socket can take them."""
        self._records.backlog = memoryview(bytes(self._records.backlog) + data)
        self._records.try_flush()

    def _continue_in_plain_text(self, received: bytes) -> None:
        self._plain = self._ready = True
        self._early_plaintext = received
        if self._deadline is not None:
            self._deadline.cancel()
        self._update_watch()
        self._wake_link()

    def _do_handshake(self) -> None:
        try:
            self._ready = self._records.do_handshake()
        except ssl.SSLError as error:
            self._records.try_flush()  # the alert
            self._fail(tls_error_text(error))
            return
        self._records.try_flush()
        if not self._ready:
            self._update_watch()
            return
        if self._deadline is not None:
            self._deadline.cancel()
        if self._records.unread:
            try:
                buffer = bytearray(2 * MAX_RECORD)
                self._early_plaintext = bytes(buffer[: self._records.decrypt(memoryview(buffer))])
            except ssl.SSLError as error:
                self._fail(tls_error_text(error))
                return
        if self._write_ended:
            self._records.send_close_notify()
        self._update_watch()
        self._wake_link()

    def _on_handshake_timeout(self) -> None:
        self._handshake_failed(TimeoutError(None, f"no handshake within {HANDSHAKE_TIMEOUT:g} s"))

    def _handshake_failed(self, error: OSError) -> None:
        """End a connection that failed before the handshake was done."""
        upward = self._records.server_side
        gone = error.errno in (ECONNRESET, EPIPE)
        if upward and gone and not self._received_any:
            self._owner.close()  # a client that only probed the port
        elif not upward and not gone and not self._owner.connected:
            self._owner.dial_failed(error)
        else:
            self._fail(error.strerror or str(error))

    def _fail(self, reason: str) -> None:
        self._failures.add(self.now())
        self._owner.tls_failed(reason, upward=self._records.server_side)

    # --- as the link's socket ----------------------------------------------------------------------------------------

    def recv_into(self, buffer: bytearray, size: int = 0) -> int:
        """Read plain text into `buffer`. Return its length, 0 at the end of the stream.

        Raises:
            OSError: EAGAIN if there is none yet, or the error of the socket.
        """
        view = memoryview(buffer)[: size or None]
        spare = self._early_plaintext
        if spare:
            view[: len(spare)] = spare
            self._early_plaintext = b""
            self._wake_link()
            return len(spare)
        if self._plain:
            return self._socket.recv_into(view)
        if self._records.ended:
            return 0
        try:
            # The cipher text shares the buffer with the plain text, which is shorter.
            got = self._socket.recv_into(view, len(view) - MAX_RECORD)
        except OSError as error:
            if error.errno in WOULD_BLOCK and self._records.error is not None:
                raise self._records.error from None
            raise
        if not got:
            self._records.ended = True
            if self._records.error is not None:
                raise self._records.error
            return 0
        self._records.receive(view[:got])
        try:
            count = self._records.decrypt(view)
        except ssl.SSLError as error:
            self._records.try_flush()
            self._fail(tls_error_text(error))
            raise BlockingIOError(EAGAIN, "closed") from None
        if self._records.unsent:
            self._records.try_flush()
            self._update_watch()
        return self._return_count(count)

    def _return_count(self, count: int) -> int:
        if count:
            self._wake_link()
        elif not self._records.ended:
            raise BlockingIOError(EAGAIN, "no whole record yet")
        return count

    def send(self, data: memoryview | bytes) -> int:
        """Encrypt and write. Return how many bytes of `data` were sent completely. The rest has to be passed again.

        Raises:
            OSError: the error of the socket.
        """
        if self._records.error is not None:
            raise self._records.error
        if not self._ready or not self._records.flush():
            return 0
        if self._plain:
            return self._socket.send(data)
        view = memoryview(data)
        sent, self._unacknowledged = self._unacknowledged, 0
        while sent < len(view):
            end = sent
            while end < len(view) and end - sent < 8 * MAX_RECORD:
                end += self._records.encrypt(view[end:])
            if not self._records.flush():
                self._unacknowledged = end - sent
                break
            sent = end
        self._update_watch()
        return sent

    def shutdown(self, how: int) -> None:
        """Send the end of the stream, which is a close_notify with a FIN behind it."""
        self._write_ended = True
        if self._plain:
            self._socket.shutdown(how)
        elif self._ready:
            self._records.send_close_notify()
            self._update_watch()

    def close(self) -> None:
        """Close the socket. If the end of the stream was reached just now, send a close_notify first."""
        if self._closed:
            return
        self._closed = True
        if self._ready and self._reader.peer_done and not self._write_ended:
            self.shutdown(so.SHUT_WR)
        for timer in (self._wake, self._deadline):
            if timer is not None:
                timer.cancel()
        self._socket.close()
        del self._reader, self._owner  # break the reference cycles, as in Connection.close

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def getpeername(self) -> Any:
        """Return the socket's remote address."""
        return self._socket.getpeername()

    def getsockname(self) -> Any:
        """Return the socket's local address."""
        return self._socket.getsockname()

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        """Set an option of the socket."""
        self._socket.setsockopt(level, option, value)
