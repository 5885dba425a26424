"""The words with which verdicts name operations, values and times."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..operation import Operation
from .registers import entries

MAX_VALUE = 60  # characters of a value in a sentence


def shown(value: Any) -> str:
    """Return a value as a sentence has it, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 3]}..."


def written(write: Operation) -> str:
    """Return the version and the value that a write has made, such as "version 3 ('w1.7')"."""
    if write.version is None:
        return f"value {shown(write.value)}"
    return f"version {write.version}" + ("" if write.value is None else f" ({shown(write.value)})")


def read_of(read: Operation, key: str) -> str:
    """Return the state of a key that a read has shown, such as "version 2 ('w1.3')" or "no object"."""
    found = entries(read)
    return written(read._replace(value=found[key])) if key in found else "no object"


def acknowledged(write: Operation) -> str:
    """Return when a write was acknowledged, and to which client."""
    return f"acknowledged at {write.end:.3f} s to client {write.client}"


def by(read: Operation) -> str:
    """Return when a read or list began, and by which client."""
    kind = "a list" if read.f == "list" else "a read"
    return f"{kind} by client {read.client} at {read.time:.3f} s"


def distinct(operations: Iterable[Operation]) -> list[Operation]:
    """Return the operations without repetitions. Operations whose values are mappings are not hashable."""
    return list({id(each): each for each in operations}.values())
