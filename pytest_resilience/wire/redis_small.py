"""Data that consists of whole small commands, or of whole scalar replies, recognized by one regular expression.

This is for the data of most programs, in which a step of Python for each message would cost more than everything else that a
proxy does. All other data, and every message that matters, is for the parsers of `redis_stream`. The expressions compare each size with the
bytes behind it, so that no value is taken for a command.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, lru_cache

MAX_SIZE = 255
"""Bytes of a word or a reply, at most."""

MAX_DATA = 65536
"""Bytes of data that are searched at once."""

ZERO = ord("0")
MAX_COUNTED = ord("3")
"""The largest number of words, as a digit, that the expression compares with the words behind it. In longer commands, only the words of
the last one are counted, because the server has counted those of the commands before, and accepts no other number."""

_NAME = re.compile(rb"\*([1-9])\r\n\$(\d\d?)\r\n([!-~]+)\r\n")


def small_commands(data: bytes | memoryview) -> list[bytes] | None:
    """Return the head of each command: the count of its words, and its name with its size.

    Args:
        data: the bytes from the beginning of a command on; not empty.

    Returns:
        None if the bytes are not exactly whole commands of up to 9 words and MAX_SIZE bytes for each word.
    """
    if len(data) > MAX_DATA:
        return None
    found = _commands()(data)
    last, head = found[-1]
    if not head or (head[1] > MAX_COUNTED and len(_words()(last, len(head))) != head[1] - ZERO - 1):
        return None
    return [head for _, head in found]


@lru_cache(maxsize=4096)
def name_of_head(head: bytes) -> str | None:
    """Return the name of a command in lower case, or None if it does not have its size.

    Args:
        head: as returned by `small_commands`.
    """
    match = _NAME.fullmatch(head)
    return match[3].decode().lower() if match and int(match[2]) == len(match[3]) else None


def small_replies(data: bytes | memoryview) -> int:
    """Return the number of replies. 0 if the bytes are not exactly whole scalar replies of up to MAX_SIZE bytes each.

    Args:
        data: the bytes from the beginning of a reply on; not empty.
    """
    if len(data) > MAX_DATA:
        return 0
    found = _replies()(data)
    return len(found) if found[-1] else 0


def _sized() -> bytes:
    """Return an expression for a size and as many bytes, as a tree of the digits of the size."""

    def of(prefix: str) -> str:
        longer = [f"{prefix}{digit}" for digit in range(10) if prefix != "0"]
        branches = [f"{each[-1]}{of(each)}" for each in longer if int(each) <= MAX_SIZE]
        body = rf"\r\n.{{{prefix}}}\r\n"
        return f"(?:{'|'.join([body, *branches])})"

    return "|".join(f"{digit}{of(str(digit))}" for digit in range(10)).encode()


# Each expression ends with an alternative without groups. It takes all the rest of the data if that begins with something else, so
# the data is as expected if the last group is not empty.


@cache
def _commands() -> Callable[[bytes | memoryview], list[tuple[bytes, bytes]]]:
    name, word = rb"\r\n\$\d\d?\r\n[!-~]+\r\n", rb"\$(?:%b)" % _sized()
    head = rb"(?=(\*[1-9]%b))" % name
    counts = rb"1%b|2%b%b|3%b(?:%b){2}|[4-9]%b(?:%b)*+" % (name, name, word, name, word, name, word)
    return re.compile(rb"(%b\*(?:%b))|.+" % (head, counts), re.DOTALL).findall


@cache
def _words() -> Callable[[bytes, int], list[bytes]]:
    return re.compile(rb"\$(?:%b)" % _sized(), re.DOTALL).findall


@cache
def _replies() -> Callable[[bytes | memoryview], list[bytes]]:
    line = rb"[+\-:,_#(][^\r\n]*\r\n|\$-1\r\n"
    return re.compile(rb"(%b|\$(?:%b))|.+" % (line, _sized()), re.DOTALL).findall
