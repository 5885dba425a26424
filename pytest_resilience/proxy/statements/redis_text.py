"""Commands of Redis as receipts show them, without values."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...wire.redis_keys import keys_of

MAX_CHARS = 80
MAX_KEYS = 3

_SUBCOMMANDS = frozenset(
    ("acl", "client", "cluster", "command", "config", "function", "memory", "object", "script", "xgroup", "xinfo")
)
_LITERAL = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}|(?=\w*\d)\w{16,}|\d+")


def shown_command(name: str, words: Sequence[bytes]) -> str:
    """Return a command in one line, such as "SET campaign:? ?".

    Names and keys stay. Numbers and long tokens in keys, and all other words, are `?`.

    Args:
        name: in lower case.
        words: the words of the command, the name included.
    """
    rest = list(words[1:])
    parts = [name.upper()]
    if name in _SUBCOMMANDS and rest:
        parts.append(_printable(rest.pop(0)).upper())
    keys = list(keys_of(name, words))
    parts += [_LITERAL.sub("?", _printable(key)) for key in keys[:MAX_KEYS]]
    if len(keys) > MAX_KEYS:
        parts.append("...")
    elif len(rest) > len(keys):
        parts.append("?")
    line = " ".join(parts)
    return line if len(line) <= MAX_CHARS else line[: MAX_CHARS - 3] + "..."


def _printable(word: bytes) -> str:
    return "".join(
        letter if letter.isprintable() and letter != " " else "?" for letter in word.decode(errors="replace")
    )
