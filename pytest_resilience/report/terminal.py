"""What struck and whether it hit, as lines for a terminal."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..faults.fault import Receipt, Strike
from ..wording import counted


@dataclass
class FaultSummary:
    """One kind of fault on one target, over a whole run."""

    strikes: int = 0
    hit: int = 0
    unknown: int = 0
    touched: int = 0
    unit: str = ""


def serialize_strike(strike: Strike) -> str:
    """A strike as one JSON string, which survives xdist and JUnit."""
    receipt = strike.receipt
    return json.dumps(
        {
            "label": strike.label,
            "touched": receipt.touched,
            "unit": receipt.unit,
            "first": receipt.first,
            "last": receipt.last,
        }
    )


def strike_lines(strikes: Sequence[Strike]) -> list[str]:
    """One line for each strike of a test."""
    lines = [f"{s.label} {s.receipt}{'' if s.healed else '; it could not be healed'}" for s in strikes]
    return lines or ["nothing"]


def tail(text: str, lines: int) -> str:
    """The last lines of a log."""
    every = text.rstrip().splitlines()
    left_out = [f"({counted(len(every) - lines, 'lines')} before)"] if len(every) > lines else []
    return "\n".join(left_out + every[-lines:])


def fault_lines(strikes: Iterable[str]) -> list[str]:
    """Return a line for each kind of fault of a run.

    Args:
        strikes: each strike, serialize_strike.
    """
    tallies: dict[str, FaultSummary] = {}
    for text in strikes:
        raw = json.loads(text)
        tally = tallies.setdefault(raw["label"].split("(")[0], FaultSummary(unit=raw["unit"]))
        tally.strikes += 1
        tally.hit += bool(raw["touched"])
        tally.unknown += raw["touched"] is None
        tally.touched += raw["touched"] or 0
    return [_line(label, tally) for label, tally in sorted(tallies.items())]


def vacuous_lines(vacuous: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line for each strike that touched nothing.

    Args:
        vacuous: (node id, serialize_strike strike) of the tests that count as vacuous.
    """
    read = ((nodeid, json.loads(text)) for nodeid, text in vacuous)
    return [
        f"VACUOUS {nodeid}: {raw['label']} {Receipt(0, raw['unit'])}" for nodeid, raw in read if raw["touched"] == 0
    ]


def flaky_lines(flaky: Iterable[tuple[str, int, int]]) -> list[str]:
    """Return a line for each test that passed after a failure, given as (node id, attempt, failed attempts before it)."""
    return [
        f"FLAKY {nodeid}: passed at attempt {attempt}, after {counted(failed, 'attempts')} that failed"
        for nodeid, attempt, failed in flaky
    ]


def unsupported_lines(told: Iterable[str]) -> list[str]:
    """One line for each fault that the backend could not inject: how many tests were skipped for it, and why."""
    return [f"{count} skipped: {reason}" for reason, count in sorted(Counter(told).items())]


def leak_lines(leaks: Iterable[tuple[str, str]]) -> list[str]:
    """One line for each thing that a test left behind, given with the test's node id."""
    return [f"LEAK {nodeid}: {text}" for nodeid, text in leaks]


def _line(label: str, tally: FaultSummary) -> str:
    parts = [counted(tally.strikes, "strikes")]
    missed = tally.strikes - tally.hit - tally.unknown
    if tally.hit:
        parts.append(f"{tally.hit if tally.hit < tally.strikes else 'all'} hit ({counted(tally.touched, tally.unit)})")
    if tally.unknown:
        parts.append(f"{tally.unknown} not known")
    if missed:
        parts.append(f"{missed} touched nothing")
    return f"{label}: {', '.join(parts)}"
