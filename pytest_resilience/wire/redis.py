"""Redis' protocol, RESP2: bytes to replies. No sockets."""

from __future__ import annotations


def command(*words: str | bytes) -> bytes:
    """A command as the server reads it."""
    encoded = [word.encode() if isinstance(word, str) else word for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)


def first_reply(data: bytes) -> bytes | None:
    """The first reply in `data`: a simple string or error with its sign ("+PONG", "-LOADING ..."), or the content of a bulk string.

    Returns:
        None when it is not complete yet. A null bulk string is empty.

    Raises:
        ValueError: this is no reply of one of these kinds.
    """
    line, end, rest = data.partition(b"\r\n")
    if not end:
        return None
    if line[:1] in (b"+", b"-", b":"):
        return line
    if line[:1] != b"$":
        raise ValueError(f"not a Redis reply: {line[:40]!r}")
    size = int(line[1:])
    if size < 0:
        return b""
    return rest[:size] if len(rest) >= size + 2 else None


def info_fields(text: bytes) -> dict[str, str]:
    """The answer to INFO as a dict."""
    lines = (line.partition(":") for line in text.decode(errors="replace").splitlines() if not line.startswith("#"))
    return {name: value for name, colon, value in lines if colon}
