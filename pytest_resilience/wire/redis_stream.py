"""The messages of Redis in a stream of bytes: commands of a client, and replies of a server.

Both parsers take a stream in pieces of any size, and return the messages that are complete, with the offsets of their first byte and
of the byte behind them, counted from the beginning of the stream. They copy no bodies. At bytes of another protocol they stop for good,
and `lost_at` is the offset of those bytes; they never raise.

Sources: the specification of RESP2 and RESP3 (https://redis.io/docs/latest/develop/reference/protocol-spec/), and the function
processInputBuffer of Redis for inline commands and limits.
"""

from __future__ import annotations

import re
from collections.abc import Container
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from .redis_inline import split_words

Piece: TypeAlias = "bytes | bytearray | memoryview"

MAX_LINE = 65536  # bytes of an inline command or a line of a reply; Redis has the same limit for inline commands
MAX_WORDS = 1_048_576  # of a command, as in Redis
KEPT_BYTES = 512  # of a word that is kept
KEPT_WORDS = 4096  # of a command
MAX_LABEL = 32  # bytes

_HEAD = re.compile(rb"\*([1-9]\d{0,6})\r\n\$(\d{1,3})\r\n([^\r\n]*)\r\n")
_COUNT = re.compile(rb"\*(-?\d{1,7})\r\n")
_SIZE = re.compile(rb"\$(\d{1,10})\r\n")
_NAME = re.compile(rb"[!-~]*")
_INLINE_NAME = re.compile(rb"[A-Za-z][\w.|-]*")
_INLINE_BEGIN = frozenset(b"\r\n\t " + bytes(range(0x21, 0x7F)))
_LINE_END = re.compile(rb"\n")

# Groups: a whole element without a body; the size of a body; the sign and the count of an aggregate.
_ELEMENT = re.compile(rb"([+\-:,_#(][^\r\n]{0,65533}\r\n|[$=!*]-1\r\n)|[$=!](\d{1,10})\r\n|([*%~>|])(\d{1,10})\r\n")
_SCALAR = re.compile(rb"[+\-:,_#(][^\r\n]{0,65533}\r\n|[$=!]-1\r\n|[$=!](\d{1,10})\r\n")
_REPLY_SIGNS = frozenset(b"+-:,_#($=!*%~>|")
_LABELLED_SIGNS = frozenset(b"*>")
_PAIRS = frozenset(b"%|")
_ATTRIBUTE = ord("|")
_KINDS = {ord(">"): "push", _ATTRIBUTE: "attribute"}


class Command(NamedTuple):
    """A command of a client.

    Args:
        name: in lower case, such as "get".
        start: the offset of its first byte.
        end: the offset behind its last byte.
        word_count: the number of words, the name included.
        words: the words, the name included, up to 4096 words and 512 bytes of each; empty for a command that `keep` does not contain.
    """

    name: str
    start: int
    end: int
    word_count: int
    words: tuple[bytes, ...] = ()


class Unfinished(NamedTuple):
    """A command of which the last bytes have not come yet.

    Args:
        start: the offset of its first byte.
        name: in lower case; None while it is incomplete.
        words: the complete words that are kept.
    """

    start: int
    name: str | None
    words: tuple[bytes, ...]


class Reply(NamedTuple):
    """A message of the server.

    Args:
        kind: "reply", "push" (RESP3; no reply to a command) or "attribute" (RESP3; it belongs to the reply behind it).
        start: the offset of its first byte.
        end: the offset behind its last byte.
        sign: the first byte, such as 45 for the "-" of an error.
        label: the first element of a push or an array, such as b"message"; empty if it is long or no text.
    """

    kind: str
    start: int
    end: int
    sign: int
    label: bytes = b""


class Everything:
    """A container of all names, for `Commands.keep`."""

    def __contains__(self, name: object) -> bool:
        return True


def begins_command(data: Piece) -> bool:
    """True if bytes begin with the count, the size and the complete name of a command."""
    found = _HEAD.match(data)
    return found is not None and int(found[2]) == len(found[3])


class Commands:
    """The commands in the stream of a client.

    Args:
        keep: the names of the commands whose words are kept.
        offset: the offset of the first byte that comes.

    Attributes:
        keep: as above. A new value is for the commands that begin later.
        lost_at: the offset of the first bytes that are no command of Redis; None up to then.
    """

    __slots__ = (
        "_body",
        "_count",
        "_left",
        "_line",
        "_name",
        "_offset",
        "_start",
        "_word",
        "_words",
        "keep",
        "lost_at",
    )

    def __init__(self, keep: Container[str] = (), *, offset: int = 0) -> None:
        self.keep = keep
        self.lost_at: int | None = None
        self._offset = offset
        self._line = b""  # the begin of a line that is incomplete
        self._start = offset
        self._count = 0  # words of the command
        self._left = 0  # words that are to come
        self._body = 0  # bytes of the present word that are to come, those of its line end included
        self._name: str | None = None
        self._words: list[bytes] = []
        self._word: bytearray | None = None  # the present word, if it is kept

    def feed(self, data: Piece) -> list[Command]:
        """Take the next bytes. Return the commands that they complete."""
        found: list[Command] = []
        at, end = 0, len(data)
        while at < end and self.lost_at is None:
            if self._body:
                at = self._take_body(data, at, found)
            elif self._line or self._left:
                at = self._take_line(data, at, found)
            else:
                at = self._take_whole(data, at, found)
                if at < end:
                    at = self._begin(data, at, found)
        self._offset += end
        return found

    @property
    def is_between(self) -> bool:
        """True if the last byte was the end of a command."""
        return not (self._left or self._line)

    def skip(self, size: int) -> None:
        """Take bytes that are whole commands, without reading them."""
        self._offset += size

    @property
    def unfinished(self) -> Unfinished | None:
        """The command of which some bytes have come, or None between two commands."""
        if self._left or self._line:
            return Unfinished(self._start, self._name, tuple(self._words))
        return None

    def _take_whole(self, data: Piece, at: int, found: list[Command]) -> int:
        """Take the commands that are complete in `data`. Return the place behind them."""
        end, offset = len(data), self._offset
        head, size = _HEAD.match, _SIZE.match
        while match := head(data, at):
            count, length, name = match.groups()
            if (
                int(length) != len(name)
                or len(name) > KEPT_BYTES
                or int(count) > MAX_WORDS
                or not _NAME.fullmatch(name)
            ):
                break
            place = match.end()
            lowered = _lowered(name)
            if lowered in self.keep:
                whole = self._words_of(data, place, int(count) - 1, [name])
                if whole is None:
                    break
                place, words = whole
            else:
                words = ()
                for _ in range(int(count) - 1):
                    following = size(data, place)
                    if following is None:
                        return at
                    place = following.end() + int(following[1]) + 2
            if place > end:
                break
            found.append(Command(lowered, offset + at, offset + place, int(count), words))
            at = place
        return at

    @staticmethod
    def _words_of(data: Piece, place: int, left: int, words: list[bytes]) -> tuple[int, tuple[bytes, ...]] | None:
        """Return the place behind a command and its words, or None if it is incomplete."""
        for _ in range(left):
            match = _SIZE.match(data, place)
            if match is None:
                return None
            begin, size = match.end(), int(match[1])
            place = begin + size + 2
            if len(words) < KEPT_WORDS:
                words.append(bytes(data[begin : begin + min(size, KEPT_BYTES)]))
        return place, tuple(words)

    def _begin(self, data: Piece, at: int, found: list[Command]) -> int:
        """Take the first line of a command that is inline or incomplete."""
        self._start = self._offset + at
        self._name = None
        self._words = []
        if data[at] not in _INLINE_BEGIN:
            self.lost_at = self._start
            return at
        return self._take_line(data, at, found)

    def _take_line(self, data: Piece, at: int, found: list[Command]) -> int:
        """Take the rest of a line. Return the place behind it."""
        match = _LINE_END.search(data, at)
        stop = match.end() if match else len(data)
        line = self._line + bytes(data[at : min(stop, at + MAX_LINE + 1)])
        self._line = b"" if match else line
        if len(line) > MAX_LINE:
            self._lose()
        elif match:
            self._on_line(line, self._offset + stop, found)
        return stop

    def _on_line(self, line: bytes, end: int, found: list[Command]) -> None:
        if self._left:
            size = _SIZE.fullmatch(line)
            if size is None:
                self._lose()
                return
            self._body = int(size[1]) + 2
            is_kept = self._name is None or (self._name in self.keep and len(self._words) < KEPT_WORDS)
            self._word = bytearray() if is_kept else None
        elif line.startswith(b"*"):
            count = _COUNT.fullmatch(line)
            if count is None or int(count[1]) > MAX_WORDS:
                self._lose()
                return
            self._count = self._left = max(0, int(count[1]))
        else:
            self._on_inline(split_words(line), end, found)

    def _on_inline(self, words: list[bytes] | None, end: int, found: list[Command]) -> None:
        if words is None or (words and not _INLINE_NAME.fullmatch(words[0])):
            self._lose()
            return
        if not words:
            return  # an empty line, which the server ignores
        name = _lowered(words[0])
        kept = tuple(word[:KEPT_BYTES] for word in words[:KEPT_WORDS]) if name in self.keep else ()
        found.append(Command(name, self._start, end, len(words), kept))

    def _take_body(self, data: Piece, at: int, found: list[Command]) -> int:
        """Take bytes of a word. Return the place behind them."""
        taken = min(len(data) - at, self._body)
        if self._word is not None and len(self._word) < KEPT_BYTES:
            text = min(taken, max(0, self._body - 2))  # without the line end
            self._word += data[at : at + min(text, KEPT_BYTES - len(self._word))]
        self._body -= taken
        if not self._body:
            self._on_word(self._offset + at + taken, found)
        return at + taken

    def _on_word(self, end: int, found: list[Command]) -> None:
        self._left -= 1
        word = bytes(self._word) if self._word is not None else None
        if self._name is None:
            assert word is not None, "the name is always kept"
            if not _NAME.fullmatch(word):
                self._lose()
                return
            self._name = _lowered(word)
            word = word if self._name in self.keep else None
        if word is not None:
            self._words.append(word)
        if not self._left:
            found.append(Command(self._name, self._start, end, self._count, tuple(self._words)))

    def _lose(self) -> None:
        self.lost_at = self._start
        self._line = b""
        self._left = self._body = 0


class Replies:
    """The replies and pushes in the stream of a server.

    Args:
        offset: the offset of the first byte that comes.

    Attributes:
        lost_at: the offset of the first bytes that are no message of Redis; None up to then.
    """

    __slots__ = (
        "_body",
        "_is_begun",
        "_label",
        "_labels_next",
        "_left",
        "_line",
        "_offset",
        "_sign",
        "_start",
        "_takes_label",
        "lost_at",
    )

    def __init__(self, *, offset: int = 0) -> None:
        self.lost_at: int | None = None
        self._offset = offset
        self._line = b""  # the begin of a line that is incomplete
        self._start = offset
        self._left = 0  # elements of the present message that are to come
        self._body = 0  # bytes of the present element that are to come, those of its line end included
        self._sign = 0
        self._label = b""
        self._is_begun = False  # the first line of the present message has come
        self._labels_next = False  # the next element is the label
        self._takes_label = False  # the present body is the label

    def feed(self, data: Piece) -> list[Reply]:
        """Take the next bytes. Return the messages that they complete."""
        found: list[Reply] = []
        at, end = 0, len(data)
        while at < end and self.lost_at is None:
            if self._body:
                at = self._take_body(data, at, found)
            elif self._line:
                at = self._take_line(data, at, found)
            elif self._left:
                at = self._take_element(data, at, found)
            else:
                at = self._take_whole(data, at, found)
                if at < end:
                    self._begin(data[at], self._offset + at)
                    at = self._take_element(data, at, found)
        self._offset += end
        return found

    @property
    def is_between(self) -> bool:
        """True if the last byte was the end of a message."""
        return not self._left

    def skip(self, size: int) -> None:
        """Take bytes that are whole replies, without reading them."""
        self._offset += size

    @property
    def unfinished(self) -> Reply | None:
        """The message of which some bytes have come, up to their end, or None between two messages."""
        return self._message(self._offset) if self._left else None

    def _take_whole(self, data: Piece, at: int, found: list[Reply]) -> int:
        """Take the replies that are complete in `data` and no aggregates. Return the place behind them."""
        end, offset, next_match = len(data), self._offset, _SCALAR.match
        while match := next_match(data, at):
            place = match.end() if match.lastindex is None else match.end() + int(match[1]) + 2
            if place > end:
                break
            found.append(Reply("reply", offset + at, offset + place, data[at]))
            at = place
        return at

    def _begin(self, sign: int, start: int) -> None:
        self._start = start
        self._left = 1
        self._sign = sign
        self._label = b""
        self._is_begun = self._labels_next = False

    def _take_element(self, data: Piece, at: int, found: list[Reply]) -> int:
        match = _ELEMENT.match(data, at)
        if match is None:
            return self._take_line(data, at, found)
        self._on_element(match, self._offset + match.end(), found)
        return match.end()

    def _take_line(self, data: Piece, at: int, found: list[Reply]) -> int:
        """Take the rest of a line. Return the place behind it."""
        if not self._line and data[at] not in _REPLY_SIGNS:
            self._lose()
            return at
        match = _LINE_END.search(data, at)
        stop = match.end() if match else len(data)
        line = self._line + bytes(data[at : min(stop, at + MAX_LINE + 1)])
        self._line = b"" if match else line
        element = _ELEMENT.fullmatch(line) if match else None
        if len(line) > MAX_LINE or (match and element is None):
            self._lose()
        elif element:
            self._on_element(element, self._offset + stop, found)
        return stop

    def _on_element(self, match: re.Match[bytes], end: int, found: list[Reply]) -> None:
        line, size, sign, count = match.groups()
        is_label, self._labels_next = self._labels_next, False
        is_outermost, self._is_begun = not self._is_begun, True
        if size is not None:
            self._body = int(size) + 2
            self._takes_label = is_label and int(size) <= MAX_LABEL
            return
        if line is None:
            self._on_aggregate(sign[0], int(count), is_outermost=is_outermost)
        else:
            self._left -= 1
            if is_label and line.startswith(b"+") and len(line) <= MAX_LABEL + 3:
                self._label = line[1:-2]
        if not self._left:
            found.append(self._message(end))

    def _on_aggregate(self, sign: int, count: int, *, is_outermost: bool) -> None:
        self._labels_next = is_outermost and sign in _LABELLED_SIGNS and count > 0
        self._left += count * (2 if sign in _PAIRS else 1)
        if is_outermost or sign != _ATTRIBUTE:  # an attribute inside of a message is no element of it
            self._left -= 1

    def _take_body(self, data: Piece, at: int, found: list[Reply]) -> int:
        """Take bytes of an element. Return the place behind them."""
        taken = min(len(data) - at, self._body)
        if self._takes_label:
            text = min(taken, max(0, self._body - 2))  # without the line end
            self._label += bytes(data[at : at + text])
        self._body -= taken
        if not self._body:
            self._takes_label = False
            self._left -= 1
            if not self._left:
                found.append(self._message(self._offset + at + taken))
        return at + taken

    def _message(self, end: int) -> Reply:
        return Reply(_KINDS.get(self._sign, "reply"), self._start, end, self._sign, self._label)

    def _lose(self) -> None:
        self.lost_at = self._start
        self._line = b""
        self._left = self._body = 0


@lru_cache(maxsize=1024)
def _lowered(name: bytes) -> str:
    return name.decode("latin-1").lower()
