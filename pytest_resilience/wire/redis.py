"""The protocol of Redis, RESP2, without sockets."""

from __future__ import annotations

from typing import TypeAlias


def encode_command(*words: str | bytes) -> bytes:
    """Return a command as bytes for the server."""
    encoded = [word.encode() if isinstance(word, str) else word for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)


def first_reply(data: bytes) -> bytes | None:
    """Return the first reply in `data`, or None while it is incomplete.

    Returns:
        A simple string, error or integer with its sign ("+PONG", "-LOADING ..."), or the content of a bulk string. A null bulk
        string is empty.

    Raises:
        ValueError: the data is no reply of these kinds.
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


def first_two_replies(data: bytes) -> tuple[bytes, bytes] | None:
    """Return the first two replies in `data`, or None while they are incomplete. The first reply is a line.

    Raises:
        ValueError: the second reply is of a kind that `first_reply` does not read.
    """
    line, _, rest = data.partition(b"\r\n")
    second = first_reply(rest)
    return (line, second) if second is not None else None


def parse_info(text: bytes | str) -> dict[str, str]:
    """Return the fields of a reply to INFO."""
    text = text if isinstance(text, str) else text.decode(errors="replace")
    lines = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, colon, value in lines if colon}


Reply: TypeAlias = "str | int | ErrorReply | list[Reply] | None"


FAST_ARRAY_SIZE = 50  # number of texts from which on `_fast_texts` is faster than one by one


class ErrorReply(Exception):
    """An error of the server, such as "READONLY You can't write against a read only replica."."""


class ReplyReader:
    """A buffer of bytes of the server that returns them as replies."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        """Add bytes that the server sent."""
        self._data += data

    def next_reply(self) -> tuple[Reply] | None:
        """Return the next reply in a tuple of one, or None while the reply is incomplete. Texts are decoded.

        Raises:
            ValueError: the bytes are no reply of RESP2.
        """
        try:
            reply, end = _reply(self._data, 0)
        except _Incomplete:
            return None
        del self._data[:end]
        return (reply,)


class _Incomplete(Exception):
    """More bytes are needed."""


def _reply(data: bytearray, begin: int) -> tuple[Reply, int]:
    line, end = _line(data, begin)
    kind, text = line[:1], line[1:]
    match kind:
        case b"+":
            return text.decode(errors="replace"), end
        case b"-":
            return ErrorReply(text.decode(errors="replace")), end
        case b":":
            return int(text), end
        case b"$":
            size = int(text)
            if size < 0:
                return None, end
            if len(data) < end + size + 2:
                raise _Incomplete
            return data[end : end + size].decode(errors="replace"), end + size + 2
        case b"*":
            if (texts := _fast_texts(data, end, int(text))) is not None:
                return texts
            items: list[Reply] = []
            for _ in range(int(text)):  # -1 is a null array, the reply of blocking commands only
                item, end = _reply(data, end)
                items.append(item)
            return items, end
    raise ValueError(f"not a Redis reply: {bytes(line[:40])!r}")


def _fast_texts(data: bytearray, begin: int, count: int) -> tuple[Reply, int] | None:
    """Return an array of texts without line ends, five times faster than one by one. None for other and incomplete arrays."""
    if count < FAST_ARRAY_SIZE:
        return None
    parts = data[begin:].split(b"\r\n", 2 * count)
    sizes, texts = parts[: 2 * count : 2], parts[1 : 2 * count : 2]
    if len(parts) <= 2 * count or any(size != b"$%d" % len(text) for size, text in zip(sizes, texts, strict=True)):
        return None
    return [text.decode(errors="replace") for text in texts], len(data) - len(parts[-1])


def _line(data: bytearray, begin: int) -> tuple[bytes, int]:
    end = data.find(b"\r\n", begin)
    if end < 0:
        raise _Incomplete
    return bytes(data[begin:end]), end + 2


def parse_client_list(text: str) -> list[dict[str, str]]:
    """Return the clients in a reply to CLIENT LIST, a dict for each."""
    pairs = ([word.partition("=") for word in line.split(" ")] for line in text.splitlines())
    return [{name: value for name, equals, value in row if equals} for row in pairs]


def parse_info_field(value: str) -> dict[str, str]:
    """Return the parts of a field of INFO such as "keys=3,expires=0"."""
    return {name: part for name, equals, part in (each.partition("=") for each in value.split(",")) if equals}
