"""The passwords that this process knows, and texts without them: what is printed of a failure shows none.

A library that connects takes a URL apart and holds the password as a plain string in a dozen of its frames. `pytest --showlocals` prints
those frames. So each password is remembered where it is made or read, and the plugin replaces it in every report.
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
# Characters; a shorter password may be a word of its own ("postgres"), and is replaced where it must be a password.
MIN_UNIQUE_LENGTH = 12
ELLIPSIS = "..."  # how pytest shortens a long value, in the middle of a password too
MIN_PIECE_LENGTH = 4  # characters of a password that was cut by which it is known

# Part of a name whose value is a secret: DB_PASSWORD, --api-key, authToken; neither PWD nor "author".
SECRET_NAME = (
    r"pass(?:word|wd|phrase|code)|(?<![a-z])pass(?![a-z])|[_-]pwd|secret|token|credential|jwt|signature|(?<![a-z])sig(?![a-z])"
    r"|(?:api|access|private|auth|signing|encryption)[_-]?key|(?<![a-z])auth(?![a-z])|session[_-]?id"
)
_NAMED = re.compile(rf"(?i)({SECRET_NAME})")
_URL = re.compile(r"(\w+://[^:/@\s'\"]*):[^\s'\"]*@")  # up to the last @: rather too much than half a password
_ASSIGNED = re.compile(rf"(?i)(\b|-)([\w.-]*(?:{SECRET_NAME})[\w.-]*[\"']?\s?[=:]\s?[\"']?)([^\s\"'&,;()\[\]{{}}<>]+)")
_FLAG = re.compile(rf"(?i)^--?[\w-]*(?:{SECRET_NAME})[\w-]*$")
_FLAG_INSIDE = re.compile(rf"(?i)((?<!\S)--?[\w-]*(?:{SECRET_NAME})[\w-]*\s+)([^\s-]\S*)")
_SQL = re.compile(r"(?i)\b(password\s+)'[^']*'")
_SCHEME = re.compile(r"(?i)\b(bearer|basic)\s+[\w+/=.~-]{8,}")
MIN_RANDOM_LENGTH = 20  # characters; a value of a query that long is taken for a secret whatever its name
MIN_VALUE_LENGTH = 6  # characters; a shorter value may be part of another word
MAX_PATH_LENGTH = 120  # characters of a request's path that a message shows

_passwords: dict[str, re.Pattern[str]] = {}  # in every form in which it is written: what finds it


class Private(dict[str, Any]):
    """A dictionary whose values no traceback shows."""

    def __repr__(self) -> str:
        return f"<{counted(len(self), 'values')}, not shown>"


def new_password() -> str:
    """Return a random password of 36 characters, remembered."""
    password = os.urandom(18).hex()
    remember(password)
    return password


def remember(password: str | None) -> None:
    """Remember a password for the rest of this process; None and "" are none."""
    if not password:
        return
    forms = {password, quote(password, safe=""), quote(password), quote_plus(password)}
    forms |= {repr(password)[1:-1], json.dumps(password)[1:-1]}
    for form in forms - _passwords.keys():
        _passwords[form] = _pattern(form)


def remember_url(url: str) -> None:
    """Remember the password of a URL, if it has one; a text that is no URL has none."""
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
    """Return the text without any password that is remembered, or the beginning or end of one that was cut."""
    for form, pattern in _passwords.items():
        if form in text:
            text = pattern.sub(HIDDEN, text)
        if ELLIPSIS in text and len(form) >= MIN_UNIQUE_LENGTH:
            text = _without_pieces(text, form)
    return text


def is_secret(name: str) -> bool:
    """True if a variable or option of that name holds a secret: DB_PASSWORD, --api-key."""
    return _NAMED.search(name) is not None


def remember_environment(environment: Mapping[str, str]) -> None:
    """Remember the secrets of an environment: the values of secret names, and the passwords of URLs."""
    for name, value in environment.items():
        if is_secret(name):
            remember(value)
        if "://" in value:
            remember_url(value)


def scrubbed(text: str) -> str:
    """Return a text, such as a log, without remembered passwords and without what it calls a password, token or key itself."""
    text = _URL.sub(rf"\1:{HIDDEN}@", redacted(text))
    text = _SQL.sub(rf"\1'{HIDDEN}'", text)
    return _SCHEME.sub(rf"\1 {HIDDEN}", _ASSIGNED.sub(rf"\1\2{HIDDEN}", text))


def redacted_command(argv: Iterable[object], environment: Mapping[str, str] | None = None) -> list[str]:
    """Return a command line as a message may show it.

    Args:
        argv: program and arguments.
        environment: variables whose values may stand in it; each is shown by its name, "$TOKEN".
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
    """Return the path and query of a request as a message may show it: without secrets, and not too long."""
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
    """Return a report's value without passwords: strings are replaced, lists and pytest's own objects are changed in place."""
    if not _passwords:
        return value
    match value:
        case str():
            return redacted(value)
        case tuple():
            return tuple(map(redact_report, value))
        case list():
            value[:] = map(redact_report, value)
        case _ if hasattr(value, "toterminal"):  # what pytest makes of an exception, and the parts of that
            for name, part in vars(value).items():
                object.__setattr__(value, name, redact_report(part))
    return value
