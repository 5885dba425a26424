"""Keys and signatures of the elliptic curve P-256, for certificates that live as long as a session. Source: FIPS 186-5, SEC 1.

The calculations take different times for different keys, so an attacker who measures many signatures could find a key. A session's keys
make one signature each. Use OpenSSL for any other purpose.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TypeAlias

_P = 2**256 - 2**224 + 2**192 + 2**96 - 1
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_BASE = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)

_Jacobian: TypeAlias = tuple[int, int, int]
_INFINITY: _Jacobian = (1, 1, 0)


class PrivateKey:
    """A random key.

    Attributes:
        secret: the private number.
        public: the public point, uncompressed.
    """

    def __init__(self) -> None:
        self.secret = 1 + secrets.randbelow(_ORDER - 1)
        x, y = _multiply(self.secret)
        self.public = b"\4" + x.to_bytes(32, "big") + y.to_bytes(32, "big")

    def sign(self, data: bytes) -> tuple[int, int]:
        """Return the ECDSA signature of data, with SHA-256."""
        digest = int.from_bytes(hashlib.sha256(data).digest(), "big")
        while True:
            nonce = 1 + secrets.randbelow(_ORDER - 1)
            r = _multiply(nonce)[0] % _ORDER
            s = pow(nonce, -1, _ORDER) * (digest + r * self.secret) % _ORDER
            if r and s:
                return r, s


def _multiply(number: int) -> tuple[int, int]:
    """Return the coordinates of a multiple of the base point."""
    total, addend = _INFINITY, (*_BASE, 1)
    while number:
        if number & 1:
            total = _add(total, addend)
        addend = _double(addend)
        number >>= 1
    x, y, z = total
    inverse = pow(z, -1, _P)
    return x * inverse**2 % _P, y * inverse**3 % _P


def _double(point: _Jacobian) -> _Jacobian:
    x, y, z = point
    delta, gamma = z * z % _P, y * y % _P
    beta = x * gamma % _P
    alpha = 3 * (x - delta) * (x + delta) % _P
    x3 = (alpha * alpha - 8 * beta) % _P
    return x3, (alpha * (4 * beta - x3) - 8 * gamma * gamma) % _P, 2 * y * z % _P


def _add(one: _Jacobian, other: _Jacobian) -> _Jacobian:
    """Add two points that are neither equal nor each other's negative, unless one is the infinity."""
    if not one[2]:
        return other
    (x1, y1, z1), (x2, y2, z2) = one, other
    square1, square2 = z1 * z1 % _P, z2 * z2 % _P
    u1, u2 = x1 * square2 % _P, x2 * square1 % _P
    s1, s2 = y1 * square2 * z2 % _P, y2 * square1 * z1 % _P
    h, r = (u2 - u1) % _P, (s2 - s1) % _P
    h2 = h * h % _P
    h3 = h * h2 % _P
    x3 = (r * r - h3 - 2 * u1 * h2) % _P
    return x3, (r * (u1 * h2 - x3) - s1 * h3) % _P, h * z1 * z2 % _P
