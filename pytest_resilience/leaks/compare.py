"""What is there now, compared with what was there, and with what a test may leave: pure.

Numbers count and not identities: a connection that took the place of another of its kind and name is none too many, since a pool
of the session may have reconnected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from ..errors import SetupError
from ..wording import did_you_mean

KINDS = ("postgres", "lock", "redis", "subscription", "socket", "fd", "thread", "task")
UNNAMED = "unnamed"  # a session that did not say what it is


class Trace(NamedTuple):
    """One thing that is there.

    Args:
        kind: what it is, such as "thread".
        name: what people call it; several may have the same.
        key: what tells it from the others of its kind.
        thing: itself, for whoever has to say more about it.
        server: the server that told of it; "" for what this process has.
    """

    kind: str
    name: str
    key: Hashable
    thing: Any = None
    server: str = ""


class Leak(NamedTuple):
    """One thing that a test has left behind.

    Args:
        name: kind and name, as the marker has it: "thread:watcher-1".
        more: what else is known: where it stands, who holds it.
        aliases: other names that a marker may give it.
        descriptor: what this process has open of it, if it has.
    """

    name: str
    more: str = ""
    aliases: tuple[str, ...] = ()
    descriptor: Any = None

    def __str__(self) -> str:
        return f"{self.name}, {self.more}" if self.more else self.name

    def allowed_by(self, patterns: Iterable[str]) -> bool:
        """Whether one of the patterns names it: literally, or as fnmatch has it."""
        names = (self.name, *self.aliases)
        return any(pattern == name or fnmatchcase(name, pattern) for pattern in patterns for name in names)


def stayed(before: Sequence[Trace], after: Sequence[Trace]) -> list[Trace]:
    """What is too much in `after`, the newest first to be blamed, in the order of `after`."""
    too_many = Counter((trace.kind, trace.name) for trace in after)
    too_many.subtract((trace.kind, trace.name) for trace in before)
    known = {(trace.kind, trace.name, trace.key) for trace in before}
    left = []
    for trace in reversed(after):
        if too_many[trace.kind, trace.name] > 0 and (trace.kind, trace.name, trace.key) not in known:
            too_many[trace.kind, trace.name] -= 1
            left.append(trace)
    return left[::-1]


def check_patterns(arguments: Sequence[object], settings: Iterable[str] = ()) -> None:
    """See whether a marker says what its test may leave.

    Raises:
        SetupError: it names nothing, or something that can't be left.
    """
    example = '@pytest.mark.leaks("thread:watcher-*")'
    if any(True for _ in settings):
        raise SetupError(f"the marker leaks takes names only, such as {example}; got {', '.join(settings)}=")
    if not arguments:
        raise SetupError(f"the marker leaks needs the name of what the test may leave behind, such as {example}")
    for argument in arguments:
        kind, _, name = argument.partition(":") if isinstance(argument, str) else ("", "", "")
        if kind not in KINDS or not name:
            hint = did_you_mean(kind, KINDS) if kind not in KINDS else ""
            raise SetupError(
                f"the marker leaks takes names such as {example}, of these kinds: {', '.join(KINDS)}; got {argument!r}{hint}"
            )
