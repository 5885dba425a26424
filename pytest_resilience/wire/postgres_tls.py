"""The packets by which Postgres agrees on TLS before the first TLS record, from both sides.

A client that does not begin with TLS directly sends an SSLRequest in plain text, and the server answers with one byte. Source:
Postgres' documentation, chapters 54.2.10 and 54.2.11.
"""

from __future__ import annotations

from struct import Struct
from typing import Literal, NamedTuple, Protocol

from .postgres_stream import error_response

SSL_REQUEST = b"\0\0\0\x08\x04\xd2\x16\x2f"
GSSENC_REQUEST = b"\0\0\0\x08\x04\xd2\x16\x30"

_CANCEL = 80877102
_VERSION_3 = 3
_length_and_code = Struct(">II").unpack_from


class Step(NamedTuple):
    """The result of the bytes received so far.

    Args:
        then: "more": more bytes are needed; "tls": the TLS handshake comes; "plain": the connection stays in plain text;
            "refused": the connection has to be closed.
        answer: bytes to send to the peer.
        rest: bytes of the peer that belong to what comes next.
        reason: why it is refused.
    """

    then: Literal["more", "tls", "plain", "refused"]
    answer: bytes = b""
    rest: bytes = b""
    reason: str = ""


class Negotiation(Protocol):
    """One side of the exchange before the TLS handshake."""

    def begin(self) -> bytes:
        """Return the bytes to send before any have come."""

    def feed(self, data: bytes) -> Step:
        """Take received bytes."""


class ServerSide:
    """The server's side, which accepts an SSLRequest and declines encryption by GSSAPI.

    TLS without an SSLRequest is accepted too, in Postgres ("direct") as in any other protocol. A CancelRequest is served in plain text, as
    the server does, because libpq up to version 16 encrypts none. Any other session in plain text is refused.
    """

    def __init__(self) -> None:
        self._received = b""

    def begin(self) -> bytes:
        """Return nothing, because the client begins."""
        return b""

    def feed(self, data: bytes) -> Step:
        """Take bytes of the client."""
        received = self._received + data
        answer = b""
        if received.startswith(GSSENC_REQUEST):
            answer, received = b"N", received[8:]
        self._received = received
        if received.startswith(SSL_REQUEST):
            if len(received) > 8:  # sent before the answer, so maybe by a third party (CVE-2021-23222)
                return Step("refused", answer, reason="data in plain text behind the SSLRequest")
            return Step("tls", answer + b"S")
        if received[:1] != b"\0" and received:
            return Step("tls", answer, received)
        if len(received) < 8:
            return Step("more", answer)
        return self._plain_text(answer, received)

    @staticmethod
    def _plain_text(answer: bytes, received: bytes) -> Step:
        _, code = _length_and_code(received)
        if code == _CANCEL:
            return Step("plain", answer, received)
        if code >> 16 != _VERSION_3:
            return Step("tls", answer, received)  # the handshake has the better error
        error = error_response("28000", "the proxy accepts sessions with TLS only, no encryption", severity="FATAL")
        return Step("refused", answer + error, reason="a session of Postgres without TLS")


class ClientSide:
    """The client's side: send an SSLRequest, and demand that the server accepts it."""

    def begin(self) -> bytes:
        """Return the SSLRequest."""
        return SSL_REQUEST

    def feed(self, data: bytes) -> Step:
        """Take the answer of the server."""
        if data[:1] == b"S" and len(data) == 1:
            return Step("tls")
        return Step("refused", reason="the server answered the SSLRequest with an error or without TLS")
