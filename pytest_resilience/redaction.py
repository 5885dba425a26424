"""Removal of passwords from reports, logs and messages.

A library that connects parses a URL and keeps the password as a plain string in a dozen of its frames. `pytest --showlocals` prints
those frames. So each password is remembered where it is generated or read, and the plugin replaces it in every report.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, urlsplit

from .wording import counted

HIDDEN = "***"
# Characters. A shorter password may be an ordinary word ("postgres"), and is replaced only where it must be a password.
MIN_UNIQUE_LENGTH = 12
ELLIPSIS = "..."  # pytest shortens long values with it, also in the middle of a password
MIN_PIECE_LENGTH = 4  # characters by which a piece of a shortened password is recognized

# A part of the names of secrets such as DB_PASSWORD, --api-key and authToken. PWD and "author" do not match.
SECRET_NAME = (
    r"pass(?:word|wd|phrase|code)|(?<![a-z])pass(?![a-z])|[_-]pwd|secret|token|credential|jwt|signature|(?<![a-z])sig(?![a-z])"
    r"|(?:api|access|private|auth|signing|encryption)[_-]?key|(?<![a-z])auth(?![a-z])|session[_-]?id"
)
_NAMED = re.compile(rf"(?i)({SECRET_NAME})")
_URL = re.compile(r"(\w+://[^:/@\s'\"]*):[^\s'\"]*@")  # up to the last @, since a password may contain one
_ASSIGNED = re.compile(rf"(?i)(\b|-)([\w.-]*(?:{SECRET_NAME})[\w.-]*[\"']?\s?[=:]\s?[\"']?)([^\s\"'&,;()\[\]{{}}<>]+)")
_FLAG = re.compile(rf"(?i)^--?[\w-]*(?:{SECRET_NAME})[\w-]*$")
_FLAG_INSIDE = re.compile(rf"(?i)((?<!\S)--?[\w-]*(?:{SECRET_NAME})[\w-]*\s+)([^\s-]\S*)")
_SQL = re.compile(r"(?i)\b(password\s+)'[^']*'")
_PLAIN = re.compile(r"[\w./-]*")  # texts that name nothing: all patterns of `scrubbed` need another character
_SCHEME = re.compile(r"(?i)\b(bearer|basic)\s+[\w+/=.~-]{8,}")
MIN_RANDOM_LENGTH = 20  # characters; a query value of this length is treated as a secret under any name
MIN_VALUE_LENGTH = 6  # characters; a shorter value may be part of another word
MAX_PATH_LENGTH = 120  # characters of a request's path in a message

_passwords: dict[str, re.Pattern[str]] = {}  # a pattern for each written form of a password


class Private(dict[str, Any]):
    """A dictionary that hides its values in tracebacks."""

    def __repr__(self) -> str:
        return f"<{counted(len(self), 'values')}, not shown>"


def new_password() -> str:
    """Return a random password of 36 characters, which is remembered."""
    password = os.urandom(18).hex()
    remember(password)
    return password


def remember(password: str | None) -> None:
    """Remember a password for the rest of this process. None and "" are ignored."""
    if not password:
        return
    forms = {password, quote(password, safe=""), quote(password), quote_plus(password)}
    forms |= {repr(password)[1:-1], json.dumps(password)[1:-1]}
    for form in forms - _passwords.keys():
        _passwords[form] = _pattern(form)


def remember_url(url: str) -> None:
    """Remember the password of a URL, if any. A text that is no URL is ignored."""
    try:
        remember(_decoded(urlsplit(url).password))
    except ValueError:
        return


def _decoded(text: str | None) -> str | None:
    from urllib.parse import unquote

    return unquote(text) if text else None


def _pattern(form: str) -> re.Pattern[str]:
    text = re.escape(form)
    if len(form) >= MIN_UNIQUE_LENGTH:
        return re.compile(text)
    # In quotes, in a URL, and as `password=...` of a connection string.
    return re.compile(rf"(?<=['\"]){text}(?=['\"])|(?<=:){text}(?=@)|(?<=password=){text}(?!\w)")


def redacted(text: str) -> str:
    """Return the text without remembered passwords, and without the beginning or end of a shortened one."""
    for form, pattern in _passwords.items():
        if form in text:
            text = pattern.sub(HIDDEN, text)
        if ELLIPSIS in text and len(form) >= MIN_UNIQUE_LENGTH:
            text = _without_pieces(text, form)
    return text


def is_secret(name: str) -> bool:
    """True if a variable or option of that name holds a secret, such as DB_PASSWORD and --api-key."""
    return _NAMED.search(name) is not None


def remember_environment(environment: Mapping[str, str]) -> None:
    """Remember the values of variables with secret names, and the passwords of URLs in an environment."""
    for name, value in environment.items():
        if is_secret(name):
            remember(value)
        if "://" in value:
            remember_url(value)


def scrubbed(text: str) -> str:
    """Return a text such as a log without remembered passwords and without values that it names a password, token or key."""
    text = redacted(text)
    if _PLAIN.fullmatch(text):
        return text
    text = _URL.sub(rf"\1:{HIDDEN}@", text)
    text = _SQL.sub(rf"\1'{HIDDEN}'", text)
    return _SCHEME.sub(rf"\1 {HIDDEN}", _ASSIGNED.sub(rf"\1\2{HIDDEN}", text))


def redacted_command(argv: Iterable[object], environment: Mapping[str, str] | None = None) -> list[str]:
    """Return a command line for a message, without secrets.

    Args:
        argv: program and arguments.
        environment: variables. Their values are replaced by their names, such as "$TOKEN". None for no variables.
    """
    shown: list[str] = []
    values = sorted(((environment or {}).items()), key=lambda item: -len(item[1]))
    for word in map(str, argv):
        for name, value in values:
            if value == word or (len(value) >= MIN_VALUE_LENGTH and value in word):
                word = word.replace(value, f"${name}")
        secret = bool(shown) and _FLAG.match(shown[-1]) and not word.startswith(("-", "$"))
        shown.append(HIDDEN if secret else _FLAG_INSIDE.sub(rf"\1{HIDDEN}", scrubbed(word)))
    return shown


def redacted_path(target: str) -> str:
    """Return the path and query of a request for a message, without secrets and shortened to MAX_PATH_LENGTH."""
    path, mark, query = target.partition("?")
    pairs = [each.partition("=") for each in query.split("&")] if mark else []
    shown = "&".join(
        f"{name}{is_}{HIDDEN if value and (is_secret(name) or len(value) >= MIN_RANDOM_LENGTH or name == 'code') else value}"
        for name, is_, value in pairs
    )
    text = redacted(f"{path}{mark}{shown}")
    return text if len(text) <= MAX_PATH_LENGTH else f"{text[:MAX_PATH_LENGTH]}{ELLIPSIS}"


def _without_pieces(text: str, password: str) -> str:
    first, *others = text.split(ELLIPSIS)
    pieces = [first]
    for piece in others:
        pieces[-1] = _without_end(pieces[-1], password)
        pieces.append(_without_begin(piece, password))
    return ELLIPSIS.join(pieces)


def _without_end(text: str, password: str) -> str:
    for size in range(len(password) - 1, MIN_PIECE_LENGTH - 1, -1):
        if text.endswith(password[:size]):
            return text[:-size] + HIDDEN
    return text


def _without_begin(text: str, password: str) -> str:
    for size in range(len(password) - 1, MIN_PIECE_LENGTH - 1, -1):
        if text.startswith(password[-size:]):
            return HIDDEN + text[size:]
    return text


def redact_report(value: Any) -> Any:
    """Return a value of a report without passwords. Lists and pytest's objects are changed in place."""
    if not _passwords:
        return value
    match value:
        case str():
            return redacted(value)
        case tuple():
            return tuple(map(redact_report, value))
        case list():
            value[:] = map(redact_report, value)
        case _ if hasattr(value, "toterminal"):  # pytest's representation of an exception, and its parts
            for name, part in vars(value).items():
                object.__setattr__(value, name, redact_report(part))
    return value


def redact_subtest(context: Any) -> None:
    """Remove passwords from the name and the parameters of a subtest.

    Args:
        context: the attribute `context` of a report, whose class is frozen. An object of another kind is left alone.
    """
    if _passwords and hasattr(context, "msg") and isinstance(getattr(context, "kwargs", None), Mapping):
        object.__setattr__(context, "msg", redact_report(context.msg))
        object.__setattr__(context, "kwargs", {name: redact_report(value) for name, value in context.kwargs.items()})
