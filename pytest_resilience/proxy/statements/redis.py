"""The tap of a connection to Redis: follows the commands of the client, and has the rules act on them.

Only the commands with which a driver begins are followed without a rule, because they contain the name of the client. A connection that
exists when the first rule comes is followed from its next command on.

An error is the server's own, so that its order and the state of a transaction are too:

- In place of a command, the server gets an EVAL that returns the error. In a transaction, the EVAL is queued.
- For an error with which Redis rejects a command before queueing it, such as OOM, the server gets an EVAL without arguments. The
  server fails the transaction, and the text of its error is replaced.
- In place of an EXEC, the server gets a DISCARD, of which the reply is replaced.

The proxy writes an error where the server cannot: for HELLO, AUTH and the verb connect, to which Redis replies before it knows the
client, for DISCARD, QUIT and RESET, which are never queued, for a connection of RESP2 with subscriptions, and for the act fatal.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from functools import partial

from ...wire.redis import encode_command
from ...wire.redis_errors import FAIL, error_of_exec, error_text, failing_command, fails_when_queued
from ...wire.redis_keys import keys_of
from ...wire.redis_session import HANDSHAKE, SESSION_COMMANDS, Expected, Session
from ...wire.redis_small import name_of_head, small_commands
from ...wire.redis_stream import Command, Commands, Everything, Unfinished, begins_command
from ..tap import Back, Hold, Piece, TapHost
from ..toxics.toxic import RESET
from .redis_answers import WRITTEN, Answers, Change, Cut, Instead, Replace, spliced
from .redis_text import shown_command
from .rule import Rule, Rules

CONNECT = "connect"
ANY = "*"
MAX_GREETING = 16
"""Commands of a driver that are followed without a rule."""

MAX_KEPT = 1 << 20
"""Bytes of an incomplete command that are kept back until the command is complete. A rule decides about longer ones without the rest."""

_TLS = 0x16
_STREAMS = frozenset(("monitor", "psync", "sync"))
_WRITTEN_BY_PROXY = frozenset(("hello", "auth", "discard", "quit", "reset"))
_NEEDS_ANSWERS = _WRITTEN_BY_PROXY | {CONNECT, ANY, "exec"}
_DISCARD = encode_command("DISCARD")

Data = bytes | memoryview


class RedisTap:
    """The tap of one connection of a client to a Redis.

    Args:
        host: the connection.
        rules: of the proxy.
    """

    __slots__ = (
        "_answers",
        "_commands",
        "_drops",
        "_greeted",
        "_host",
        "_is_closing",
        "_is_over",
        "_judged",
        "_kept",
        "_names",
        "_offset",
        "_rules",
        "_session",
    )

    def __init__(self, host: TapHost, rules: Rules) -> None:
        self._host = host
        self._rules = rules
        self._session = Session()
        self._commands: Commands | None = Commands(SESSION_COMMANDS)
        self._answers: Answers | None = None
        self._offset = 0  # of the next byte of the client
        self._kept = b""  # the begin of a command that has not gone on yet
        self._judged = -1  # the offset of an incomplete command that the rules have judged already
        self._drops = False  # the rest of that command does not go on
        self._greeted = 0  # commands that were followed from the first one on; MAX_GREETING if not all were
        self._is_closing = False  # nothing of the client goes on any more
        self._is_over = False  # the connection can't be followed any more
        self._names: Container[str] = ()  # of commands that a rule may match
        self.rules_changed()

    # --- the rules ---------------------------------------------------------------------------------------------------

    def rules_changed(self) -> None:
        """Follow the connection as far as the present rules need that."""
        if self._is_over or self._is_closing:
            return
        if self._answers is not None:
            self._answers.forget_rules_except(self._rules.active)
        if self._rules.active:
            self._follow_for_rules()
        elif self._greeted < MAX_GREETING and self._answers is None:
            self._host.watch(self.greet, None)
        else:
            self._stop_following()

    def _follow_for_rules(self) -> None:
        verbs = {verb for rule in self._rules.active for verb in rule.settings.verbs}
        self._names = Everything() if ANY in verbs else {verb.partition(" ")[0] for verb in verbs}
        if self._commands is not None:
            self._commands.keep = self._kept_names()
        if self._answers is None and any(map(_needs_answers, self._rules.active)):
            self._answers = Answers(self._session)
        self._host.watch(self.up, self.down if self._answers is not None else None)

    def _kept_names(self) -> Container[str]:
        """Return the names of the commands of which the words are needed."""
        if isinstance(self._names, set) and CONNECT not in self._names:
            return SESSION_COMMANDS | self._names
        return Everything()

    def _stop_following(self) -> None:
        """Pass everything on, and watch the server only while one of its replies has to be replaced."""
        kept, self._kept = self._kept, b""
        if kept:
            self._host.write((kept,), upward=True)
        self._commands = None
        self._greeted = MAX_GREETING
        self._drops = False
        self._judged = -1
        if self._answers is not None and not self._answers.has_debts:
            self._host.write(self._answers.flush(), upward=False)
            self._answers = None
        self._host.watch(None, self.down if self._answers is not None else None)

    def _end(self) -> None:
        """Stop for good."""
        self._is_over = True
        self._host.watch(None, None)

    # --- the data ----------------------------------------------------------------------------------------------------

    def greet(self, data: Data) -> None:
        """Follow the first commands of the client, which need no act."""
        assert self._commands is not None
        commands = self._commands.feed(data)
        self._offset += len(data)
        for command in commands:
            self._count(command)
            self._expect(command)
            if command.name not in _GREETINGS:
                self._greeted = MAX_GREETING
        if self._commands.lost_at is not None:
            self._count_unreadable(data)
        elif self._greeted >= MAX_GREETING and not self._is_over:
            self._stop_following()

    def up(self, data: Data) -> list[Piece] | None:
        """Follow the client's data, and return the pieces in its place."""
        if self._is_closing:
            return []
        if self._commands is None and not self._join(data):
            return None
        assert self._commands is not None
        if self._greeted and not self._kept and self._commands.is_between and self._passes(data):
            self._commands.skip(len(data))
            self._offset += len(data)
            return None
        begin, self._offset = self._offset - len(self._kept), self._offset + len(data)
        whole: Data = self._kept + bytes(data) if self._kept else data
        changes = []
        pairs_plain = self._pairs_plain()
        for command in self._commands.feed(data):
            if pairs_plain and command.name not in self._names and command.name not in SESSION_COMMANDS:
                self._session.sent_plain()
                continue
            change = self._take(command, begin, whole)
            pairs_plain = self._pairs_plain()
            if change is not None:
                changes.append(change)
        if self._commands.lost_at is not None:
            self._count_unreadable(data)
            return spliced(bytes(whole), begin, changes)
        stop = self._stop(begin, whole, changes)
        if not changes and not self._kept and stop == self._offset:
            return None
        self._kept = bytes(whole[stop - begin :])
        return spliced(bytes(whole[: stop - begin]), begin, changes)

    def down(self, data: Data) -> list[Piece] | None:
        """Follow the server's data, and return the pieces in its place."""
        assert self._answers is not None
        pieces = self._answers.feed(data)
        if not self._rules.active and not self._answers.has_debts:
            pieces = None if pieces is None else [*pieces, *self._answers.flush()]
            self._answers = None
            self._host.watch(None, None)
        return pieces

    def _pairs_plain(self) -> bool:
        """True if a command that no rule names, and that changes no state, needs nothing but its place among the replies."""
        is_followed = self._answers is not None and not self._answers.is_lost
        return is_followed and self._greeted > 0 and self._judged < 0 and not self._is_closing

    def _passes(self, data: Data) -> bool:
        """Take account of small commands that no rule acts on. Return False if the data has others, and take none then."""
        heads = small_commands(data)
        if heads is None or (self._answers is not None and self._answers.is_lost):
            return False
        counts = self._count_names(heads)
        if counts is None or (counts and self._may_act(bytes(data))):
            return False
        for name, number in counts.items():
            self._rules.count(name, number)
        if self._answers is not None:
            self._session.sent_plain(len(heads))
        self._greeted = MAX_GREETING
        return True

    def _count_names(self, heads: Sequence[bytes]) -> dict[str, int] | None:
        """Return the number of commands by name that a rule names, or None if a command has to be read."""
        counts: dict[str, int] = {}
        for head in set(heads):
            name = name_of_head(head)
            if name is None or name in SESSION_COMMANDS:
                return None
            if name in self._names:
                counts[name] = counts.get(name, 0) + heads.count(head)
        return counts

    def _may_act(self, data: bytes) -> bool:
        """False if no command in the data has the key of any rule, or the connection has not the client."""
        for rule in self._rules.active:  # noqa: SIM110  (a generator would cost more than the rest, for each piece of data)
            if rule.key_part in data and rule.matches_client(self._session.client_name):
                return True
        return False

    def _join(self, data: Data) -> bool:
        """Begin to follow an existing connection, if the data begins with a command. Return True if it does."""
        if not begins_command(data):
            return False
        self._commands = Commands(self._kept_names())
        self._offset = 0
        self._session.outstanding.clear()
        if self._answers is not None:
            self._answers.restart()
        return True

    def _count_unreadable(self, data: Data) -> None:
        is_tls = self._commands is not None and self._commands.lost_at == 0 and data[0] == _TLS
        self._rules.count_unreadable("encrypted" if is_tls else "other")
        self._end()

    # --- commands ----------------------------------------------------------------------------------------------------

    def _take(self, command: Command, begin: int, data: Data) -> Change | None:
        """Take a complete command. Return the change of its bytes, or None for no change."""
        if self._is_closing:
            return Change(command.start, command.end, ())
        if command.start == self._judged:
            drops, self._drops, self._judged = self._drops, False, -1
            return Change(max(command.start, begin), command.end, ()) if drops else None
        self._count(command)
        if command.start < begin:
            self._expect(command)  # a part has gone on before the rules came
            return None
        return self._judge(command, data[command.start - begin : command.end - begin])

    def _stop(self, begin: int, data: Data, changes: list[Change]) -> int:
        """Return the offset up to which data goes on. Judge an incomplete command that is too long to be kept back."""
        assert self._commands is not None
        unfinished = self._commands.unfinished
        if unfinished is None:
            return self._offset
        if self._is_closing:
            return max(unfinished.start, begin)
        if unfinished.start == self._judged:
            if self._drops:
                changes.append(Change(max(unfinished.start, begin), self._offset, ()))
            return self._offset
        if unfinished.start < begin or not self._may_match(unfinished):
            return self._offset
        if self._offset - unfinished.start <= MAX_KEPT:
            return unfinished.start
        self._judge_early(unfinished, data[unfinished.start - begin :], changes)
        return self._offset

    def _may_match(self, unfinished: Unfinished) -> bool:
        return unfinished.name is None or self._is_first or unfinished.name in self._names

    def _judge_early(self, unfinished: Unfinished, data: Data, changes: list[Change]) -> None:
        start, name, words = unfinished
        command = Command(name or "", start, self._offset, max(1, len(words)), words)
        self._count(command)
        change = self._judge(command, data)
        self._judged = start
        self._drops = change is not None and not _passes(change)
        if change is not None:
            changes.append(change)

    def _judge(self, command: Command, data: Data) -> Change | None:
        """Have the rules count a command, and apply the act of the first one that acts on it."""
        verbs = self._verbs_of(command) if self._greeted == 1 or command.name in self._names else ()
        rule = self._choose(command, verbs) if verbs else None
        if rule is None:
            self._expect(command)
            return None
        pieces = _ACTS[rule.settings.act](self, rule, command, data)
        return None if pieces is None else Change(command.start, command.end, pieces)

    def _count(self, command: Command) -> None:
        if self._is_first:
            self._rules.count(CONNECT)
        if command.name in self._names:
            self._rules.count(command.name)
        if self._greeted < MAX_GREETING:
            self._greeted += 1

    @property
    def _is_first(self) -> bool:
        """True if no command of the connection was counted yet."""
        return self._greeted == 0

    def _verbs_of(self, command: Command) -> set[str]:
        """Return the verbs of rules that the command matches."""
        name, words = command.name, command.words
        verbs = {name}
        if len(words) > 1:
            verbs.add(f"{name} {words[1].decode('latin-1').lower()}")
        if HANDSHAKE.isdisjoint(verbs):
            verbs.add(ANY)
        if self._greeted == 1:
            verbs.add(CONNECT)
        return verbs

    def _choose(self, command: Command, verbs: set[str]) -> Rule | None:
        """Have all rules count a command. Return the first one that acts on it."""
        chosen = None
        for rule in self._rules.active:
            if (
                not rule.settings.verbs.isdisjoint(verbs)
                and self._matches(rule, command)
                and rule.choose(self._host.number)
            ):
                if rule.settings.act == "none":
                    self._record(rule, command)
                elif chosen is None:
                    chosen = rule
        return chosen

    def _matches(self, rule: Rule, command: Command) -> bool:
        if not rule.matches_client(self._session.client_name):
            return False
        if rule.settings.key is None:
            return True
        return any(rule.matches_key(key.decode(errors="replace")) for key in keys_of(command.name, command.words))

    def _record(self, rule: Rule, command: Command) -> None:
        rule.record(self._host.now(), shown_command(command.name, command.words))

    def _expect(self, command: Command) -> Expected | None:
        """Take account of a command that the server gets. Return it if a reply is expected that can be acted on."""
        if command.name in _STREAMS and not self._session.in_multi:
            self._end()
        if self._answers is not None:
            if self._answers.is_lost:
                self._answers.restart()
            return self._session.sent(command)
        if command.name in SESSION_COMMANDS:
            self._session.sent(command)
            self._session.assume_answered()
        return None

    # --- acts: each returns the pieces in place of a command, or None for the command unchanged ------------------------

    def _error(self, rule: Rule, command: Command, data: Data) -> Sequence[Piece] | None:
        self._record(rule, command)
        text = error_text(rule.settings.code)
        if self._is_written_by_proxy(rule, command):
            return self._write(text)
        if self._session.in_multi and command.name == "exec":
            return self._replace(command, _DISCARD, error_of_exec(text))
        if self._session.in_multi and fails_when_queued(text):
            return self._replace(WRITTEN, FAIL, text)
        self._expect(WRITTEN)
        return (failing_command(text),)

    def _is_written_by_proxy(self, rule: Rule, command: Command) -> bool:
        session = self._session
        is_connect = self._greeted == 1 and CONNECT in rule.settings.verbs
        return is_connect or command.name in _WRITTEN_BY_PROXY or (session.subscribed and session.protocol == 2)

    def _write(self, text: str, *, closes: bool = False) -> Sequence[Piece]:
        """Write an error to the client. The server does not get the command."""
        act = Instead(_error_line(text), closes=closes)
        if self._answers is not None:
            return self._answers.write(act)
        return [Back(piece) for piece in act.pieces]

    def _replace(self, command: Command, sent: bytes, text: str) -> Sequence[Piece]:
        """Send other bytes in place of a command, and replace the reply to them by an error."""
        expected = self._expect(command)
        if expected is not None:
            expected.act = Replace(_error_line(text))
        return (sent,)

    def _fatal(self, rule: Rule, command: Command, data: Data) -> Sequence[Piece] | None:
        self._record(rule, command)
        self._is_closing = True
        return self._write(error_text(rule.settings.code), closes=True)

    def _reset(self, rule: Rule, command: Command, data: Data) -> Sequence[Piece] | None:
        self._record(rule, command)
        self._is_closing = True
        return (RESET,)

    def _hold(self, rule: Rule, command: Command, data: Data) -> Sequence[Piece] | None:
        self._record(rule, command)
        self._expect(command)
        seconds = rule.settings.delay_ms / 1000 if rule.settings.act == "delay" else None
        return (rule.hold(Hold(seconds)), bytes(data))

    def _cut_answer(self, rule: Rule, command: Command, data: Data) -> Sequence[Piece] | None:
        """Close the connection in the reply, or before the first byte of a reply that is to be lost."""
        expected = self._expect(command)
        if expected is not None:
            expected.act = Cut(rule.settings.bytes or 0, rule, partial(self._record, rule, command))
        return None


_ACTS: dict[str, Callable[[RedisTap, Rule, Command, Data], Sequence[Piece] | None]] = {
    "error": RedisTap._error,
    "fatal": RedisTap._fatal,
    "reset": RedisTap._reset,
    "hang": RedisTap._hold,
    "delay": RedisTap._hold,
    "lose_answer": RedisTap._cut_answer,
    "cut_answer": RedisTap._cut_answer,
}
_GREETINGS = frozenset(name.partition(" ")[0] for name in HANDSHAKE)


def _needs_answers(rule: Rule) -> bool:
    """True if a rule needs the replies of the server."""
    settings = rule.settings
    if settings.act == "error":
        return fails_when_queued(error_text(settings.code)) or not settings.verbs.isdisjoint(_NEEDS_ANSWERS)
    return settings.act in ("fatal", "lose_answer", "cut_answer")


def _passes(change: Change) -> bool:
    """True if a change lets the bytes of the command go on, behind a hold."""
    return any(isinstance(piece, Hold) for piece in change.pieces)


def _error_line(text: str) -> bytes:
    return b"-%b\r\n" % text.encode()
