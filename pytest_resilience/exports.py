"""The formats of other tools: EDN of Jepsen, JSON of elle-cli, and operations of Porcupine.

A read that failed is left out, because it has seen nothing. Times are integers in nanoseconds.

Sources: the histories of Jepsen (https://github.com/jepsen-io/history), elle-cli (https://github.com/ligurio/elle-cli) and
`porcupine.Operation` (https://github.com/anishathalye/porcupine).
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from .errors import SetupError
from .history_lines import plain
from .operation import Operation
from .wording import did_you_mean

READS = ("read", "list")
REGISTER_READS = ("read",)
REGISTER_WRITES = ("create", "update", "write", "delete")
MAX_INT64 = 2**63 - 1  # the return of a write that may happen at any later time
EXTRAS = ("key", "version", "expected", "source", "state", "node", "error", "phase", "episode")

Event = dict[str, Any]


class Keyword(str):
    """A text that EDN has as a keyword, such as `:invoke`."""

    __slots__ = ()


def exported(operations: Iterable[Operation], format_: str) -> Iterator[str]:
    """Return the lines of a file in the format of another tool.

    Args:
        operations: the operations, in the order in which they began.
        format_: "edn", "elle" or "porcupine".

    Raises:
        SetupError: there is no such format.
    """
    if format_ not in FORMATS:
        raise SetupError(f"no export {format_!r}{did_you_mean(format_, FORMATS)}; there are: {', '.join(FORMATS)}")
    seen = [each for each in operations if not (each.f in READS and each.type == "fail")]
    return FORMATS[format_](seen)


def _edn_lines(operations: list[Operation]) -> Iterator[str]:
    for event in _events(operations, _plain_event):
        yield "{" + ", ".join(f":{name} {edn(value)}" for name, value in event.items()) + "}\n"


def _elle_lines(operations: list[Operation]) -> Iterator[str]:
    for event in _events(operations, _transaction):
        yield f"{json.dumps(plain(event), separators=(',', ':'))}\n"


def _porcupine_lines(operations: list[Operation]) -> Iterator[str]:
    for operation in operations:
        wrote = operation.f not in READS
        if operation.type == "fail" or (operation.type == "info" and not wrote):
            continue  # it has not happened, or it has seen nothing
        line = {
            "ClientId": operation.process,
            "Input": _given(operation, wrote),
            "Call": _nanoseconds(operation.time),
            "Output": _answer(operation),
            "Return": _nanoseconds(operation.end) if operation.type == "ok" else MAX_INT64,
        }
        yield f"{json.dumps(plain(line), separators=(',', ':'))}\n"


def _given(operation: Operation, wrote: bool) -> Event:
    given = {"op": operation.f, "key": operation.key, "value": operation.value if wrote else None}
    return given if operation.expected is None else given | {"expected": operation.expected}


def _answer(operation: Operation) -> Event:
    if operation.type == "info":
        return {"value": None, "unknown": True}
    answer = {"value": operation.value}
    return answer if operation.version is None else answer | {"version": operation.version}


def _events(operations: list[Operation], describe: Callable[[Operation, bool], Event]) -> Iterator[Event]:
    """Yield the two events of each operation in the order of time.

    Events of one moment have beginnings before ends, since operations that share a moment are concurrent. Only the events of
    one process keep their order.
    """
    queues: dict[int, list[Operation]] = {}
    for operation in reversed(operations):
        queues.setdefault(operation.process, []).append(operation)
    heap = [_entry(queue.pop(), ended=False) for queue in queues.values()]
    heapq.heapify(heap)
    for index in range(2 * len(operations)):
        _, ended, _, operation = heap[0]
        head: Event = {"index": index, "type": Keyword(operation.type if ended else "invoke")}
        head |= {"process": operation.process, "time": _nanoseconds(operation.end if ended else operation.time)}
        yield head | describe(operation, ended)
        queue = queues[operation.process]
        if not ended:
            heapq.heapreplace(heap, _entry(operation, ended=True))
        elif queue:
            heapq.heapreplace(heap, _entry(queue.pop(), ended=False))
        else:
            heapq.heappop(heap)


def _entry(operation: Operation, *, ended: bool) -> tuple[float, bool, int, Operation]:
    return operation.end if ended else operation.time, ended, operation.index, operation


def _plain_event(operation: Operation, ended: bool) -> Event:
    """Return kind and value as recorded, with the other keys of the operation beside them."""
    value = _visible(operation, ended, operation.value)
    if operation.f == "txn" and isinstance(value, list | tuple):
        value = [_step(each) for each in value]
    event: Event = {"f": _word(operation.f), "value": value}
    given = ("key", "expected") if not ended else EXTRAS
    return event | {name: found for name in given if (found := getattr(operation, name)) is not None}


def _transaction(operation: Operation, ended: bool) -> Event:
    """Return a read or write of one key as a transaction of one step, which is the form of Elle's rw-register."""
    if operation.key is None or operation.f not in (*REGISTER_READS, *REGISTER_WRITES):
        return {"f": operation.f, "value": _visible(operation, ended, operation.value)}
    if operation.f in REGISTER_READS:
        step = ["r", operation.key, _visible(operation, ended, operation.value)]
    else:
        step = ["w", operation.key, None if operation.f == "delete" else operation.value]
    return {"f": "txn", "value": [step]}


def _visible(operation: Operation, ended: bool, value: Any) -> Any:
    """Return the value of an event. A read has none before it has returned."""
    return None if operation.f in READS and not (ended and operation.type == "ok") else value


def _step(step: Any) -> Any:
    """Return a step of a transaction such as ["append", 1, 2] with a keyword for its kind, as Elle has it."""
    return [_word(str(step[0])), *step[1:]] if isinstance(step, list | tuple) and step else step


def _word(name: str) -> str:
    return Keyword(name) if name and not name[0].isdigit() and name.replace("-", "").isidentifier() else name


def edn(value: Any) -> str:
    """Return plain data as EDN, without secrets.

    Source: https://github.com/edn-format/edn.
    """
    match value:
        case Keyword():
            return f":{value}"
        case None:
            return "nil"
        case bool():
            return str(value).lower()
        case int():
            return repr(value)
        case list() | tuple():
            return f"[{' '.join(map(edn, value))}]"
        case Mapping():
            return "{" + ", ".join(f"{edn(name)} {edn(each)}" for name, each in plain(value).items()) + "}"
        case _:
            return json.dumps(plain(value), ensure_ascii=False)


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


FORMATS: dict[str, Callable[[list[Operation]], Iterator[str]]] = {
    "edn": _edn_lines,
    "elle": _elle_lines,
    "porcupine": _porcupine_lines,
}
