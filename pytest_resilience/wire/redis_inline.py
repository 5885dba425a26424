"""The words of inline commands, which people and health checks send to Redis.

Quotes are those of sdssplitargs in Valkey 9.1. Redis refuses text directly behind a quote, and closes the connection.
"""

from __future__ import annotations

import re

# A backslash before the last quote of the line stands for itself. No part gives back what it has taken, so the time is linear.
_DOUBLE = rb'"(?:\\.(?=.)|[^"\\]|\\(?="\Z))*+"'
_SINGLE = rb"'(?:\\'(?=.)|[^'\\]|\\(?!'.))*+'"
_PLAIN = rb"[^\s\"']++"
_WORD = re.compile(rb"\s*((?:%s|%s|%s)++)\s*" % (_DOUBLE, _SINGLE, _PLAIN), re.DOTALL)
_PART = re.compile(rb"%s|%s|%s" % (_DOUBLE, _SINGLE, _PLAIN), re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:x([0-9A-Fa-f]{2})|(.))", re.DOTALL)
_NAMED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}


def split_words(line: bytes) -> list[bytes] | None:
    """Return the words of a line, without their quotes.

    Args:
        line: the command. Its line end is white space.

    Returns:
        The words, or None for quotes that are not balanced, which end the connection.
    """
    if b'"' not in line and b"'" not in line:
        return line.split()
    words: list[bytes] = []
    place, line = 0, line.strip()
    while place < len(line):
        match = _WORD.match(line, place)
        if match is None:
            return None
        words.append(b"".join(map(_unquoted, _PART.findall(match[1]))))
        place = match.end()
    return words


def _unquoted(part: bytes) -> bytes:
    if part[:1] == b'"':
        return _ESCAPE.sub(_meaning, part[1:-1])
    if part[:1] == b"'":
        return part[1:-1].replace(b"\\'", b"'")
    return part


def _meaning(escape: re.Match[bytes]) -> bytes:
    if escape[1]:
        return bytes.fromhex(escape[1].decode())
    return _NAMED.get(escape[2], escape[2])
