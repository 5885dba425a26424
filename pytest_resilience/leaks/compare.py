"""The comparison of resources with those of an earlier moment, and with the patterns of a marker. Pure.

Resources are compared by count, not by identity: a pool may reconnect, so a new connection that replaces one of its kind and
name is no leak.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from ..errors import SetupError
from ..wording import did_you_mean

KINDS = ("postgres", "lock", "redis", "subscription", "socket", "fd", "thread", "task", "process")
UNNAMED = "unnamed"  # a session without an application name


class Resource(NamedTuple):
    """One resource at one moment.

    Args:
        kind: the kind, such as "thread".
        name: the name that a marker gives it. Several resources may have one name.
        key: distinguishes it from other resources of its kind and name.
        value: the object itself, from which details are read.
        server: the server that reported it; "" for a resource of this process.
    """

    kind: str
    name: str
    key: Hashable
    value: Any = None
    server: str = ""

    @property
    def id(self) -> Hashable:
        """The kind, the name and the key."""
        return self.kind, self.name, self.key


class Leak(NamedTuple):
    """One resource that a test has leaked. `str` returns its line in the report.

    Attributes:
        name: kind and name, as a marker has them: "thread:watcher-1".
        details: further facts, such as the line that it executes or the process that holds it.
        aliases: other names that a marker may give it.
        descriptor: the descriptor of this process, if it has one.
    """

    name: str
    details: str = ""
    aliases: tuple[str, ...] = ()
    descriptor: Any = None

    @property
    def kind(self) -> str:
        """The kind, such as "thread"."""
        return self.name.partition(":")[0]

    def __str__(self) -> str:
        return f"{self.name}, {self.details}" if self.details else self.name

    def __repr__(self) -> str:
        return f"<Leak {self}>"

    def allowed_by(self, patterns: Iterable[str]) -> bool:
        """True if a pattern matches its name, literally or by the rules of fnmatch."""
        names = (self.name, *self.aliases)
        return any(pattern == name or fnmatchcase(name, pattern) for pattern in patterns for name in names)


def new_resources(before: Sequence[Resource], after: Sequence[Resource]) -> list[Resource]:
    """Return the surplus resources of `after`, in its order. Of several with one name, the newest are the surplus."""
    surplus = Counter((resource.kind, resource.name) for resource in after)
    surplus.subtract((resource.kind, resource.name) for resource in before)
    known = {resource.id for resource in before}
    new = []
    for resource in reversed(after):
        if surplus[resource.kind, resource.name] > 0 and resource.id not in known:
            surplus[resource.kind, resource.name] -= 1
            new.append(resource)
    return new[::-1]


def check_patterns(arguments: Sequence[object], settings: Mapping[str, object] | None = None) -> None:
    """Check the arguments of a marker `leaks`.

    Raises:
        SetupError: the marker names nothing, or something that can't be leaked, or its patience is no number of seconds.
    """
    example = '@pytest.mark.leaks("thread:watcher-*")'
    settings = settings or {}
    if unknown := [name for name in settings if name != "patience"]:
        hint = f"takes names and patience=, such as {example}"
        raise SetupError(f"the marker leaks {hint}; got {', '.join(unknown)}=")
    if "patience" in settings:
        patience = settings["patience"]
        if not isinstance(patience, int | float) or isinstance(patience, bool) or not 0 <= patience < float("inf"):
            raise SetupError(f"the marker leaks: patience is in seconds from 0 on, got {patience!r}")
    elif not arguments:
        raise SetupError(f"the marker leaks needs the name of a resource that the test may leak, such as {example}")
    check_names(arguments, f"the marker leaks takes names such as {example}")


def check_names(names: Iterable[object], rule: str) -> None:
    """Check that each name is the name of a resource that can be leaked.

    Args:
        names: the names, such as "thread:watcher-*".
        rule: the begin of the message.

    Raises:
        SetupError: a name is not.
    """
    for name in names:
        kind, _, rest = name.partition(":") if isinstance(name, str) else ("", "", "")
        if kind not in KINDS or not rest:
            hint = did_you_mean(kind, KINDS) if kind not in KINDS else ""
            raise SetupError(f"{rule}, of these kinds: {', '.join(KINDS)}; got {name!r}{hint}")
