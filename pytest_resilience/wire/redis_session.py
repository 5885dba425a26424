"""The state of one connection of a client to Redis, and the command to which each reply belongs.

Redis answers each command with one reply, in order, with these exceptions: pushes; SUBSCRIBE and its relatives, whose confirmations are
pushes under RESP3 and arrays under RESP2; CLIENT REPLY OFF and SKIP; MONITOR, after which lines come without a command.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import repeat
from typing import Any

from .redis_stream import Command, Reply

SESSION_COMMANDS = frozenset(
    [
        "hello",
        "auth",
        "client",
        "select",
        "multi",
        "exec",
        "discard",
        "reset",
        "quit",
        "monitor",
        "sync",
        "psync",
        "subscribe",
        "psubscribe",
        "ssubscribe",
        "unsubscribe",
        "punsubscribe",
        "sunsubscribe",
    ]
)
"""The commands that change the state of a connection. A parser has to keep their words."""

HANDSHAKE = frozenset(
    (
        "hello",
        "auth",
        "select",
        "readonly",
        "client setinfo",
        "client setname",
        "client maint_notifications",
        "client id",
        "client tracking",
    )
)
"""The commands that drivers send when they connect, without a call of the user's code."""

_SUBSCRIBING = frozenset(["subscribe", "psubscribe", "ssubscribe", "unsubscribe", "punsubscribe", "sunsubscribe"])
_CONFIRMATIONS = frozenset(name.encode() for name in _SUBSCRIBING)
_MESSAGES = frozenset((b"message", b"pmessage", b"smessage"))
_ERRORS = frozenset(b"-!")
_ARRAY = ord("*")


class Expected:
    """A command whose reply has not come yet.

    Args:
        command: the command.
        replies: the number of messages that answer it: confirmations of SUBSCRIBE and its relatives, otherwise 1.

    Attributes:
        act: what the user of the session attaches to it; None for nothing.
    """

    __slots__ = ("act", "name", "replies", "subscribes", "words")

    def __init__(self, name: str, words: tuple[bytes, ...] = (), *, replies: int = 1, subscribes: bool = False) -> None:
        self.name = name
        self.words = words
        self.replies = replies
        self.subscribes = subscribes
        self.act: Any = None


MAX_PLAIN = 4096
"""Commands that are searched for others than PLAIN at once."""

PLAIN = Expected("")
"""A command that changes no state, and on whose reply no rule acts. All such commands share it, because it is never changed."""


class Session:
    """The state of one connection.

    Attributes:
        outstanding: the commands whose reply has not come yet, in order.
        protocol: 2 or 3, for RESP2 and RESP3.
        client_name: as set by CLIENT SETNAME or HELLO; "" without one.
        in_multi: MULTI was sent, and neither EXEC nor DISCARD since.
        subscribed: SUBSCRIBE or a relative was sent, so arrays of RESP2 may be pushes.
        is_stream: replies have no commands any more, since MONITOR or SYNC.
    """

    __slots__ = ("_muted", "_mutes", "client_name", "in_multi", "is_stream", "outstanding", "protocol", "subscribed")

    def __init__(self) -> None:
        self.outstanding: deque[Expected] = deque()
        self.protocol = 2
        self.client_name = ""
        self.in_multi = False
        self.subscribed = False
        self.is_stream = False
        self._muted = False  # CLIENT REPLY OFF
        self._mutes = 0  # commands that CLIENT REPLY SKIP leaves without a reply

    def sent(self, command: Command) -> Expected | None:
        """Take a command that goes to the server. Return it as an expected reply, or None if there will be none."""
        name, words = command.name, command.words
        if name == "client" and _word(words, 1) == "reply" and not self.in_multi:
            self._on_client_reply(_word(words, 2))
            if _word(words, 2) != "on":
                return None
        expected = Expected(name, words)
        if name in _SUBSCRIBING and not self.in_multi:
            expected = Expected(name, words, replies=max(1, command.word_count - 1), subscribes=True)
            self.subscribed = True
        elif change := _CHANGES.get(name):
            change(self, words)
        return None if self._is_muted() else self._expect(expected)

    def sent_plain(self, number: int = 1) -> None:
        """Take commands that are none of `SESSION_COMMANDS`, and on whose replies no rule acts."""
        if self._mutes:
            skipped = min(self._mutes, number)
            self._mutes -= skipped
            number -= skipped
        if not self._muted:
            self.outstanding.extend(repeat(PLAIN, number))

    def replied_plain(self, number: int) -> bool:
        """Take replies without pushes and arrays. Return False if a command waits that is not PLAIN, and take none then."""
        outstanding = self.outstanding
        waiting = len(outstanding)
        if not number <= waiting <= MAX_PLAIN or outstanding.count(PLAIN) < waiting:
            return False
        if number == waiting:
            outstanding.clear()
        else:
            for _ in range(number):
                outstanding.popleft()
        return True

    @property
    def is_simple(self) -> bool:
        """True if each message but pushes and attributes is the one reply to the first expected command, if that is PLAIN."""
        return not (self.subscribed or self.is_stream)

    def replied(self, reply: Reply) -> Expected | None:
        """Take a message of the server. Return the command that it answers, if it is the last message that does so."""
        head = self.outstanding[0] if self.outstanding else None
        if head is None or not self.answers(reply, head):
            return None
        if head is PLAIN:
            return self.outstanding.popleft()
        head.replies -= 1
        if reply.sign in _ERRORS:
            head.replies = 0
            self._on_error(head)
        elif head.name == "hello":
            self._on_hello(head)
        if head.replies:
            return None
        if head.name in ("monitor", "sync", "psync") and reply.sign not in _ERRORS:
            self.is_stream = True
        return self.outstanding.popleft()

    def assume_answered(self) -> None:
        """Take all outstanding commands as answered without errors, because the replies are not followed."""
        for expected in self.outstanding:
            if expected.name == "hello":
                self._on_hello(expected)
        self.outstanding.clear()

    def answers(self, reply: Reply, head: Expected) -> bool:
        """True if a message, complete or not, is an answer to the first expected command."""
        if reply.kind == "attribute" or self.is_stream:
            return False
        if reply.kind == "push" or self._is_array_push(reply):
            return head.subscribes and reply.label.decode("latin-1") == head.name
        return not head.subscribes or reply.sign in _ERRORS

    def _is_array_push(self, reply: Reply) -> bool:
        if self.protocol == 3 or not self.subscribed or reply.sign != _ARRAY:
            return False
        return reply.label in _MESSAGES or reply.label in _CONFIRMATIONS

    def _expect(self, expected: Expected) -> Expected:
        self.outstanding.append(expected)
        return expected

    def _on_client_reply(self, mode: str) -> None:
        self._muted = mode == "off"
        self._mutes = 1 if mode == "skip" else 0

    def _is_muted(self) -> bool:
        if self._mutes:
            self._mutes -= 1
            return True
        return self._muted

    def _on_error(self, head: Expected) -> None:
        if head.name == "multi":
            self.in_multi = False

    def _on_hello(self, head: Expected) -> None:
        if _word(head.words, 1) in ("2", "3"):
            self.protocol = int(head.words[1])

    def _begin_multi(self, words: tuple[bytes, ...]) -> None:
        self.in_multi = True

    def _end_multi(self, words: tuple[bytes, ...]) -> None:
        self.in_multi = False

    def _reset(self, words: tuple[bytes, ...]) -> None:
        self.in_multi = self.subscribed = self._muted = False
        self.protocol = 2
        self.client_name = ""

    def _name_by_client(self, words: tuple[bytes, ...]) -> None:
        if _word(words, 1) == "setname" and len(words) > 2:
            self.client_name = words[2].decode(errors="replace")

    def _name_by_hello(self, words: tuple[bytes, ...]) -> None:
        options = [word.lower() for word in words]
        if b"setname" in options[:-1]:
            self.client_name = words[options.index(b"setname") + 1].decode(errors="replace")


_CHANGES: dict[str, Callable[[Session, tuple[bytes, ...]], None]] = {
    "multi": Session._begin_multi,
    "exec": Session._end_multi,
    "discard": Session._end_multi,
    "reset": Session._reset,
    "client": Session._name_by_client,
    "hello": Session._name_by_hello,
}


def _word(words: tuple[bytes, ...], place: int) -> str:
    """Return a word in lower case, or "" if there is none at that place."""
    return words[place].decode("latin-1").lower() if len(words) > place else ""
