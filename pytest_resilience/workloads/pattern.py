"""The kinds and objects of operations, as pure functions of their numbers, so that a schedule replays and shrinks."""

from __future__ import annotations

from collections.abc import Sequence

GROUP = 4  # operations in a row on one object, so that clients race for it


def pattern(kinds: Sequence[str], full: Sequence[str]) -> tuple[str, ...]:
    """Return the kinds of consecutive operations: those of `full` that are among `kinds`, and all of `kinds` at least once."""
    known = [kind for kind in full if kind in kinds]
    return (*known, *(kind for kind in kinds if kind not in known))


def slot(n: int, slots: int) -> int:
    """Return the number of the object that operation `n` is about.

    Groups of four operations in a row are about one object. After twelve operations, the objects change places among the groups,
    so that each object meets each kind.
    """
    return (n // GROUP + n // (3 * GROUP)) % slots
