"""The bytes of X.509 certificates with keys of the curve P-256. Sources: RFC 5280, RFC 5480, RFC 5915, X.690."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from collections.abc import Callable, Iterable

Sign = Callable[[bytes], tuple[int, int]]
"""Returns the ECDSA signature, the numbers r and s, of data that is hashed with SHA-256."""

_BOOLEAN, _INTEGER, _BIT_STRING, _OCTET_STRING, _OID, _UTF8 = 1, 2, 3, 4, 6, 12
_UTC_TIME, _GENERALIZED_TIME, _SEQUENCE, _SET = 0x17, 0x18, 0x30, 0x31

_COMMON_NAME = "2.5.4.3"
_EC_PUBLIC_KEY, _P256, _ECDSA_SHA256 = "1.2.840.10045.2.1", "1.2.840.10045.3.1.7", "1.2.840.10045.4.3.2"
_SUBJECT_KEY_ID, _KEY_USAGE, _SUBJECT_ALT_NAME, _BASIC_CONSTRAINTS = "2.5.29.14", "2.5.29.15", "2.5.29.17", "2.5.29.19"
_AUTHORITY_KEY_ID, _EXTENDED_KEY_USAGE, _SERVER_AUTH = "2.5.29.35", "2.5.29.37", "1.3.6.1.5.5.7.3.1"

# RFC 5280 4.1.2.5: no well-defined date of expiration. So a test may change the clock.
_VALIDITY = (_UTC_TIME, b"000101000000Z"), (_GENERALIZED_TIME, b"99991231235959Z")


def authority(name: str, serial: int, public_key: bytes, sign: Sign) -> bytes:
    """Return the certificate of an authority, signed by itself, in DER.

    Args:
        name: its common name.
        serial: positive, of 20 bytes at most.
        public_key: an uncompressed point, 65 bytes.
        sign: signs with the key of the authority.
    """
    extensions = [
        _extension(_BASIC_CONSTRAINTS, _sequence(_der(_BOOLEAN, b"\xff"), _integer(0)), critical=True),
        _extension(_KEY_USAGE, _der(_BIT_STRING, b"\x01\x06"), critical=True),  # keyCertSign and cRLSign
        _extension(_SUBJECT_KEY_ID, _der(_OCTET_STRING, _key_id(public_key))),
    ]
    return _certificate(name, name, serial, public_key, extensions, sign)


def server(
    name: str, hosts: Iterable[str], issuer: tuple[str, bytes], serial: int, public_key: bytes, sign: Sign
) -> bytes:
    """Return the certificate of a server in DER.

    Args:
        name: its common name.
        hosts: names and IP addresses of the server.
        issuer: the common name and the public key of the authority.
        serial: positive, of 20 bytes at most.
        public_key: an uncompressed point, 65 bytes.
        sign: signs with the key of the authority.
    """
    extensions = [
        _extension(_BASIC_CONSTRAINTS, _sequence(), critical=True),
        _extension(_KEY_USAGE, _der(_BIT_STRING, b"\x07\x80"), critical=True),  # digitalSignature
        _extension(_EXTENDED_KEY_USAGE, _sequence(_oid(_SERVER_AUTH))),
        _extension(_SUBJECT_ALT_NAME, _sequence(*map(_host, hosts))),
        _extension(_SUBJECT_KEY_ID, _der(_OCTET_STRING, _key_id(public_key))),
        _extension(_AUTHORITY_KEY_ID, _sequence(_der(0x80, _key_id(issuer[1])))),
    ]
    return _certificate(name, issuer[0], serial, public_key, extensions, sign)


def private_key(secret: int, public_key: bytes) -> bytes:
    """Return a key in DER (RFC 5915)."""
    return _sequence(
        _integer(1),
        _der(_OCTET_STRING, secret.to_bytes(32, "big")),
        _der(0xA0, _oid(_P256)),
        _der(0xA1, _bits(public_key)),
    )


def pem(label: str, der: bytes) -> str:
    """Return DER as PEM, such as "CERTIFICATE" or "EC PRIVATE KEY"."""
    text = base64.b64encode(der).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


# --- parts -----------------------------------------------------------------------------------------------------------


def _certificate(name: str, issuer: str, serial: int, public_key: bytes, extensions: list[bytes], sign: Sign) -> bytes:
    algorithm = _sequence(_oid(_ECDSA_SHA256))
    body = _sequence(
        _der(0xA0, _integer(2)),  # version 3
        _integer(serial),
        algorithm,
        _name(issuer),
        _sequence(*(_der(tag, text) for tag, text in _VALIDITY)),
        _name(name),
        _sequence(_sequence(_oid(_EC_PUBLIC_KEY), _oid(_P256)), _bits(public_key)),
        _der(0xA3, _sequence(*extensions)),
    )
    signature = _sequence(*map(_integer, sign(body)))
    return _sequence(body, algorithm, _bits(signature))


def _name(common_name: str) -> bytes:
    return _sequence(_der(_SET, _sequence(_oid(_COMMON_NAME), _der(_UTF8, common_name.encode()))))


def _extension(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    flag = _der(_BOOLEAN, b"\xff") if critical else b""
    return _sequence(_oid(oid), flag, _der(_OCTET_STRING, value))


def _host(host: str) -> bytes:
    try:
        return _der(0x87, ipaddress.ip_address(host).packed)
    except ValueError:
        return _der(0x82, host.encode("ascii"))


def _key_id(public_key: bytes) -> bytes:
    return hashlib.sha1(public_key, usedforsecurity=False).digest()  # RFC 5280 4.2.1.2


# --- DER -------------------------------------------------------------------------------------------------------------


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 128:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def _sequence(*parts: bytes) -> bytes:
    return _der(_SEQUENCE, b"".join(parts))


def _integer(value: int) -> bytes:
    return _der(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _bits(content: bytes) -> bytes:
    return _der(_BIT_STRING, b"\0" + content)


def _oid(text: str) -> bytes:
    first, second, *others = map(int, text.split("."))
    return _der(_OID, b"".join(map(_base128, (40 * first + second, *others))))


def _base128(number: int) -> bytes:
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.append(0x80 | number & 0x7F)
    return bytes(reversed(digits))
