"""The lines of a history file, which are JSON objects: one for each operation, and one for each mark.

Writing costs some microseconds a line, because it happens while clients work. Secrets are replaced.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from json.encoder import encode_basestring_ascii as quoted
from math import inf, isfinite
from pathlib import PurePath
from typing import Any

from .errors import SetupError
from .operation import OUTCOMES, PHASES, FaultMark, Mark, Operation, PhaseMark, ProbeMark, Record, SkipMark
from .redaction import HIDDEN, is_secret, scrubbed
from .wording import did_you_mean

_MARKS: dict[str, type[Mark]] = {
    "strike": FaultMark,
    "heal": FaultMark,
    "skip": SkipMark,
    "probe": ProbeMark,
    "phase": PhaseMark,
}
REQUIRED: dict[type[Record], tuple[str, ...]] = {
    Operation: ("process", "f", "type", "time", "end"),
    FaultMark: ("label", "time"),
    SkipMark: ("action", "label", "reason", "time"),
    ProbeMark: ("name", "answer", "time"),
    PhaseMark: ("phase", "time"),
}
NUMBERS = ("index", "process", "episode", "client", "strike")
INTEGERS_OR_NONE = ("version", "expected", "touched")
TEXTS_OR_NONE = ("source", "state", "node", "error")

_encode = json.JSONEncoder(separators=(",", ":")).encode


def line_of(record: Record) -> str:
    """Return the line of a record, with its end of line and without secrets."""
    if isinstance(record, Operation):
        return _operation_line(record)
    return f"{_encode(plain(record.to_json()))}\n"


def _operation_line(o: Operation) -> str:
    """Return the line of an operation. One format is four times as fast as an encoder for a dictionary of 17 keys."""
    return (
        f'{{"index":{o.index},"process":{o.process},"f":{_json(o.f)},"key":{_json(o.key)},"value":{_json(o.value)}'
        f',"type":"{o.type}","time":{o.time!r},"end":{o.end!r}'
        f',"version":{_json(o.version)},"expected":{_json(o.expected)},"source":{_json(o.source)}'
        f',"state":{_json(o.state)},"node":{_json(o.node)},"error":{_json(o.error)}'
        f',"episode":{o.episode},"phase":"{o.phase}","client":{o.client}}}\n'
    )


def _json(value: Any) -> str:
    """Return a value as JSON without secrets. Small plain values, which most are, have paths of their own."""
    if value is None:
        return "null"
    kind = type(value)
    if kind is str:
        return quoted(scrubbed(value))
    if kind is int:
        return repr(value)
    return _encode(plain(value))


def plain(value: Any) -> Any:
    """Return a value as data that JSON has, without secrets.

    A tuple becomes a list, a set a sorted list, a key that is no text a text. Any other object becomes its text.
    """
    match value:
        case str():
            return scrubbed(value)
        case None | bool() | int():
            return value
        case float():
            return value if isfinite(value) else str(value)
        case Mapping():
            return {str(name): HIDDEN if is_secret(str(name)) and each else plain(each) for name, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
        case set() | frozenset():
            return sorted((plain(each) for each in value), key=_encode)
        case bytes() | bytearray():
            return scrubbed(value.decode(errors="backslashreplace"))
        case _:
            return scrubbed(str(value))


def read_records(lines: Iterable[str], source: str | PurePath) -> list[Record]:
    """Return the records of a history file.

    Args:
        lines: the lines, with or without their ends. Empty lines are skipped.
        source: the name of the file, for messages.

    Raises:
        SetupError: a line is malformed; the message has the file, the number of the line and the reason.
    """
    reader = _Reader()
    records: list[Record] = []
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                records.append(reader.record(json.loads(line)))
        except ValueError as error:
            cut = "" if line.endswith("\n") or number == 1 else "; the line has no end: was the run killed meanwhile?"
            raise SetupError(f"{source}:{number}: {error}{cut}") from None
    return list(_completed(records, source))


class _Reader:
    """The records of one file so far, which pair heals with strikes."""

    def __init__(self) -> None:
        self._open: dict[str, list[int]] = {}
        self._strikes = 0
        self._operations = 0

    def record(self, fields: Any) -> Record:
        """Return the record of a line.

        Raises:
            ValueError: the line is no record.
        """
        if not isinstance(fields, dict):
            raise ValueError(f"expected an object, got {fields!r}")
        if "mark" not in fields:
            return self._operation(fields)
        kind = fields["mark"]
        if kind not in _MARKS:
            raise ValueError(f"unknown mark {kind!r}{did_you_mean(kind, _MARKS)}; there are: {', '.join(_MARKS)}")
        if kind in ("strike", "heal"):
            return self._fault_mark(fields)
        return _record(_MARKS[kind], {name: value for name, value in fields.items() if name != "mark"})

    def _operation(self, fields: dict[str, Any]) -> Record:
        given = fields | {"client": fields.get("client", fields.get("process")), "index": fields.get("index", -1)}
        if given.get("end", 0) is None and given.get("type") == "info":
            given["end"] = inf
        if isinstance(given.get("key"), int):
            given["key"] = str(given["key"])
        return _record(Operation, given)

    def _fault_mark(self, fields: dict[str, Any]) -> Record:
        label = str(fields.get("label"))
        if fields["mark"] == "strike":
            number = fields.get("strike", self._strikes)
            self._strikes = max(self._strikes, number + 1 if isinstance(number, int) else 0)
            self._open.setdefault(label, []).append(number)
        else:
            open_ = self._open.get(label, [])
            number = fields.get("strike", open_[-1] if open_ else None)
            if number not in open_:
                raise ValueError(f"heal of {label!r} without an earlier strike")
            open_.remove(number)
        return _record(FaultMark, fields | {"strike": number, "unit": fields.get("unit") or ""})


def _record(kind: type[Record], fields: dict[str, Any]) -> Record:
    if missing := [name for name in REQUIRED[kind] if name not in fields]:
        raise ValueError(f"lacks {', '.join(map(repr, missing))}")
    for name in fields:
        if name not in kind._fields:
            raise ValueError(f"unknown key {name!r}{did_you_mean(name, kind._fields)}")
    for problem in _problems(fields):
        raise ValueError(problem)
    return kind(**fields)


def _problems(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield the values that have a wrong type, or that are none of the allowed ones."""
    for name in fields:
        value = fields[name]
        if name in NUMBERS and not _is_integer(value):
            yield f"{name!r} must be an integer, got {value!r}"
        if name in INTEGERS_OR_NONE and value is not None and not _is_integer(value):
            yield f"{name!r} must be an integer or null, got {value!r}"
        if name in TEXTS_OR_NONE and value is not None and not isinstance(value, str):
            yield f"{name!r} must be text or null, got {value!r}"
        if name in ("f", "label") and not isinstance(value, str):
            yield f"{name!r} must be text, got {value!r}"
        if name == "key" and not isinstance(value, str | None):
            yield f"'key' must be text or null, got {value!r}"
        if name == "type" and value not in OUTCOMES:
            yield f"'type' must be one of {', '.join(OUTCOMES)}, got {value!r}"
        if name == "phase" and value not in PHASES:
            yield f"'phase' must be one of {', '.join(PHASES)}, got {value!r}"
        if name in ("time", "end") and (isinstance(value, bool) or not isinstance(value, int | float)):
            yield f"{name!r} must be a number of seconds, got {value!r}"
    if not fields.get("end", inf) >= fields["time"]:
        yield f"it ends at {fields['end']}, before it begins at {fields['time']}"


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _completed(records: list[Record], source: str | PurePath) -> Iterator[Record]:
    """Yield the records with the ends that were null, and with the missing numbers in the order in which operations began.

    Raises:
        SetupError: two operations have one number.
    """
    operations = [each for each in records if isinstance(each, Operation)]
    indexes = iter(_indexes(operations, source))
    last = max((each.end for each in operations if each.end < inf), default=0.0)
    last = max([last, *(each.time for each in records)])
    for record in records:
        if isinstance(record, Operation):
            yield record._replace(index=next(indexes), end=min(record.end, last))
        else:
            yield record


def _indexes(operations: list[Operation], source: str | PurePath) -> list[int]:
    indexes = [each.index for each in operations]
    if -1 in indexes:
        begun = sorted(range(len(operations)), key=lambda n: operations[n].time)
        for index, n in enumerate(begun):
            indexes[n] = index
    elif len(set(indexes)) < len(indexes):
        twice = next(index for index in indexes if indexes.count(index) > 1)
        raise SetupError(f"{source}: two operations have the index {twice}; a file holds one history")
    return indexes
