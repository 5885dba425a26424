"""Plans for the answers of a Postgres to statements that a rule has chosen.

A plan belongs to one group of messages: a Query, or messages up to a Sync. The server answers a group with one ReadyForQuery. `see`
gets each message of the answer, and returns the pieces that take its place, or None for the message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ...wire import postgres_stream as wire
from ..tap import Piece
from ..toxics.toxic import CLOSE
from .rule import Rule

ENDS = (wire.COMMAND_COMPLETE, wire.EMPTY_QUERY, wire.SUSPENDED, wire.ERROR)
"""Kinds of messages that end the answer to one statement. An error ends the answers to all statements of its group."""

ROWS = (wire.ROW, wire.COPY_DATA)
"""Kinds of messages that contain one row. The server sends each row of a COPY TO STDOUT in a message of its own."""

UNASKED = (wire.NOTICE, wire.NOTIFICATION, wire.PARAMETER_STATUS)
"""Kinds of messages that the server sends at any time."""

PREPARING = frozenset(b"12tn")
"""Kinds of messages that precede the execution of a statement: ParseComplete, BindComplete, ParameterDescription, NoData."""

COPIES = (wire.COPY_IN, wire.COPY_BOTH)
"""Kinds of messages by which the server waits for data of the client. They are no answer to the statement."""


class Plan(Protocol):
    """A plan for the answer to one group.

    Attributes:
        rule: the removal of this rule ends the plan; None for a plan that has to be carried out, as the request was changed.
    """

    rule: Rule | None

    def see(self, kind: int, message: bytes | memoryview) -> Sequence[Piece] | None:
        """Return the pieces for the next message of the answer. None leaves the message unchanged.

        Args:
            kind: of the message.
            message: with type and length. Of a long message, the beginning.
        """


class WriteError:
    """A plan that writes an error to the client.

    Args:
        error: the ErrorResponse.
        record: called when the error goes out.
    """

    def __init__(self, error: bytes, record: Callable[[], None]) -> None:
        self.rule: Rule | None = None
        self._error = error
        self._record = record

    def write(self) -> tuple[Piece, ...]:
        """Record the error, and return its piece."""
        self._record()
        return (self._error,)


class ReplaceError(WriteError):
    """Replace the error that has a mark by another one.

    Args:
        mark: bytes of the error's text.
    """

    def __init__(self, mark: bytes, error: bytes, record: Callable[[], None]) -> None:
        super().__init__(error, record)
        self._mark = mark

    def see(self, kind: int, message: bytes | memoryview) -> Sequence[Piece] | None:
        return self.write() if kind == wire.ERROR and self._mark in bytes(message) else None


class FailCommand(WriteError):
    """Replace the CommandComplete of a group by an error."""

    def see(self, kind: int, message: bytes | memoryview) -> Sequence[Piece] | None:
        return self.write() if kind == wire.COMMAND_COMPLETE else None


class DropReady:
    """Drop the ReadyForQuery of a group, in which another plan changes the rest.

    Args:
        plan: for the other messages.
    """

    def __init__(self, plan: Plan) -> None:
        self.rule: Rule | None = None
        self._plan = plan

    def see(self, kind: int, message: bytes | memoryview) -> Sequence[Piece] | None:
        return () if kind == wire.READY else self._plan.see(kind, message)


class ReadyOnly:
    """Drop the answer to a group that the client has not sent, except its ReadyForQuery and what the server sends unasked."""

    rule: Rule | None = None

    def see(self, kind: int, message: bytes | memoryview) -> Sequence[Piece] | None:
        return None if kind == wire.READY or kind in UNASKED else ()


class Closing:
    """A plan that closes the connection, at a place in the answer to one statement of the group.

    Args:
        rule: that has chosen the statement.
        record: called when the connection is closed.
        place: of the statement in its group, from 1.
    """

    def __init__(self, rule: Rule, record: Callable[[], None], place: int = 1) -> None:
        self.rule: Rule | None = rule
        self._closing_rule = rule
        self._record = record
        self._before = place - 1  # statements of the group whose answers come first
        self._closed = False

    def see(self, kind: int, message: bytes | memoryview) -> Sequence[Piece] | None:
        if self._closed:
            return ()
        if kind in UNASKED:
            return None
        if self._before:
            self._before -= kind in ENDS
            return None
        return self.see_own(kind, message)

    def see_own(self, kind: int, message: bytes | memoryview) -> Sequence[Piece] | None:
        """Return the pieces for a message of the answer to the statement, as `see` does."""
        raise NotImplementedError

    def close(self) -> tuple[Piece, ...]:
        """Return the pieces that close the connection, by a RST or by silence."""
        self._closed = True
        self._record()
        return self._closing_rule.close_pieces()


class Lose(Closing):
    """Close the connection when a statement was done, and pass nothing of its answer but what a COPY waits for."""

    _preparing = b""

    def see_own(self, kind: int, message: bytes | memoryview) -> Sequence[Piece] | None:
        if kind == wire.READY:
            return None  # the server has not come to the statement
        self.rule = None  # a part of the answer is lost, so the rest has to be
        if kind in COPIES:
            return (self._preparing + bytes(message),)
        if kind in PREPARING:
            self._preparing += message
        return self.close() if kind in ENDS else ()


class LoseFirst(Closing):
    """Close the connection at the first message of an answer, and pass nothing of the answer."""

    def see_own(self, kind: int, message: bytes | memoryview) -> Sequence[Piece] | None:
        return self.close()


class CutRows(Closing):
    """Close the connection behind a number of rows of a statement's answer, or at the end of an answer with fewer rows.

    Args:
        rows: to pass.
    """

    def __init__(self, rule: Rule, record: Callable[[], None], place: int, rows: int) -> None:
        super().__init__(rule, record, place)
        self._rows = rows

    def see_own(self, kind: int, message: bytes | memoryview) -> Sequence[Piece] | None:
        if kind in ROWS and self._rows:
            self._rows -= 1
            return None
        return self.close() if kind in ROWS or kind in ENDS else None


class CutBytes(Closing):
    """Close the connection behind a number of bytes of a statement's answer, or at its end if it is shorter.

    A message of more than `wire.MAX_HEAD` bytes is cut there at the latest.

    Args:
        size: bytes to pass.
    """

    def __init__(self, rule: Rule, record: Callable[[], None], place: int, size: int) -> None:
        super().__init__(rule, record, place)
        self._left = size

    def see_own(self, kind: int, message: bytes | memoryview) -> Sequence[Piece] | None:
        if kind == wire.READY:
            return self.close()
        length = 1 if kind == wire.SINGLE_BYTE else 1 + int.from_bytes(message[1:5], "big")
        if length <= self._left:
            self._left -= length
            return None
        return (bytes(message[: self._left]), *self.close())


class End(WriteError):
    """End the session with an error in place of the next answer."""

    def see(self, kind: int, message: bytes | memoryview) -> Sequence[Piece] | None:
        return self.pieces()

    def pieces(self) -> Sequence[Piece]:
        """Return the error and the end of the session."""
        return (*self.write(), CLOSE)
