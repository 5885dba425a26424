"""The part of the protocol of MySQL that an administrator needs: the login, and the result of a query as text.

Source: the MySQL internals manual, "Connection Phase" and "Command Phase" (protocol version 10). No sockets.
"""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

PROTOCOL_41, TLS, SECURE_CONNECTION, PLUGIN_AUTH = 0x200, 0x800, 0x8000, 0x80000
TRANSACTIONS, MULTI_STATEMENTS, MULTI_RESULTS = 0x2000, 0x10000, 0x20000
CAPABILITIES = 1 | PROTOCOL_41 | TRANSACTIONS | SECURE_CONNECTION | MULTI_STATEMENTS | MULTI_RESULTS | PLUGIN_AUTH
MAX_PACKET = 1 << 24
UTF8MB4 = 45  # utf8mb4_general_ci
MORE_RESULTS = 8  # a flag of the status

OK, AUTH_SWITCH, ERROR, AUTH_DATA, NULL = 0x00, 0xFE, 0xFF, 0x01, 0xFB
NATIVE_PASSWORD, CACHING_SHA2 = "mysql_native_password", "caching_sha2_password"
FAST_AUTH_OK, FULL_AUTH = b"\x03", b"\x04"  # after AUTH_DATA

QUIT, QUERY = b"\x01", b"\x03"  # commands


class Greeting(NamedTuple):
    """The first packet of a server.

    Args:
        version: the version, such as "10.11.6-MariaDB" or "8.4.3".
        capabilities: a set of flags.
        plugin: the method of authentication that the server suggests.
        scramble: 20 random bytes.
    """

    version: str
    capabilities: int
    plugin: str
    scramble: bytes


class ServerError(Exception):
    """An error that the server has reported.

    Attributes:
        code: the number, such as 1040.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} (error {code})")
        self.code = code


def packet(number: int, payload: bytes) -> bytes:
    """Return a packet with its sequence number."""
    return struct.pack("<I", len(payload))[:3] + bytes([number % 256]) + payload


def parse_greeting(payload: bytes) -> Greeting:
    """Return the greeting of a server.

    Raises:
        ServerError: the server refuses the connection.
        ValueError: it is no greeting of protocol version 10.
    """
    if payload[:1] == bytes([ERROR]):
        raise parse_error(payload)
    if payload[:1] != b"\x0a":
        raise ValueError("not a server of MySQL's protocol version 10")
    version, _, rest = payload[1:].partition(b"\0")
    first, low, high = rest[4:12], rest[13:15], rest[18:20]
    capabilities = struct.unpack("<H", low)[0] | struct.unpack("<H", high)[0] << 16
    second, plugin = rest[31:43], rest[44:].rstrip(b"\0")
    # A server for replication puts "5.5.5-" before its version, as MariaDB does.
    return Greeting(version.decode().removeprefix("5.5.5-"), capabilities, plugin.decode(), first + second)


def login(user: str, answer: bytes, plugin: str, *, tls: bool = False) -> bytes:
    """Return the payload with the name of the user and the proof of the password."""
    return _login_head(tls=tls) + user.encode() + b"\0" + bytes([len(answer)]) + answer + plugin.encode() + b"\0"


def tls_request() -> bytes:
    """Return the payload that begins TLS. The login follows inside of it."""
    return _login_head(tls=True)


def _login_head(*, tls: bool) -> bytes:
    return struct.pack("<IIB23x", CAPABILITIES | (TLS if tls else 0), MAX_PACKET, UTF8MB4)


def parse_auth_switch(payload: bytes) -> tuple[str, bytes]:
    """Return the method and the scramble that a server demands instead."""
    plugin, _, scramble = payload[1:].partition(b"\0")
    return plugin.decode(), scramble[:20]


def proof(plugin: str, password: str, scramble: bytes) -> bytes:
    """Return the proof that a client has the password.

    Raises:
        ValueError: the method is unknown.
    """
    text = password.encode()
    if plugin == NATIVE_PASSWORD:
        once = _sha1(text)
        return _xor(once, _sha1(scramble + _sha1(once)))
    if plugin == CACHING_SHA2:
        once = hashlib.sha256(text).digest()
        return _xor(once, hashlib.sha256(hashlib.sha256(once).digest() + scramble).digest())
    raise ValueError(f"the server demands the authentication {plugin!r}, which is not supported")


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data).digest()  # noqa: S324  # the protocol demands it


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def parse_error(payload: bytes) -> ServerError:
    """Return the error in a packet. Before the login it has no SQLSTATE."""
    code = struct.unpack("<H", payload[1:3])[0]
    text = payload[9:] if payload[3:4] == b"#" else payload[3:]
    return ServerError(code, text.decode(errors="replace"))


def read_length(payload: bytes, at: int) -> tuple[int, int]:
    """Return an integer of variable length, and the position after it."""
    first = payload[at]
    size = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(first, 0)
    return (int.from_bytes(payload[at + 1 : at + 1 + size], "little"), at + 1 + size) if size else (first, at + 1)


def parse_row(payload: bytes) -> list[str | None]:
    """Return the columns of a row as text, None for NULL."""
    row: list[str | None] = []
    at = 0
    while at < len(payload):
        if payload[at] == NULL:
            row.append(None)
            at += 1
            continue
        size, at = read_length(payload, at)
        row.append(payload[at : at + size].decode(errors="surrogateescape"))
        at += size
    return row


def status_of_ok(payload: bytes) -> int:
    """Return the status flags of an OK packet."""
    _, at = read_length(payload, 1)
    _, at = read_length(payload, at)
    return int.from_bytes(payload[at : at + 2], "little")


def is_end(payload: bytes) -> bool:
    """True if a packet ends a list of columns or rows."""
    return payload[:1] == b"\xfe" and len(payload) < 9


def status_of_end(payload: bytes) -> int:
    """Return the status flags of the packet that ends a list."""
    return int.from_bytes(payload[3:5], "little")
