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

KINDS = ("postgres", "lock", "redis", "subscription", "socket", "fd", "thread", "task", "process")
UNNAMED = "unnamed"  # a session that did not say what it is


class Resource(NamedTuple):
    """One value that is there.

    Args:
        kind: what it is, such as "thread".
        name: what people call it; several may have the same.
        key: what tells it from the others of its kind.
        value: itself, for whoever has to say details about it.
        server: the server that told of it; "" for what this process has.
    """

    kind: str
    name: str
    key: Hashable
    value: Any = None
    server: str = ""


class Leak(NamedTuple):
    """One value that a test has left behind. `str` returns the line that the report has for it.

    Attributes:
        name: kind and name, as the marker has it: "thread:watcher-1".
        details: what else is known: where it stands, which process holds it.
        aliases: other names that a marker may give it.
        descriptor: what this process has open of it, if it has.
    """

    name: str
    details: str = ""
    aliases: tuple[str, ...] = ()
    descriptor: Any = None

    @property
    def kind(self) -> str:
        """What it is, such as "thread"."""
        return self.name.partition(":")[0]

    def __str__(self) -> str:
        return f"{self.name}, {self.details}" if self.details else self.name

    def __repr__(self) -> str:
        return f"<Leak {self}>"

    def allowed_by(self, patterns: Iterable[str]) -> bool:
        """Whether one of the patterns names it: literally, or as fnmatch has it."""
        names = (self.name, *self.aliases)
        return any(pattern == name or fnmatchcase(name, pattern) for pattern in patterns for name in names)


def new_resources(before: Sequence[Resource], after: Sequence[Resource]) -> list[Resource]:
    """What is too much in `after`, the newest first to be blamed, in the order of `after`."""
    too_many = Counter((resource.kind, resource.name) for resource in after)
    too_many.subtract((resource.kind, resource.name) for resource in before)
    known = {(resource.kind, resource.name, resource.key) for resource in before}
    left = []
    for resource in reversed(after):
        if too_many[resource.kind, resource.name] > 0 and (resource.kind, resource.name, resource.key) not in known:
            too_many[resource.kind, resource.name] -= 1
            left.append(resource)
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
    check_names(arguments, f"the marker leaks takes names such as {example}")


def check_names(names: Iterable[object], takes: str) -> None:
    """See whether all names are names of what can be left.

    Args:
        names: such as "thread:watcher-*".
        takes: the begin of the message.

    Raises:
        SetupError: one is not.
    """
    for name in names:
        kind, _, rest = name.partition(":") if isinstance(name, str) else ("", "", "")
        if kind not in KINDS or not rest:
            hint = did_you_mean(kind, KINDS) if kind not in KINDS else ""
            raise SetupError(f"{takes}, of these kinds: {', '.join(KINDS)}; got {name!r}{hint}")
