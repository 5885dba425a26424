"""The direction from a Redis to its client, with the acts of rules on single replies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from ...wire.redis_session import PLAIN, Expected, Session
from ...wire.redis_small import small_replies
from ...wire.redis_stream import Command, Replies, Reply
from ..tap import Back, Item, Piece
from ..toxics.toxic import CLOSE
from .rule import Rule


class Change(NamedTuple):
    """Pieces in place of a part of the stream.

    Args:
        start, end: offsets in the stream.
        pieces: what goes on instead.
    """

    start: int
    end: int
    pieces: Sequence[Piece]


class Act(Protocol):
    """The effect of a rule on the reply to one command.

    Attributes:
        rule: with the removal of which the act ends; None for an act that has to be completed.
    """

    rule: Rule | None

    def see(self, reply: Reply, *, is_complete: bool) -> Change | None:
        """Return the change of a reply, of which all bytes have come or some. None to leave these bytes alone."""

    def keeps(self, reply: Reply) -> bool:
        """True if an incomplete reply has to be kept back."""


class Cut:
    """Close the connection behind a number of bytes of a reply, or behind a shorter reply.

    Args:
        size: bytes to pass. With 0, the reply is lost at its first byte.
        rule: that has chosen the command.
        record: called when the connection is closed.
    """

    def __init__(self, size: int, rule: Rule, record: Callable[[], None]) -> None:
        self._size = size
        self.rule: Rule | None = rule
        self._closing_rule = rule
        self._record = record

    def see(self, reply: Reply, *, is_complete: bool) -> Change | None:
        if not is_complete and reply.end - reply.start < self._size:
            return None
        self._record()
        return Change(min(reply.start + self._size, reply.end), reply.end, self._closing_rule.close_pieces())

    def keeps(self, reply: Reply) -> bool:
        return False


class Replace:
    """Pass other bytes in place of a reply.

    Args:
        data: the bytes.
    """

    rule: Rule | None = None

    def __init__(self, data: bytes) -> None:
        self._data = data

    def see(self, reply: Reply, *, is_complete: bool) -> Change | None:
        return Change(reply.start, reply.end, (self._data,)) if is_complete else None

    def keeps(self, reply: Reply) -> bool:
        return True


class Instead:
    """Pass bytes as the reply to a command that the server does not get.

    Args:
        data: the bytes.
        closes: close the connection behind them.
    """

    rule: Rule | None = None

    def __init__(self, data: bytes, *, closes: bool = False) -> None:
        self.pieces: tuple[Item, ...] = (data, CLOSE) if closes else (data,)

    def see(self, reply: Reply, *, is_complete: bool) -> Change | None:
        raise AssertionError("no message of the server answers it")

    def keeps(self, reply: Reply) -> bool:
        return False


WRITTEN = Command("", 0, 0, 1)
"""The place of a command that the server does not get."""


class Answers:
    """Follows the messages of the server, and has acts change the replies to single commands.

    Args:
        session: the state of the connection, with the commands whose replies have not come yet.

    Attributes:
        is_lost: the stream can't be followed at present.
    """

    __slots__ = ("_closed_at", "_kept", "_offset", "_replies", "_session", "is_lost")

    def __init__(self, session: Session) -> None:
        self._session = session
        self.restart()

    def restart(self) -> None:
        """Follow the stream from its next byte on. No command is outstanding."""
        self._session.outstanding.clear()
        self._replies = Replies()
        self._offset = 0  # of the next byte of the server
        self._kept = b""  # the begin of a reply that has not gone on yet
        self._closed_at: int | None = None  # the offset behind which nothing goes on
        self.is_lost = False

    @property
    def has_debts(self) -> bool:
        """True if an act has to be completed, because the server did not get the command of the client."""
        return any(each.act is not None and each.act.rule is None for each in self._session.outstanding)

    def forget_rules_except(self, active: Iterable[Rule]) -> None:
        """Leave the replies alone on which removed rules would have acted."""
        present = set(map(id, active))
        for each in self._session.outstanding:
            if each.act is not None and each.act.rule is not None and id(each.act.rule) not in present:
                each.act = None

    def write(self, act: Instead) -> Sequence[Piece]:
        """Reply to a command that the server does not get. Return the pieces for the direction of the client's data."""
        expected = self._session.sent(WRITTEN)
        if expected is None:
            return [Back(CLOSE)] if CLOSE in act.pieces else []
        if len(self._session.outstanding) > 1 or self._replies.unfinished is not None:
            expected.act = act
            return []
        self._session.outstanding.pop()
        return [Back(piece) for piece in act.pieces]

    def flush(self) -> list[Piece]:
        """Return what was kept back."""
        kept, self._kept = self._kept, b""
        return [kept] if kept else []

    def feed(self, data: bytes | memoryview) -> list[Piece] | None:
        """Take the data of the server. Return the pieces in its place, or None for the data as it is."""
        if self.is_lost:
            return None
        if self._closed_at is not None:
            return []
        if not self._kept and self._replies.is_between:
            number = small_replies(data)
            if number and self._session.replied_plain(number):
                self._replies.skip(len(data))
                self._offset += len(data)
                return None
        begin, self._offset = self._offset - len(self._kept), self._offset + len(data)
        changes = self._on_replies(self._replies.feed(data))
        if self._replies.lost_at is not None:
            self.is_lost = True
            return [*self.flush(), bytes(data)] if self._kept else None
        stop = self._offset
        unfinished = self._replies.unfinished
        if unfinished is not None:
            change, is_kept = self._on_part(unfinished)
            changes += [change] if change is not None else []
            stop = max(unfinished.start, begin) if is_kept else stop
        if not changes and not self._kept and stop == self._offset:
            return None
        return self._pieces(self._kept + bytes(data), begin, stop, changes)

    def _on_replies(self, replies: Iterable[Reply]) -> list[Change]:
        changes: list[Change] = []
        outstanding = self._session.outstanding
        is_simple = self._session.is_simple
        for reply in replies:
            if is_simple and outstanding and outstanding[0] is PLAIN and reply.kind == "reply":
                outstanding.popleft()
                if outstanding and outstanding[0].act is not None:
                    changes += self._written_behind(reply.end)
            else:
                changes += self._on_reply(reply)
                is_simple = self._session.is_simple and self._closed_at is None
        return changes

    def _pieces(self, data: bytes, begin: int, stop: int, changes: Iterable[Change]) -> list[Piece]:
        self._kept = data[stop - begin :]
        if self._closed_at is not None:
            stop = min(stop, max(begin, self._closed_at))
        return spliced(data[: stop - begin], begin, changes)

    def _on_reply(self, reply: Reply) -> list[Change]:
        if self._closed_at is not None:
            return []
        head = self._head_of(reply)
        change = head.act.see(reply, is_complete=True) if head is not None and head.act is not None else None
        changes = [change] if change is not None else []
        self._note_close(change)
        if self._session.replied(reply) is not None:
            changes += self._written_behind(reply.end)
        return changes

    def _written_behind(self, place: int) -> list[Change]:
        """Return the replies of the proxy that are due now."""
        outstanding = self._session.outstanding
        changes: list[Change] = []
        while outstanding and isinstance(outstanding[0].act, Instead) and self._closed_at is None:
            act = outstanding.popleft().act
            assert isinstance(act, Instead)
            changes.append(Change(place, place, act.pieces))
            self._note_close(changes[-1])
        return changes

    def _note_close(self, change: Change | None) -> None:
        if change is not None and not all(isinstance(piece, bytes) for piece in change.pieces):
            self._closed_at = change.end

    def _on_part(self, reply: Reply) -> tuple[Change | None, bool]:
        """Return the change of an incomplete reply, and True if it has to be kept back."""
        head = self._head_of(reply)
        if head is None or head.act is None or self._closed_at is not None:
            return None, False
        change = head.act.see(reply, is_complete=False)
        self._note_close(change)
        if change is not None:
            head.act = None
        return change, head.act is not None and head.act.keeps(reply)

    def _head_of(self, reply: Reply) -> Expected | None:
        outstanding = self._session.outstanding
        return outstanding[0] if outstanding and self._session.answers(reply, outstanding[0]) else None


def spliced(data: bytes, begin: int, changes: Iterable[Change]) -> list[Piece]:
    """Return data with changes as pieces.

    Args:
        data: a part of a stream.
        begin: its offset.
        changes: in order, each with offsets of the stream.
    """
    pieces: list[Piece] = []
    place = 0
    for start, end, instead in changes:
        if start - begin > place:
            pieces.append(data[place : start - begin])
        pieces += instead
        place = max(place, end - begin)
    if place < len(data):
        pieces.append(data[place:])
    return pieces
