"""The attributes of a toxic of the type "statement", an extension of Toxiproxy's API.

A rule selects statements (Postgres) or commands (Redis), and has one act. The functions are pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from fnmatch import translate
from functools import cached_property
from typing import Any

from .api_error import bad_body
from .go_json import MAX_INT64, GoTarget, read_bool, read_int64, read_object, read_text

PROTOCOLS = ("postgres", "redis")
"""The protocols that a proxy can read."""

ACTS = ("none", "error", "fatal", "reset", "hang", "delay", "lose_answer", "cut_answer")
CLOSES = ("reset", "silence")
MAX_DELAY_MS = MAX_INT64 // 1_000_000

_SQLSTATE = re.compile("[0-9A-Z]{5}")
_VERBS = {"postgres": re.compile(r"\*|[^\s|]+"), "redis": re.compile(r"\*|[^\s|]+( [^\s|]+)?")}
_NO_ERRORS = ("00", "01", "02")  # classes of SQLSTATE: success, warning, no data
_ERROR_TEXT = re.compile(r"[^\r\n]+")
_PATTERN = "re:"


@dataclass(frozen=True)
class StatementRule:
    """The settings of one rule.

    Attributes:
        verb: the statement's or command's first word in lower case, such as "commit" or "evalsha"; "connect" for the beginning
            of a session; "*" for all but that and the handshake of a driver. "insert|update" has alternatives, and a verb of Redis may
            have a subcommand, as in "config get".
        act: one of ACTS. "none" counts only.
        matching: a part of the statement's text in any case, or "re:" with a regular expression; None for any text. Postgres only.
        key: a glob for the command's keys, of which one has to match; None for any. Redis only.
        client: a glob for the client's name (Postgres: application_name); None for any.
        nth: the only matching statement to act on, from 1; None for all.
        first: the number of statements to act on; None for no limit.
        every: act on each statement whose number can be divided by this one; None for each.
        after: the number of matching statements to leave alone before all other counts begin.
        per_connection: True counts for each connection, False over all connections.
        code: a SQLSTATE, or the text of Redis' error; "" for acts without an error.
        message: the text of Postgres' error; "" for a text of the proxy.
        delay_ms: milliseconds of a delay.
        rows: rows of the answer to pass before the cut; None to cut by bytes.
        bytes: bytes of the answer to pass before the cut; None to cut by rows.
        close: "reset" ends the connection with a RST, "silence" passes nothing any more.
    """

    verb: str
    act: str
    matching: str | None = None
    key: str | None = None
    client: str | None = None
    nth: int | None = None
    first: int | None = None
    every: int | None = None
    after: int = 0
    per_connection: bool = False
    code: str = ""
    message: str = ""
    delay_ms: int = 0
    rows: int | None = None
    bytes: int | None = None
    close: str = "reset"

    @cached_property
    def verbs(self) -> frozenset[str]:
        """The alternatives of `verb`."""
        return frozenset(self.verb.split("|"))

    def selects(self, number: int) -> bool:
        """True if the counts select the matching statement of this number, from 1. `first` is not among them."""
        number -= self.after
        if number < 1 or (self.nth is not None and number != self.nth):
            return False
        return self.every is None or number % self.every == 0

    def text_matcher(self) -> Callable[[str], bool]:
        """Return a predicate for the texts of statements."""
        if self.matching is None:
            return lambda _: True
        if self.matching.startswith(_PATTERN):
            search = re.compile(self.matching.removeprefix(_PATTERN), re.IGNORECASE | re.DOTALL).search
            return lambda text: search(text) is not None
        part = self.matching.casefold()
        return lambda text: part in text.casefold()

    def as_json(self) -> dict[str, Any]:
        """Return the attributes that differ from their defaults, verb and act included."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name in ("verb", "act") or getattr(self, field.name) != field.default
        }


def glob_matcher(glob: str | None) -> Callable[[str], bool]:
    """Return a predicate for names, by a glob that matches whole names in their case. None matches every name."""
    if glob is None:
        return lambda _: True
    match = re.compile(translate(glob)).match
    return lambda name: match(name) is not None


def part_of_glob(glob: str | None) -> bytes:
    """Return the longest part that all names have in common which a glob matches.

    It is b"" without such a part, and for names beyond ASCII, which do not need to be UTF-8.
    """
    plain, _, _ = (glob or "").partition("[")
    longest = max(re.split(r"[*?]", plain), key=len)
    return longest.encode() if longest.isascii() else b""


_TEXTS = ("verb", "act", "matching", "key", "client", "code", "message", "close")
_RANGES = {
    "nth": (1, MAX_INT64),
    "first": (1, MAX_INT64),
    "every": (1, MAX_INT64),
    "after": (0, MAX_INT64),
    "delay_ms": (1, MAX_DELAY_MS),
    "rows": (0, MAX_INT64),
    "bytes": (0, MAX_INT64),
}
_FOREIGN = {"postgres": ("key",), "redis": ("matching", "message", "rows")}
_NEEDED_BY = {"code": ("error", "fatal"), "delay_ms": ("delay",)}
_ALLOWED_FOR = {
    "code": ("error", "fatal"),
    "message": ("error", "fatal"),
    "delay_ms": ("delay",),
    "rows": ("cut_answer",),
    "bytes": ("cut_answer",),
    "close": ("lose_answer", "cut_answer"),
}


def read_rule(value: Any, protocol: str, onto: Mapping[str, Any] | None = None) -> StatementRule:
    """Return a rule out of the decoded JSON value of the attributes.

    Args:
        value: a value that `decode` returned.
        protocol: one of PROTOCOLS.
        onto: the attributes before an update; None for a new rule. A null in `value` sets the default.

    Raises:
        ApiError: 400 that names the attribute, for a value of the wrong type or out of range, and for an attribute that is
            missing, unknown, or without use for the act or the protocol.
    """
    values = dict(onto or {})
    for key, member in read_object(value, GoTarget("ToxicWrapper", "attributes"), "toxics.StatementToxic"):
        name = key.casefold()
        if member is None:
            values.pop(name, None)
        else:
            values[name] = _read_attribute(name, member)
    for name in ("verb", "act"):
        if not values.get(name):
            raise bad_body(f"{name}: missing")
    rule = StatementRule(**values)
    check_rule(rule, protocol)
    return rule


def _read_attribute(name: str, value: Any) -> Any:
    into = GoTarget("StatementToxic", f"attributes.{name}")
    if name in _TEXTS:
        return read_text(value, into)
    if name == "per_connection":
        return read_bool(value, into)
    if name not in _RANGES:
        known = ", ".join(field.name for field in fields(StatementRule))
        raise bad_body(f"{name}: no such attribute of a statement; there are {known}")
    low, high = _RANGES[name]
    number = read_int64(value, into)
    if not low <= number <= high:
        raise bad_body(f"{name} must be from {low} to {high}, not {number}")
    return number


def check_rule(rule: StatementRule, protocol: str) -> None:
    """Check that the settings of a rule fit each other and the protocol.

    Raises:
        ApiError: 400 that names the attribute.
    """
    given = rule.as_json()
    _check_verb(rule.verb, protocol)
    for name, choices in (("act", ACTS), ("close", CLOSES)):
        if getattr(rule, name) not in choices:
            raise bad_body(f"{name} must be one of {', '.join(choices)}, not {getattr(rule, name)}")
    for name in _FOREIGN[protocol]:
        if name in given:
            raise bad_body(f"{name} has no use for protocol {protocol}")
    for name, acts in _ALLOWED_FOR.items():
        if name in given and rule.act not in acts:
            raise bad_body(f"{name} has no use for act {rule.act}; it belongs to {', '.join(acts)}")
    for name, acts in _NEEDED_BY.items():
        if name not in given and rule.act in acts:
            raise bad_body(f"{name}: missing; act {rule.act} needs it")
    if rule.verb == "connect" and rule.rows is not None:
        raise bad_body("rows has no use for verb connect, whose answer has no rows")
    if rule.act == "cut_answer" and (rule.rows is None) == (rule.bytes is None):
        raise bad_body("act cut_answer needs either rows or bytes")
    _check_code(rule, protocol)
    _check_matching(rule)


def _check_verb(verb: str, protocol: str) -> None:
    is_lower = verb == verb.lower()
    if not is_lower or not all(_VERBS[protocol].fullmatch(each) for each in verb.split("|")):
        raise bad_body(
            f"verb must be one word in lower case, such as commit, or several as in insert|update, not {verb!r}"
        )


def _check_code(rule: StatementRule, protocol: str) -> None:
    if not rule.code:
        return
    if protocol == "redis":
        if not _ERROR_TEXT.fullmatch(rule.code):
            raise bad_body(f"code must be one line, such as LOADING or a whole error, not {rule.code!r}")
    elif not _SQLSTATE.fullmatch(rule.code) or rule.code.startswith(_NO_ERRORS):
        raise bad_body(
            f"code must be the SQLSTATE of an error, five digits or capitals such as 40001, not {rule.code!r}"
        )
    if "\0" in rule.message:
        raise bad_body("message must not contain NUL")


def _check_matching(rule: StatementRule) -> None:
    if rule.matching is not None and rule.matching.startswith(_PATTERN):
        try:
            rule.text_matcher()
        except re.error as error:
            raise bad_body(f"matching: {rule.matching!r} is no regular expression: {error}") from None
