"""The words of inline commands."""

from __future__ import annotations

import pytest

from pytest_resilience.wire.redis_inline import split_words
from pytest_resilience.wire.redis_stream import Commands

CASES = [
    (b"SET a 1\r\n", [b"SET", b"a", b"1"]),
    (b"  set\ta  1 \n", [b"set", b"a", b"1"]),
    (b"\r\n", []),
    (b'SET "a b" 1\r\n', [b"SET", b"a b", b"1"]),
    (b"SET 'a b' ''\r\n", [b"SET", b"a b", b""]),
    (rb'SET "\x41\n\"\\\q\xz" 1', [b"SET", b'A\n"\\qxz', b"1"]),
    (rb"SET 'it\'s \n \"' 1", [b"SET", rb"it's \n \"", b"1"]),
    (b"SET a'b c' 1", [b"SET", b"ab c", b"1"]),
    (b"SET \"a'b\" 'c\"d'", [b"SET", b"a'b", b'c"d']),
    (b'SET "a b 1\r\n', None),
    (b"SET 'a b 1\r\n", None),
    (b'SET "a"b 1\r\n', [b"SET", b"ab", b"1"]),
    (rb"SET 'a\'", [b"SET", b"a\\"]),
    (rb'SET "a\"', [b"SET", b"a\\"]),
]


@pytest.mark.parametrize(("line", "words"), CASES)
def test_words_are_those_of_the_server(line: bytes, words: list[bytes] | None) -> None:
    assert split_words(line) == words


def test_a_stream_has_the_words_without_quotes() -> None:
    commands = Commands({"set"})
    (found,) = commands.feed(b'SET "a b" 1\r\n')
    assert (found.name, found.words, commands.lost_at) == ("set", (b"SET", b"a b", b"1"), None)


def test_a_stream_with_unbalanced_quotes_can_not_be_followed() -> None:
    commands = Commands({"set"})
    assert (commands.feed(b'SET "a b 1\r\n'), commands.lost_at) == ([], 0)
