"""The tap of a Postgres session: follows the statements of the client, and has the rules act on them.

The names of prepared statements are followed from the first byte, because a later execution does not contain the text. The client's
messages come in groups: a Query, or messages up to a Sync. The server answers each group with one ReadyForQuery, so counting both
tells which group an answer belongs to.

An error is the server's own, so that the state of the transaction is too:

- In place of a Query the server gets a DO that raises the error.
- In place of an Execute the server gets an Execute of a portal that does not exist. The server fails the group as for any error, and
  its error gets the rule's SQLSTATE and text on the way back. Parse, Bind, Describe, Close, Flush and Sync go on unchanged.
- A COMMIT that fails leaves no transaction. So the server gets a ROLLBACK in its place.

A FATAL error, and an error of the verb connect, are written by the proxy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

from ...wire import postgres_stream as wire
from ...wire.sql_text import statement_verb, without_literals
from ..tap import Back, Hold, Piece, TapHost
from ..toxics.toxic import CLOSE, RESET
from .postgres_answers import (
    CutBytes,
    CutRows,
    DropReady,
    End,
    FailCommand,
    Lose,
    LoseFirst,
    Plan,
    ReadyOnly,
    ReplaceError,
)
from .rule import Rule, Rules
from .splice import Before, Splice

SMALL = 4096
"""Bytes of a piece of the server that is split into messages. Of longer ones, only the end is looked at until a rule has matched."""

MAX_BACKLOG = 4096
"""Bytes of the client that are followed later without a rule. Following many messages at once takes less time for each."""

MAX_NAMES = 300
"""Bytes of a Bind, Execute or Close that contain the names, which have at most 63 bytes each."""

_SETTINGS = frozenset(("set", "show", "reset", "discard", "deallocate"))
"""Verbs of drivers and pools, which the verb * does not stand for."""

_CHANGES_ANSWERS = frozenset(("error", "lose_answer", "cut_answer"))

_ENCRYPTION = (wire.SSL_REQUEST, wire.GSSENC_REQUEST)


class Statement(NamedTuple):
    """A statement of a client: its verb, and its text or the beginning of a long one."""

    verb: str
    text: str


APPLICATION_NAME = b"application_name"
CONNECT = Statement("connect", "")
UNKNOWN = Statement("", "")
MAX_CACHED = 4096


def parse_statement(text: bytes) -> Statement:
    """Return the statement of a text."""
    return _parse_cached(text) if len(text) <= MAX_CACHED else _parse(text)


def _parse(text: bytes) -> Statement:
    query = text.decode(errors="replace")
    return Statement(statement_verb(query), query)


_parse_cached = lru_cache(maxsize=512)(_parse)


class Choice(NamedTuple):
    """A statement that a rule acts on.

    Attributes:
        kind: of the client's message.
        group: the number of the group that has the statement.
        place: of the statement in its group, from 1.
    """

    rule: Rule
    statement: Statement
    kind: int
    group: int
    place: int


class PostgresTap:
    """The tap of one connection of a client to a Postgres.

    Args:
        host: the connection.
        rules: of the proxy.
    """

    __slots__ = (
        "_answered",
        "_application",
        "_backlog",
        "_client",
        "_down",
        "_ended",
        "_host",
        "_in_step",
        "_is_quiet",
        "_is_quiet_client",
        "_is_started",
        "_last_query",
        "_mark",
        "_number",
        "_plans",
        "_portals",
        "_rolls_back",
        "_rules",
        "_sent",
        "_server",
        "_statements",
        "_up",
    )

    def __init__(self, host: TapHost, rules: Rules) -> None:
        self._host = host
        self._rules = rules
        self._client = wire.ClientReader()
        self._server = wire.ServerReader()
        self._up = Splice(self._client)
        self._down = Splice(self._server)
        self._application = ""
        self._statements: dict[bytes, Statement] = {}  # by name
        self._portals: dict[bytes, Statement] = {}  # that are bound and not executed yet
        self._sent = 0  # groups that the client has ended; the startup is the first
        self._answered = 0  # groups that the server has answered
        self._number = 0  # executions in the present group
        self._is_started = False  # the startup packet was there
        self._ended = False  # a rule has ended the session; nothing of the client goes on
        self._rolls_back = False  # the present group ends in the failure of a COMMIT
        self._last_query = 0  # the last group that was a Query
        self._plans: dict[int, Plan] = {}  # by group
        self._in_step = True  # the server's messages are followed
        self._is_quiet_client = False  # there is no rule, and the client's data is followed later
        self._backlog = bytearray()  # that data
        self._mark = -1  # bytes of that data that came before the last ReadyForQuery, or -1
        self._is_quiet = False  # there is no rule and no plan, and the server's next byte begins a message
        host.watch(self.up, self.down)

    def rules_changed(self) -> None:
        """Pass on what was kept back, if there is no rule any more."""
        self._catch_up()
        self._is_quiet = self._is_quiet_client = False
        active = self._rules.active
        for group, plan in list(self._plans.items()):
            if plan.rule is not None and plan.rule not in active:
                del self._plans[group]
        if not active:
            self._host.write(self._up.flush(), upward=True)
        if not self._plans:
            self._host.write(self._down.flush(), upward=False)

    # --- the client --------------------------------------------------------------------------------------------------

    def up(self, data: bytes | memoryview) -> Sequence[Piece] | None:
        """Follow the client's data, and return the pieces in its place."""
        if self._is_quiet_client:
            self._backlog += data
            if len(self._backlog) > MAX_BACKLOG:
                self._catch_up()
            return None
        if self._ended:
            return ()
        if self._rules.active or self._rolls_back:
            if self._at_boundary and not self._number and len(data) <= wire.MAX_HEAD and self._passes(data):
                return None
            return self._apply_rules(data)
        pieces = self._follow_client(data)
        self._mark = -1
        self._is_quiet_client = not (self._client.unreadable or self._plans) and self._at_boundary
        return pieces

    @property
    def _at_boundary(self) -> bool:
        """True if the client's next byte begins a message behind the startup."""
        return self._is_started and self._client.at_boundary

    def _catch_up(self) -> None:
        """Follow what the client has sent since there was no rule. It has gone on already."""
        if not self._is_quiet_client:
            return
        data, mark = bytes(self._backlog), self._mark
        self._backlog.clear()
        self._mark = -1
        self._follow_later(data[: max(mark, 0)])
        if mark >= 0:
            self._answered = self._sent
        self._follow_later(data[max(mark, 0) :])

    def _follow_later(self, data: bytes) -> None:
        groups = wire.count_groups(data) if self._client.at_boundary else -1
        if groups >= 0:
            self._sent += groups
            return
        for message in self._client.feed(data):
            self._follow(*message)
        if self._client.unreadable:
            self._is_quiet_client = False
            self._stop_reading()

    def _passes(self, data: bytes | memoryview) -> bool:
        """True if data consists of whole groups of which no rule matches a statement. Their statements are counted then."""
        executions = wire.executions(data)
        if executions is None:
            return False
        rules = self._rules
        counts: dict[tuple[int, bytes], int] = {}
        for execution in executions:
            counts[execution] = counts.get(execution, 0) + 1
        verbs: list[tuple[str, int]] = []
        for (kind, name), count in counts.items():
            statement = self._statements.get(name, UNKNOWN) if kind == wire.BIND else parse_statement(name)
            if rules.candidates(*statement):
                return False
            verbs.append((statement.verb, count))
        for verb, count in verbs:
            if verb:
                rules.count(verb, count)
        self._sent += len(executions)
        if executions and executions[-1][0] == wire.QUERY:
            self._last_query = self._sent
        return True

    def _apply_rules(self, data: bytes | memoryview) -> Sequence[Piece] | None:
        """Follow the client's data with rules, and return the pieces in its place."""
        messages = self._client.feed(data)
        if self._client.unreadable:
            return self._stop_reading()
        return self._up.replace(messages, self._act, self._follow)

    def _follow_client(self, data: bytes | memoryview) -> Sequence[Piece] | None:
        """Follow the client's data without a rule."""
        messages = self._client.feed(data)
        if self._client.unreadable:
            return self._stop_reading()
        for message in messages:
            self._follow(*message)
        return self._up.pass_on()

    def _stop_reading(self) -> Sequence[Piece] | None:
        """Pass everything on from now on, because the connection can't be read."""
        self._host.watch(None, None)
        self._host.write(self._down.flush(), upward=False)
        if self._client.unreadable != "cancel":
            self._rules.count_unreadable(self._client.unreadable)
        return self._up.pass_on()

    def _body(self, start: int, end: int, limit: int = wire.MAX_HEAD) -> bytes:
        return bytes(self._client.data[start + 5 : min(end, start + 5 + limit)])

    def _follow(self, kind: int, start: int, end: int) -> Statement | None:
        """Take account of a message of the client. Return the statement that the message begins."""
        if kind == wire.EXECUTE:
            self._number += 1
            return self._count(self._portals.pop(wire.texts(self._body(start, end, MAX_NAMES), 1)[0], None))
        if kind == wire.SYNC:
            self._end_group()
        elif kind == wire.BIND:
            portal, name = wire.texts(self._body(start, end, MAX_NAMES), 2)
            self._portals[portal] = self._statements.get(name, UNKNOWN)
        elif kind == wire.PARSE:
            name, text = wire.texts(self._body(start, end), 2)
            self._statements[name] = parse_statement(text)
        elif kind == wire.QUERY:
            self._sent += 1
            self._last_query = self._sent
            return self._count(parse_statement(wire.texts(self._body(start, end), 1)[0]))
        elif kind == wire.CLOSE:
            self._close(self._body(start, end, MAX_NAMES))
        elif kind == wire.FUNCTION_CALL:
            self._sent += 1
        else:
            return self._follow_packet(kind, start, end)
        return None

    def _follow_packet(self, kind: int, start: int, end: int) -> Statement | None:
        if kind in _ENCRYPTION:
            self._server.expect_single_byte()
        if kind != wire.STARTUP:
            return None
        self._sent += 1
        self._is_started = True
        self._application = wire.startup_settings(self._client.data[start:end]).get("application_name", "")
        return self._count(CONNECT)

    def _end_group(self) -> None:
        self._sent += 1
        self._number = 0

    def _count(self, statement: Statement | None) -> Statement | None:
        if statement is not None and statement.verb and self._rules.active:
            self._rules.count(statement.verb)
        return statement

    def _close(self, body: bytes) -> None:
        names = self._statements if body[:1] == b"S" else self._portals
        names.pop(wire.texts(body[1:], 1)[0], None)

    # --- the acts ----------------------------------------------------------------------------------------------------

    def _act(self, kind: int, start: int, end: int) -> Sequence[Piece] | None:
        """Return the pieces for a message of the client, or None for the message unchanged."""
        if self._ended:
            return ()
        statement = self._follow(kind, start, end)
        if kind == wire.SYNC:
            return self._roll_back() if self._rolls_back else None
        if statement is None:
            return None
        group = self._sent + (kind == wire.EXECUTE)  # a Query is counted already
        if group in self._plans:
            return None
        rule = self._choose(statement)
        if rule is None:
            return None
        return _ACTS[rule.settings.act](self, Choice(rule, statement, kind, group, max(1, self._number)))

    def _roll_back(self) -> Sequence[Piece]:
        """End a group in which a COMMIT has failed, with a group that leaves no transaction."""
        self._rolls_back = False
        self._plans[self._sent] = DropReady(self._plans[self._sent])
        self._sent += 1
        self._plans[self._sent] = ReadyOnly()
        return (wire.message(b"S", b""), wire.ROLLBACK)

    def _choose(self, statement: Statement) -> Rule | None:
        """Have all rules count a statement. Return the first one that acts on it."""
        chosen = None
        for rule in self._rules.candidates(*statement):
            settings = rule.settings
            if statement.verb in _SETTINGS and statement.verb not in settings.verbs:
                continue
            if settings.act in _CHANGES_ANSWERS and not self._in_step:
                continue  # the answer to the statement could not be found among others
            if rule.matches_client(self._application) and rule.choose(self._host.number):
                if rule.settings.act == "none":
                    self._record(rule, statement)
                elif chosen is None:
                    chosen = rule
        return chosen

    def _record(self, rule: Rule, statement: Statement) -> None:
        rule.record(self._host.now(), without_literals(statement.text) or statement.verb)

    def _fail(self, choice: Choice) -> Sequence[Piece]:
        settings = choice.rule.settings
        if choice.kind == wire.STARTUP:
            return self._end(choice)
        text = wire.error_message(settings.code, settings.message)
        error = wire.error_response(settings.code, text)
        commits = choice.statement.verb == "commit"
        record = partial(self._record, choice.rule, choice.statement)
        if choice.kind == wire.EXECUTE:
            portal = f"resilience_{self._host.number}_{choice.group}"
            self._plans[choice.group] = ReplaceError(portal.encode(), error, record)
            self._rolls_back = commits
            return (wire.execute(portal),)
        if commits:
            self._plans[choice.group] = FailCommand(error, record)
            return (wire.ROLLBACK,)
        self._plans[choice.group] = ReplaceError(f"C{settings.code}\0".encode(), error, record)
        return (wire.raising_query(settings.code, text),)

    def _end(self, choice: Choice) -> Sequence[Piece]:
        """End the session with a FATAL error, behind the answers to earlier groups."""
        self._ended = True
        settings = choice.rule.settings
        text = wire.error_message(settings.code, settings.message)
        error = wire.error_response(settings.code, text, severity="FATAL")
        record = partial(self._record, choice.rule, choice.statement)
        if self._in_step and self._answered < choice.group - 1:
            self._plans[choice.group] = End(error, record)
            return ()
        record()
        return (Back(error), Back(CLOSE))

    def _reset(self, choice: Choice) -> Sequence[Piece]:
        self._record(choice.rule, choice.statement)
        return (RESET,)

    def _hold(self, choice: Choice) -> Sequence[Piece]:
        self._record(choice.rule, choice.statement)
        settings = choice.rule.settings
        seconds = settings.delay_ms / 1000 if settings.act == "delay" else None
        return Before((choice.rule.hold(Hold(seconds)),))

    def _lose(self, choice: Choice) -> None:
        record = partial(self._record, choice.rule, choice.statement)
        self._plans[choice.group] = (
            LoseFirst(choice.rule, record) if choice.kind == wire.STARTUP else Lose(choice.rule, record, choice.place)
        )

    def _cut(self, choice: Choice) -> None:
        settings = choice.rule.settings
        record = partial(self._record, choice.rule, choice.statement)
        place = choice.place
        if settings.bytes is not None:
            self._server.keep_heads()
        self._plans[choice.group] = (
            CutBytes(choice.rule, record, place, settings.bytes)
            if settings.bytes is not None
            else CutRows(choice.rule, record, place, settings.rows or 0)
        )

    # --- the server --------------------------------------------------------------------------------------------------

    def down(self, data: bytes | memoryview) -> Sequence[Piece] | None:
        """Follow the server's data, and return the pieces in its place."""
        if self._is_quiet and len(data) <= SMALL:
            answer = bytes(data)
            if wire.ends_ready(answer) and APPLICATION_NAME not in answer:
                self._mark = len(self._backlog)
                self._answered = self._sent  # or nearly, in a pipeline
                return None
        pieces = self._follow_answers(data)
        self._is_quiet = self._in_step and not self._plans and not self._rules.active and self._server.at_boundary
        return pieces

    def _follow_answers(self, data: bytes | memoryview) -> Sequence[Piece] | None:
        if not self._in_step:
            if wire.ends_ready(data):
                self._step_in()
            return None
        if not self._plans:
            if len(data) <= SMALL:
                if self._is_whole_answer(bytes(data)):
                    return None
            elif not self._rules.active or self._sent - self._answered <= 1:
                return self._step_out(data)
        messages = self._server.feed(data)
        if self._server.unreadable:
            self._in_step = False
            return self._down.pass_on()
        if self._plans:
            return self._down.replace(messages, self._see, self._follow_server)
        for message in messages:
            self._follow_server(*message)
        return self._down.pass_on()

    def _is_whole_answer(self, data: bytes) -> bool:
        """True if data is the end of answers, which are counted then. Binary data of rows in a pipeline can look like another one."""
        if not (wire.ends_ready(data) and self._server.at_boundary and APPLICATION_NAME not in data):
            return False
        waiting = self._sent - self._answered
        self._mark = len(self._backlog)
        self._answered += waiting if waiting <= 1 else min(waiting, wire.count_ready(data))
        return True

    def _step_out(self, data: bytes | memoryview) -> Sequence[Piece] | None:
        """Follow the server's messages no more, until one of its pieces ends an answer."""
        kept = self._down.flush()
        self._in_step = False
        if wire.ends_ready(data):
            self._step_in()
        return [*kept, bytes(data)] if kept else None

    def _step_in(self) -> None:
        """Follow the server's messages again. A client that had several groups on the way is taken to have had one."""
        self._server.restart()
        self._in_step = True
        self._mark = len(self._backlog)
        self._answered = self._sent
        self._plans = {group: plan for group, plan in self._plans.items() if group > self._answered}

    def _see(self, kind: int, start: int, end: int) -> Sequence[Piece] | None:
        """Return the pieces for a message of the server, or None for the message unchanged."""
        plan = self._plans.get(self._answered + 1)
        message = self._server.data[start:end]
        pieces = None if plan is None else plan.see(kind, message)
        self._follow_server(kind, start, end)
        if kind == wire.READY:
            following = self._plans.get(self._answered + 1)
            if isinstance(following, End):
                return (*((bytes(message),) if pieces is None else pieces), *following.pieces())
        return pieces

    def _follow_server(self, kind: int, start: int, end: int) -> None:
        if kind == wire.READY:
            self._answered = min(self._answered + 1, self._sent)
            self._mark = len(self._backlog)
            self._plans.pop(self._answered, None)
        elif kind == wire.PARAMETER_STATUS:
            name, value = wire.texts(self._server.data[start + 5 : end], 2)
            if name == b"application_name":
                self._application = value.decode(errors="replace")
        elif kind == wire.COPY_IN and self._last_query != self._answered + 1:
            self._sent = self._answered  # the server ignores a Sync that came with the COPY; another one follows


_ACTS: dict[str, Callable[[PostgresTap, Choice], Sequence[Piece] | None]] = {
    "error": PostgresTap._fail,
    "fatal": PostgresTap._end,
    "reset": PostgresTap._reset,
    "hang": PostgresTap._hold,
    "delay": PostgresTap._hold,
    "lose_answer": PostgresTap._lose,
    "cut_answer": PostgresTap._cut,
}
