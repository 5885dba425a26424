"""The protocol of MySQL: packets to values, without sockets."""

from __future__ import annotations

import hashlib

import pytest

from pytest_resilience.systems.mysql import protocol

# What a MariaDB 10.11 and a MySQL 8.4 send first, with the scrambles replaced.
SCRAMBLE = b"01234567abcdefghijkl"
CAPABILITIES = protocol.PROTOCOL_41 | protocol.SECURE_CONNECTION | protocol.PLUGIN_AUTH


def greeting(version: str, plugin: str, capabilities: int = CAPABILITIES) -> bytes:
    low, high = (capabilities & 0xFFFF).to_bytes(2, "little"), (capabilities >> 16).to_bytes(2, "little")
    head = (
        b"\x0a" + version.encode() + b"\0" + b"\x07\0\0\0" + SCRAMBLE[:8] + b"\0" + low + b"\x2d\x02\0" + high + b"\x15"
    )
    return head + bytes(10) + SCRAMBLE[8:] + b"\0" + plugin.encode() + b"\0"


@pytest.mark.parametrize(
    ("sent", "version"),
    [("5.5.5-10.11.6-MariaDB", "10.11.6-MariaDB"), ("8.4.3", "8.4.3"), ("11.4.2-MariaDB", "11.4.2-MariaDB")],
)
def test_a_greeting_has_version_method_and_scramble(sent: str, version: str) -> None:
    found = protocol.parse_greeting(greeting(sent, protocol.CACHING_SHA2))
    assert found == protocol.Greeting(version, CAPABILITIES, protocol.CACHING_SHA2, SCRAMBLE)


def test_a_server_that_refuses_the_connection_is_an_error_with_its_code() -> None:
    with pytest.raises(protocol.ServerError, match=r"Too many connections \(error 1040\)") as refused:
        protocol.parse_greeting(b"\xff\x10\x04Too many connections")
    assert refused.value.code == 1040


def test_another_protocol_is_an_error() -> None:
    with pytest.raises(ValueError, match="protocol version 10"):
        protocol.parse_greeting(b"HTTP/1.1 400")


def test_an_error_of_a_statement_has_a_sqlstate_before_its_text() -> None:
    assert str(protocol.parse_error(b"\xff\x0a\x05#HY000read-only")) == "read-only (error 1290)"


def test_proofs_are_those_of_the_documentation() -> None:
    """The server has a hash of the password, and checks the proof with it."""
    once = hashlib.sha1(b"secret").digest()
    mask = hashlib.sha1(SCRAMBLE + hashlib.sha1(once).digest()).digest()
    found = protocol.proof(protocol.NATIVE_PASSWORD, "secret", SCRAMBLE)
    assert bytes(a ^ b for a, b in zip(found, mask, strict=True)) == once
    once = hashlib.sha256(b"secret").digest()
    mask = hashlib.sha256(hashlib.sha256(once).digest() + SCRAMBLE).digest()
    found = protocol.proof(protocol.CACHING_SHA2, "secret", SCRAMBLE)
    assert bytes(a ^ b for a, b in zip(found, mask, strict=True)) == once
    with pytest.raises(ValueError, match="'dialog'"):
        protocol.proof("dialog", "secret", SCRAMBLE)


def test_a_row_has_text_and_nulls_of_any_length() -> None:
    long = "x" * 300
    assert protocol.parse_row(b"\x01a\xfb\x00\xfc\x2c\x01" + long.encode()) == ["a", None, "", long]


def test_a_short_packet_ends_a_list_and_a_long_one_does_not() -> None:
    assert protocol.is_end(b"\xfe\0\0\x0a\0")
    assert protocol.status_of_end(b"\xfe\0\0\x0a\0") & protocol.MORE_RESULTS
    assert not protocol.is_end(b"\xfe" + bytes(20)), "a row with a huge column"
    assert protocol.status_of_ok(b"\0\x01\xfc\x2c\x01\x02\0\0\0") == 2


def test_a_login_never_has_the_password() -> None:
    answer = protocol.proof(protocol.NATIVE_PASSWORD, "secret", SCRAMBLE)
    assert b"secret" not in protocol.login("root", answer, protocol.NATIVE_PASSWORD)
