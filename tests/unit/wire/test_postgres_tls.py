"""The negotiation of TLS with a client and with a server of Postgres, in tables of literals."""

from __future__ import annotations

import pytest

from pytest_resilience.wire.postgres_tls import (
    GSSENC_REQUEST,
    SSL_REQUEST,
    ClientSide,
    Negotiation,
    ServerSide,
    Step,
)

HELLO = b"\x16\x03\x01\x02\x00\x01"  # the first bytes of TLS
CANCEL = b"\0\0\0\x10\x04\xd2\x16\x2e" + b"pid.key."
STARTUP = b"\0\0\0\x08\0\3\0\0"


def feed(negotiation: Negotiation, *pieces: bytes) -> Step:
    """Return the last step, with the answers of all."""
    steps = [negotiation.feed(piece) for piece in pieces]
    return steps[-1]._replace(answer=b"".join(step.answer for step in steps))


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([HELLO], Step("tls", rest=HELLO)),
        ([HELLO[:1]], Step("tls", rest=HELLO[:1])),
        ([b"GET / HTTP/1.1"], Step("tls", rest=b"GET / HTTP/1.1")),
        ([SSL_REQUEST], Step("tls", b"S")),
        ([SSL_REQUEST[:3]], Step("more")),
        ([SSL_REQUEST[:1], SSL_REQUEST[1:7], SSL_REQUEST[7:]], Step("tls", b"S")),
        ([GSSENC_REQUEST], Step("more", b"N")),
        ([GSSENC_REQUEST, SSL_REQUEST], Step("tls", b"NS")),
        ([GSSENC_REQUEST[:5], GSSENC_REQUEST[5:] + SSL_REQUEST[:2], SSL_REQUEST[2:]], Step("tls", b"NS")),
        ([GSSENC_REQUEST, HELLO], Step("tls", b"N", HELLO)),
        ([CANCEL], Step("plain", rest=CANCEL)),
        ([CANCEL[:5], CANCEL[5:]], Step("plain", rest=CANCEL)),
        ([b"\0\0\0\x08\x12\x34\x56\x78"], Step("tls", rest=b"\0\0\0\x08\x12\x34\x56\x78")),
    ],
)
def test_server_side(pieces: list[bytes], expected: Step) -> None:
    side = ServerSide()
    assert side.begin() == b""
    assert feed(side, *pieces) == expected


def test_data_behind_an_ssl_request_is_refused():
    step = ServerSide().feed(SSL_REQUEST + HELLO)
    assert (step.then, step.answer) == ("refused", b"")
    assert "in plain text" in step.reason


def test_a_session_in_plain_text_is_refused_with_an_error_of_postgres():
    step = ServerSide().feed(STARTUP)
    assert step.then == "refused"
    assert step.answer[:1] == b"E"
    assert b"C28000\0" in step.answer
    assert b"SFATAL\0" in step.answer


@pytest.mark.parametrize(
    ("received", "then"), [(b"S", "tls"), (b"N", "refused"), (b"E", "refused"), (b"S\x16", "refused")]
)
def test_client_side(received: bytes, then: str) -> None:
    side = ClientSide()
    assert side.begin() == SSL_REQUEST
    assert side.feed(received).then == then
