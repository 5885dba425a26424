"""Numbers and names in messages: the right plural, and what a wrong name may have meant."""

from __future__ import annotations

from collections.abc import Iterable


def counted(number: int, plural: str) -> str:
    """Return the number with its noun: "1 process", "2 processes", "0 bytes"."""
    return f"{number} {singular(plural) if number == 1 else plural}"


def listed(plural: str, things: Iterable[object]) -> str:
    """Return the noun with the things it stands for: "process 12", "processes 12 and 13"."""
    *others, last = map(str, things)
    return f"{plural} {', '.join(others)} and {last}" if others else f"{singular(plural)} {last}"


def singular(plural: str) -> str:
    """Return the singular of the last word: "process" of "processes", "good answer" of "good answers"."""
    for ending, instead in ("sses", "ss"), ("ies", "y"), ("s", ""):
        if plural.endswith(ending):
            return plural.removesuffix(ending) + instead
    return plural


def close_matches(name: object, known: Iterable[str]) -> list[str]:
    """Return up to three of the known names that are most like this one, the nearest first."""
    from difflib import SequenceMatcher, get_close_matches  # paid for by a wrong name

    wrong, lower = str(name).lower(), {each.lower(): each for each in known}
    found = get_close_matches(wrong, lower, n=3, cutoff=0.6)
    alike = [SequenceMatcher(None, each, wrong).ratio() for each in found]
    return [lower[each] for each, ratio in zip(found, alike, strict=True) if ratio > alike[0] - 0.1]


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return "; did you mean 'refuse'?" with the nearest of the known names, or "" where none is near."""
    return suggestion(close_matches(name, known))


def suggestion(names: Iterable[str]) -> str:
    """Return "; did you mean 'refuse'?" with these names, or "" where there are none."""
    quoted = [repr(each) for each in names]
    return f"; did you mean {' or '.join(quoted)}?" if quoted else ""


def no_attribute(owner: object, name: str) -> AttributeError:
    """Return the error of `owner.name` where there is none; what `owner` has of that name, but could not give, raises its own.

    From Python 3.12 on a traceback's last line suggests a name too: it looks at `obj`, which is therefore another object.
    """
    if hasattr(type(owner), name):
        object.__getattribute__(owner, name)  # a property that raised AttributeError: its own message is the right one
    known = [each for each in dir(owner) if not each.startswith("_")]
    hint = did_you_mean(name, known) if not name.startswith("_") else ""
    return AttributeError(f"{type(owner).__name__!r} object has no attribute {name!r}{hint}", name=name, obj=None)
