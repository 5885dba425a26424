"""A history as text: operations by client in lanes, strikes and heals as lines between them, and the witness marked."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from ..history import History
from ..operation import FaultMark, Mark, Operation, PhaseMark, SkipMark
from ..wording import counted

MAX_LINES = 40  # of a timeline
AROUND = 4  # lines kept before and after each operation of the witness
MAX_LANES = 4  # more clients share one lane
WIDTH = 96  # of all lanes together
MAX_VALUE = 16  # characters of a value
WITNESS = "*"


class _Line(NamedTuple):
    """One line of a timeline, before it is laid out."""

    time: float
    text: str
    client: int | None = None
    is_witness: bool = False


def timeline(history: History, witness: Collection[Operation] = ()) -> list[str]:
    """Return the lines of a timeline, the earliest first.

    An operation stands at the moment at which it began. A long history is cut to the lines around the witness, or to its end
    without one.

    Args:
        history: the history.
        witness: operations to mark.
    """
    marked = {operation.index for operation in witness}
    operations = history.operations
    lanes = {client: n for n, client in enumerate(sorted({each.client for each in operations}))}
    lines = [*_operation_lines(operations, marked, len(lanes)), *_mark_lines(history.marks)]
    lines.sort(key=lambda line: line.time)
    return [_header(list(lanes)), *_laid_out(lines, lanes)] if lines else ["nothing was recorded"]


def describe(operation: Operation) -> str:
    """Return an operation in one line of full length, with times, client, outcome and what was seen."""
    times = f"{operation.time:.3f} to {operation.end:.3f} s"
    facts = [f"version {operation.version}" if operation.version is not None else "", operation.source or ""]
    seen = ", ".join(fact for fact in facts if fact)
    return f"{times}, client {operation.client}: {_what(operation, 60)}: {_outcome(operation)}{seen and f' ({seen})'}"


def _operation_lines(operations: Iterable[Operation], marked: Collection[int], lanes: int) -> list[_Line]:
    return [
        _Line(
            each.time,
            f"{'' if lanes <= MAX_LANES else f'client {each.client}: '}{_what(each, MAX_VALUE)}: {_outcome(each)}",
            each.client,
            each.index in marked,
        )
        for each in operations
    ]


def _mark_lines(marks: Iterable[Mark]) -> list[_Line]:
    return [_Line(mark.time, text) for mark in marks if (text := _mark_text(mark))]


def _mark_text(mark: Mark) -> str:
    if isinstance(mark, FaultMark):
        touched = f", touched {counted(mark.touched, mark.unit)}" if mark.touched is not None else ""
        return f"{mark.label} {'strikes' if mark.mark == 'strike' else f'heals{touched}'}"
    if isinstance(mark, SkipMark):
        return f"{mark.label} cannot {mark.action}: {mark.reason}"
    if isinstance(mark, PhaseMark):
        return f"episode {mark.episode}: {mark.phase}"
    return ""


def _what(operation: Operation, width: int) -> str:
    key = f" {operation.key}" if operation.key is not None else ""
    if operation.value is None and not (operation.f == "read" and operation.type == "ok"):
        return f"{operation.f}{key}"
    return f"{operation.f}{key} {'->' if operation.f in ('read', 'list') else '='} {_shortened(operation.value, width)}"


def _shortened(value: Any, width: int) -> str:
    text = repr(value)
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _outcome(operation: Operation) -> str:
    return "ok" if operation.type == "ok" else f"{operation.type} {operation.error or ''}".rstrip()


def _header(clients: list[int]) -> str:
    names = [f"client {n}" for n in clients] if len(clients) <= MAX_LANES else ["all clients"]
    return f"  {'seconds':>8}  {''.join(name.ljust(_lane_width(len(clients))) for name in names)}".rstrip()


def _lane_width(lanes: int) -> int:
    return WIDTH // lanes if 0 < lanes <= MAX_LANES else WIDTH


def _laid_out(lines: list[_Line], lanes: dict[int, int]) -> list[str]:
    kept, found = _kept(lines), []
    last = -1
    for index in sorted(kept):
        found += [f"  {'':>8}  … {index - last - 1} more …"] if index > last + 1 else []
        found.append(_laid_out_line(lines[index], lanes))
        last = index
    return found + ([f"  {'':>8}  … {len(lines) - last - 1} more …"] if last < len(lines) - 1 else [])


def _laid_out_line(line: _Line, lanes: dict[int, int]) -> str:
    width = _lane_width(len(lanes))
    start = f"{WITNESS if line.is_witness else ' '} {line.time:8.3f}  "
    if line.client is None:
        return f"{start}{f'── {line.text} '.ljust(WIDTH, '─')}"
    lane = lanes[line.client] if len(lanes) <= MAX_LANES else 0
    text = line.text if len(line.text) < width else f"{line.text[: width - 2]}…"
    return f"{start}{' ' * (lane * width)}{text}".rstrip()


def _kept(lines: list[_Line]) -> set[int]:
    """Return the numbers of the lines to show: those around the witness, and all strikes and heals, up to the limit."""
    if len(lines) <= MAX_LINES:
        return set(range(len(lines)))
    witness = [n for n, line in enumerate(lines) if line.is_witness]
    if not witness:
        return set(range(len(lines) - MAX_LINES, len(lines)))
    by_distance = sorted(range(len(lines)), key=lambda n: (_distance(n, witness), lines[n].client is not None))
    near = {n for n in by_distance if _distance(n, witness) <= AROUND}
    marks = {n for n, line in enumerate(lines) if line.client is None and witness[0] <= n <= witness[-1]}
    most = sorted(near | marks, key=lambda n: (not lines[n].is_witness, _distance(n, witness)))[:MAX_LINES]
    return {*most, *by_distance[: MAX_LINES - len(most)]} if len(most) < MAX_LINES else set(most)


def _distance(n: int, witness: list[int]) -> int:
    return min(abs(n - each) for each in witness)
