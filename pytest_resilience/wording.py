"""Plurals and suggestions in messages."""

from __future__ import annotations

from collections.abc import Iterable


def counted(number: int, plural: str) -> str:
    """Return the number with its noun, such as "1 process", "2 processes" and "0 bytes"."""
    return f"{number} {singular(plural) if number == 1 else plural}"


def listed(plural: str, things: Iterable[object]) -> str:
    """Return the noun and the things, such as "process 12" and "processes 12 and 13"."""
    *others, last = map(str, things)
    return f"{plural} {', '.join(others)} and {last}" if others else f"{singular(plural)} {last}"


def singular(plural: str) -> str:
    """Return the plural with its last word in the singular, such as "good answer" for "good answers"."""
    for ending, instead in ("sses", "ss"), ("ies", "y"), ("s", ""):
        if plural.endswith(ending):
            return plural.removesuffix(ending) + instead
    return plural


def described(error: BaseException) -> str:
    """Return type and message of an error, because the `repr` of some libraries' errors has other names."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def close_matches(name: object, candidates: Iterable[str]) -> list[str]:
    """Return up to three candidates that are most similar to `name`, the most similar first."""
    from difflib import SequenceMatcher, get_close_matches  # slow to import, and needed for wrong names only

    wrong, lower = str(name).lower(), {each.lower(): each for each in candidates}
    found = get_close_matches(wrong, lower, n=3, cutoff=0.6)
    alike = [SequenceMatcher(None, each, wrong).ratio() for each in found]
    return [lower[each] for each, ratio in zip(found, alike, strict=True) if ratio > alike[0] - 0.1]


def did_you_mean(name: object, candidates: Iterable[str]) -> str:
    """Return "; did you mean 'refuse'?" with the most similar candidates, or "" if none is similar."""
    return suggestion(close_matches(name, candidates))


def suggestion(names: Iterable[str]) -> str:
    """Return "; did you mean 'refuse'?" with these names, or "" without names."""
    quoted = [repr(each) for each in names]
    return f"; did you mean {' or '.join(quoted)}?" if quoted else ""


def no_attribute(owner: object, name: str, more: Iterable[str] = ()) -> AttributeError:
    """Return the AttributeError for `owner.name`, with a suggestion.

    From Python 3.12 on, the last line of a traceback suggests a name out of the error's `obj`, which is None here: one suggestion
    is enough.

    Args:
        owner: the object.
        name: the name that it does not have.
        more: names that it has beside those of `dir`.

    Raises:
        AttributeError: the error of a property of `owner` that has this name.
    """
    if hasattr(type(owner), name):
        object.__getattribute__(owner, name)  # a property that raised AttributeError raises again
    known = [*(each for each in dir(owner) if not each.startswith("_")), *more]
    hint = did_you_mean(name, known) if not name.startswith("_") else ""
    return AttributeError(f"{type(owner).__name__!r} object has no attribute {name!r}{hint}", name=name, obj=None)
