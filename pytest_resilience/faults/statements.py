"""Faults that act on single statements of Postgres or commands of Redis, and events that start other faults.

The proxy reads the protocol and counts the statements that match (`proxy/statements/`). A real Toxiproxy cannot.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from ..errors import CannotInject, SetupError
from ..proxy_client.counters import ProxyCounters, RuleCount
from ..proxy_client.handle import ProxyHandle
from ..wire.api_error import ApiError
from ..wire.statement_rule import StatementRule, check_rule
from ..wording import counted, did_you_mean
from .armed import Armed, Event
from .fault import Fault, Need, Receipt, Strike, at_least
from .network import HasProxy, NetworkFault

UNITS = {"postgres": "statements", "redis": "commands"}
ACTS = ("error", "fatal", "reset", "hang", "delay", "lose_answer", "cut_answer")
WATCH = "none"  # the act of a rule that only counts
CLOSES = ("reset", "silence")
WRITES = "insert|update|delete|merge"
POLL_INTERVAL = 0.005  # seconds between two readings of the counters while an event has not come

_SELECTION = ("matching", "key", "nth", "application_name", "client_name")
_COUNTS = ("first", "every", "after")
_OF_ACTS = {
    "code": ("error", "fatal"),
    "message": ("error", "fatal"),
    "seconds": ("delay",),
    "rows": ("cut_answer",),
    "bytes": ("cut_answer",),
}
_FOREIGN = {"postgres": ("key", "client_name"), "redis": ("matching", "application_name", "message", "rows")}
_VERB = re.compile(r"[^\s|]+( [^\s|]+)?(\|[^\s|]+( [^\s|]+)?)*")


class HasStatements(HasProxy, Protocol):
    """A target behind a proxy that can read its protocol.

    Attributes:
        kind: "postgres" or "redis".
    """

    kind: str


@dataclass(frozen=True)
class On(NetworkFault):
    """Act on single statements of Postgres, or on single commands of Redis, that come through the proxy.

    Args:
        verb: the first word of the statement, such as "commit", or the command, such as "evalsha" or "config get". "connect" is the
            beginning of a session, "*" is every statement but those of a driver's handshake, and "insert|update" has alternatives.
        act: "error", "fatal" (an error that ends the session), "reset" (RST before the server gets the statement), "hang" (until
            the heal), "delay", "lose_answer" (done, and the client has no answer) or "cut_answer".
        matching: a part of the statement's text in any case, or a regular expression as "re:..."; None for any. Postgres only.
        key: a pattern such as "campaign:*" for a key of the command; None for any. Redis only.
        nth: the number of the only matching statement to act on, from 1; None for all.
        application_name: a pattern for the name of the session; None for any. Postgres only.
        client_name: a pattern for the name of the connection (CLIENT SETNAME); None for any. Redis only.
        first: the number of statements to act on; None for no limit.
        every: act on each statement whose number is a multiple of this one; None for each.
        after: the number of matching statements to leave alone first; None for 0.
        per_connection: True counts for each connection, False over all.
        code: SQLSTATE of the error, such as "40001", or the code or text of Redis' error, such as "LOADING".
        message: text of the error; None for a text of the proxy. Postgres only.
        seconds: of a delay; whole milliseconds.
        rows: of the answer, to pass before it is cut. Postgres only.
        bytes: of the answer, to pass before it is cut.
        close: "reset" or "silence" (nothing more until the heal, then a RST), for a lost or cut answer.
    """

    name: ClassVar[str] = "on"
    targets: ClassVar[tuple[str, ...]] = ("postgres", "redis")
    verb: str
    act: str
    matching: str | None = None
    key: str | None = None
    nth: int | None = None
    application_name: str | None = None
    client_name: str | None = None
    first: int | None = None
    every: int | None = None
    after: int | None = None
    per_connection: bool = False
    code: str | None = None
    message: str | None = None
    seconds: float | None = None
    rows: int | None = None
    bytes: int | None = None
    close: str = "reset"

    def __post_init__(self) -> None:
        object.__setattr__(self, "verb", checked_verb(self.verb))
        for name in ("nth", "first", "every"):
            _check_count(name, getattr(self, name), least=1)
        for name in ("after", "rows", "bytes"):
            _check_count(name, getattr(self, name), least=0)
        for name in ("matching", "key", "application_name", "client_name", "message"):
            _check_text(name, getattr(self, name))
        if self.act != WATCH:
            self._check_act()

    def _check_act(self) -> None:
        if self.act not in ACTS:
            raise SetupError(f"act must be one of {', '.join(ACTS)}, got {self.act!r}{did_you_mean(self.act, ACTS)}")
        for name, acts in _OF_ACTS.items():
            if getattr(self, name) is not None and self.act not in acts:
                raise SetupError(f"{name} belongs to the act {' or '.join(acts)}, not to {self.act}")
        if self.act in ("error", "fatal") and not (isinstance(self.code, str) and self.code):
            raise SetupError(
                f"the act {self.act} needs a code, such as '40001' (Postgres) or 'LOADING' (Redis), got {self.code!r}"
            )
        if self.act == "delay":
            at_least("seconds", self.seconds, 0.001, "s")
        if self.act == "cut_answer" and (self.rows is None) == (self.bytes is None):
            raise SetupError("cut_answer needs either rows (Postgres) or bytes")
        if self.close not in CLOSES:
            raise SetupError(f"close must be one of {', '.join(CLOSES)}, got {self.close!r}")
        if self.close != "reset" and self.act not in ("lose_answer", "cut_answer"):
            raise SetupError(f"close belongs to the act lose_answer or cut_answer, not to {self.act}")

    def attributes(self, kind: str) -> dict[str, Any]:
        """Return the attributes of the rule that the proxy gets.

        Args:
            kind: "postgres" or "redis".

        Raises:
            SetupError: a setting is for the other kind of server, or does not fit this one.
        """
        for name in _FOREIGN[kind]:
            if getattr(self, name) is not None:
                raise SetupError(
                    f"{name} is a setting for {'redis' if kind == 'postgres' else 'postgres'}, not for {kind}"
                )
        found: dict[str, Any] = {"client": self.application_name or self.client_name}
        if self.seconds is not None:
            found["delay_ms"] = round(1000 * self.seconds)
        if self.close != "reset":
            found["close"] = self.close
        names = (
            "verb",
            "act",
            "matching",
            "key",
            "nth",
            "per_connection",
            "code",
            "message",
            "rows",
            "bytes",
            *_COUNTS,
        )
        found |= {name: getattr(self, name) for name in names}
        given = {name: value for name, value in found.items() if value is not None and value is not False}
        try:
            check_rule(StatementRule(**given), kind)
        except ApiError as error:
            raise SetupError(error.reason) from None
        return given

    def check_kind(self, kind: str) -> None:
        self.attributes(kind)

    def label(self, target: Any) -> str:
        """Return target and fault as the code that strikes it, such as "postgres.on('update', nth=2).error('40001')"."""
        selection = {name: getattr(self, name) for name in _SELECTION if getattr(self, name) is not None}
        text = f"{target.name}.on({_arguments([self.verb], selection)})"
        for name in _COUNTS:
            if getattr(self, name) is not None:
                text += f".{name}({getattr(self, name)})"
        text += ".per_connection()" if self.per_connection else ""
        if self.act == WATCH:
            return text
        given = [self.code] if self.code is not None else [] if self.seconds is None else [self.seconds]
        named = {name: getattr(self, name) for name in ("message", "rows", "bytes") if getattr(self, name) is not None}
        named |= {"close": self.close} if self.close != "reset" else {}
        return f"{text}.{self.act}({_arguments(given, named)})"

    def strike(self, target: HasStatements) -> Strike:
        if self.act == WATCH:
            raise SetupError(f"act must be one of {', '.join(ACTS)}, got {self.act!r}")
        return _strike_rule(self, self, target)


def _strike_rule(fault: Fault, rule: On, target: HasStatements) -> Strike:
    """Have the proxy follow a rule, as the strike of a fault."""
    installed = InstalledRule(target, rule)
    return target.register(
        Strike(fault.label(target), fault, heal=installed.remove, read_receipt=installed.read_receipt)
    )


class InstalledRule:
    """A rule of a target's proxy.

    Args:
        target: the target.
        rule: the rule.

    Raises:
        CannotInject: the proxy cannot read the connections, because they are encrypted.
        SetupError: a setting does not fit the target.
    """

    def __init__(self, target: HasStatements, rule: On) -> None:
        self._proxy: ProxyHandle = target.proxy_handle
        self._unit = UNITS[target.kind]
        self._verb = rule.verb
        attributes = rule.attributes(target.kind)
        before = self._proxy.counters()
        if is_unreadable(before):
            raise CannotInject(
                f"{rule.label(target)}: the connections through the proxy are encrypted, so their {self._unit} can't be read"
            )
        self._encrypted = before.unreadable.get("encrypted", 0)
        self._struck_at = self._proxy.now()
        self._name = self._proxy.add_toxic("statement", stream="upstream", attributes=attributes, label="on")
        self._is_installed = True

    def count(self) -> RuleCount:
        """Return what the rule has counted up to now."""
        return self._proxy.counters().rules.get(self._name, RuleCount())

    def remove(self) -> None:
        """Remove the rule. What it holds goes on."""
        if self._is_installed:
            self._proxy.remove_toxic(self._name)
            self._is_installed = False

    def read_receipt(self) -> Receipt:
        """Count the statements or commands that the rule has acted on."""
        counters = self._proxy.counters()
        count = counters.rules.get(self._name)
        if count is None:
            return Receipt(None, self._unit)
        return Receipt(
            count.acted,
            self._unit,
            first=None if count.first is None else max(0.0, count.first - self._struck_at),
            last=None if count.last is None else max(0.0, count.last - self._struck_at),
            note="" if count.acted else self._reason(count, counters),
            shown=tuple(count.shown),
        )

    def _reason(self, count: RuleCount, counters: ProxyCounters) -> str:
        """Return why the rule has not acted, as far as that is known."""
        encrypted = counters.unreadable.get("encrypted", 0) - self._encrypted
        if encrypted > 0:
            return f"{counted(encrypted, 'connections')} encrypted, of which the {self._unit} can't be read"
        if count.matched:
            return f"{counted(count.matched, self._unit)} matched, and the counts chose none"
        return f"no {self._verb} came"


def is_unreadable(counters: ProxyCounters) -> bool:
    """True if connections are open, and all that the proxy has accepted so far were encrypted."""
    encrypted = counters.unreadable.get("encrypted", 0)
    return bool(counters.live and encrypted and encrypted >= counters.accepted.connections)


@dataclass(frozen=True)
class After(NetworkFault):
    """Inject another fault as soon as a number of statements or commands have been sent through the proxy.

    The fault strikes within 20 milliseconds of the last of them, so the answer to it may have come or not.

    Args:
        verb: as for `on`.
        n: the number of matching statements or commands; at least 1.
        fault: the name of the fault, such as "refuse".
        settings: of the fault, by name.
        matching, key: as for `on`.
    """

    name: ClassVar[str] = "after"
    targets: ClassVar[tuple[str, ...]] = ("postgres", "redis")
    kinds: ClassVar[Mapping[str, type[Fault]]] = {}  # the registry of faults, which is above this file
    verb: str
    n: int = 1
    fault: str = ""
    settings: Mapping[str, Any] | None = field(default=None, hash=False)
    matching: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "verb", checked_verb(self.verb))
        if self.n is None:
            raise SetupError("n must be an integer of at least 1, got None")
        _check_count("n", self.n, least=1)
        _check_text("matching", self.matching)
        _check_text("key", self.key)
        self.inner()

    def inner(self) -> Fault:
        """Return the fault that the event starts.

        Raises:
            SetupError: there is no such fault, or the settings don't fit it.
        """
        known = [name for name in self.kinds if name not in (self.name, On.name)]
        if self.fault not in known:
            raise SetupError(
                f"fault must be the name of a fault, such as 'refuse', got {self.fault!r}{did_you_mean(self.fault, known)}"
            )
        try:
            return self.kinds[self.fault](**(self.settings or {}))
        except TypeError as error:
            raise SetupError(f"fault {self.fault!r}: {error}") from None

    def takes(self) -> Mapping[Need, str]:
        return self.inner().takes()

    def label(self, target: Any) -> str:
        """Return target and fault as the code that strikes it, such as "redis.after('exec', n=2).refuse()"."""
        selection = {"n": self.n} | {
            name: getattr(self, name) for name in ("matching", "key") if getattr(self, name) is not None
        }
        return f"{target.name}.after({_arguments([self.verb], selection)}).{self.fault}({_arguments([], self.settings or {})})"

    def strike(self, target: HasStatements) -> Strike:
        inner = self.inner()
        if target.kind not in inner.targets:
            raise SetupError(f"{self.fault} does not strike {target.name}; it strikes {', '.join(inner.targets)}")
        if reason := target.unsupported(self.fault):
            raise CannotInject(reason)
        rule = InstalledRule(target, On(self.verb, WATCH, matching=self.matching, key=self.key))
        seen = 0

        def has_come() -> bool:
            nonlocal seen
            seen = rule.count().matched
            return seen >= self.n

        event = Event(
            has_come=has_come,
            end=rule.remove,
            missing=lambda: f"{seen} of {self.n} {self.verb} came, so the fault did not strike",
            every=POLL_INTERVAL,
            explain=lambda error: SetupError(f"the fault did not strike: {error}"),
        )
        return Armed(self, inner, target, event, self.label(target)).strike


class _Shorthand(NetworkFault):
    """A rule with a name of its own."""

    def rule(self) -> On:
        """Return the rule."""
        raise NotImplementedError

    def check_kind(self, kind: str) -> None:
        self.rule().check_kind(kind)

    def strike(self, target: HasStatements) -> Strike:
        return _strike_rule(self, self.rule(), target)


@dataclass(frozen=True)
class CommitInDoubt(_Shorthand):
    """Lose the answer to a COMMIT that the server has executed, so that the client does not know its outcome.

    Args:
        nth: the number of the COMMIT, from 1.
    """

    name: ClassVar[str] = "commit_in_doubt"
    targets: ClassVar[tuple[str, ...]] = ("postgres",)
    nth: int = 1

    def __post_init__(self) -> None:
        _check_count("nth", self.nth, least=1)

    def rule(self) -> On:
        return On("commit", "lose_answer", nth=self.nth)


@dataclass(frozen=True)
class _FailedWrite(_Shorthand):
    """An error of the nth write."""

    targets: ClassVar[tuple[str, ...]] = ("postgres",)
    code: ClassVar[str]
    message: ClassVar[str]
    nth: int = 1
    matching: str | None = None

    def __post_init__(self) -> None:
        _check_count("nth", self.nth, least=1)
        _check_text("matching", self.matching)

    def rule(self) -> On:
        return On(WRITES, "error", matching=self.matching, nth=self.nth, code=self.code, message=self.message)


@dataclass(frozen=True)
class SerializationFailure(_FailedWrite):
    """Fail a write with 40001 (serialization_failure), which a client has to answer by repeating the transaction.

    Args:
        nth: the number of the INSERT, UPDATE, DELETE or MERGE, from 1.
        matching: a part of its text; None for any.
    """

    name: ClassVar[str] = "serialization_failure"
    code: ClassVar[str] = "40001"
    message: ClassVar[str] = "could not serialize access due to concurrent update"


@dataclass(frozen=True)
class Deadlock(_FailedWrite):
    """Fail a write with 40P01 (deadlock_detected), which a client has to answer by repeating the transaction.

    Args:
        nth: the number of the INSERT, UPDATE, DELETE or MERGE, from 1.
        matching: a part of its text; None for any.
    """

    name: ClassVar[str] = "deadlock"
    code: ClassVar[str] = "40P01"
    message: ClassVar[str] = "deadlock detected"


@dataclass(frozen=True)
class LoadingReplies(_Shorthand):
    """Reply to commands with LOADING, as a Redis that reads its data from disk, and execute the later ones.

    redis-py repeats a command that got LOADING. So fewer than its number of attempts may remain unseen.

    Args:
        commands: the number of commands, those of a driver's handshake excluded; at least 1.
    """

    name: ClassVar[str] = "loading_replies"
    targets: ClassVar[tuple[str, ...]] = ("redis",)
    commands: int = 3

    def __post_init__(self) -> None:
        _check_count("commands", self.commands, least=1)

    def rule(self) -> On:
        return On("*", "error", first=self.commands, code="LOADING")


def checked_verb(verb: object) -> str:
    """Return a verb in lower case.

    Raises:
        SetupError: it is no verb.
    """
    if not isinstance(verb, str) or not _VERB.fullmatch(verb):
        raise SetupError(
            f"verb must be the first word of a statement or a command, such as 'commit' or 'evalsha', got {verb!r}"
        )
    return verb.lower()


def _check_count(name: str, value: object, *, least: int) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SetupError(f"{name} must be an integer of at least {least}, got {value!r}")


def _check_text(name: str, value: object) -> None:
    if value is not None and not isinstance(value, str):
        raise SetupError(f"{name} must be text, got {value!r}")


def _arguments(positional: Iterable[object], named: Mapping[str, object]) -> str:
    return ", ".join([*map(repr, positional), *(f"{name}={value!r}" for name, value in named.items())])
