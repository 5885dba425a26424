"""The section "resilience" of the terminal's summary, and the lines of a failed test."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..wording import counted
from .run_reports import REPRODUCED, SCHEDULES, STRIKES, RunSummary

if TYPE_CHECKING:
    from ..faults.fault import Strike
    from ..resilience import StrikeCount


class FaultSummary:
    """The strikes of one kind of fault on one target, over a whole run."""

    def __init__(self, unit: str) -> None:
        self.strikes = 0
        self.hit = 0
        self.unknown = 0
        self.touched = 0
        self.unit = unit

    def add(self, touched: int | None) -> None:
        """Count one strike and its receipt."""
        self.strikes += 1
        self.hit += bool(touched)
        self.unknown += touched is None
        self.touched += touched or 0

    def __str__(self) -> str:
        parts = [counted(self.strikes, "strikes")]
        missed = self.strikes - self.hit - self.unknown
        if self.hit:
            hit = self.hit if self.hit < self.strikes else "all"
            parts.append(f"{hit} hit ({counted(self.touched, self.unit)})")
        if self.unknown:
            parts.append(f"{self.unknown} unknown")
        if missed:
            parts.append(f"{missed} affected nothing")
        return ", ".join(parts)


def serialize_strike(strike: Strike) -> str:
    """Return a strike as one JSON string, which can be in a report of xdist and in JUnit."""
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


def strike_lines(strikes: Sequence[Strike], *, lasting: bool = False) -> list[str]:
    """Return one line for each strike of a test.

    Args:
        strikes: the strikes.
        lasting: True before the end of the test, when a strike that is not healed is in order.
    """
    unhealed = "; it lasts" if lasting else "; it could not be healed"
    lines = [f"{strike.label} {strike.receipt}{'' if strike.healed else unhealed}" for strike in strikes]
    return lines or ["nothing"]


def tally_lines(tally: Mapping[str, StrikeCount]) -> list[str]:
    """Return one line for each fault of a generated test."""
    return [
        f"{fault}: {counted(count.struck, 'strikes')}, {_hits(count.hit, count.unknown)}"
        for fault, count in sorted(tally.items())
    ]


def _hits(hit: int, unknown: int) -> str:
    return f"{hit} hit, {unknown} unknown" if unknown else f"{hit} hit"


def tail(text: str, lines: int) -> str:
    """Return the last lines of a log, and the number of lines before them."""
    all_lines = text.rstrip().splitlines()
    left_out = [f"({counted(len(all_lines) - lines, 'lines')} before)"] if len(all_lines) > lines else []
    return "\n".join(left_out + all_lines[-lines:])


def summary_lines(summary: RunSummary) -> list[str]:
    """Return the lines of a run's summary."""
    return [
        *fault_lines(summary.strikes),
        *generated_lines(summary.generated),
        *vacuous_lines(summary.vacuous),
        *not_struck_lines(summary.not_struck),
        *flaky_lines(summary.flaky),
        *unsupported_lines(summary.unsupported),
        *leak_lines(summary.leaks),
    ]


def fault_lines(strikes: Iterable[str]) -> list[str]:
    """Return a line for each kind of fault of a run.

    Args:
        strikes: all strikes, serialized.
    """
    faults: dict[str, FaultSummary] = {}
    for text in strikes:
        raw = json.loads(text)
        faults.setdefault(raw["label"].split("(")[0], FaultSummary(raw["unit"])).add(raw["touched"])
    return [f"{label}: {fault}" for label, fault in sorted(faults.items())]


def generated_lines(generated: Iterable[tuple[str, Mapping[str, str]]]) -> list[str]:
    """Return a line for each generated test.

    Args:
        generated: (node id, properties) of each.
    """
    return [f"GENERATED {nodeid}: {_generated_line(properties)}" for nodeid, properties in generated]


def _generated_line(properties: Mapping[str, str]) -> str:
    tally = json.loads(properties[STRIKES])
    struck, hit, unknown = (sum(count[name] for count in tally.values()) for name in ("struck", "hit", "unknown"))
    schedules, strikes = counted(int(properties[SCHEDULES]), "schedules"), counted(struck, "strikes")
    parts = [f"{schedules} played, {strikes}, {_hits(hit, unknown)}"]
    missed = [fault for fault, count in tally.items() if not (count["hit"] or count["unknown"])]
    if missed:
        parts.append(f"{', '.join(missed)} never hit")
    if REPRODUCED in properties:
        parts.append(f"reproduced {properties[REPRODUCED]}")
    return "; ".join(parts)


def vacuous_lines(vacuous: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line for each strike that affected nothing.

    Args:
        vacuous: (node id, serialized strike) of the vacuous tests.
    """
    from ..faults.fault import Receipt  # heavy, and every run of pytest imports this file

    read = ((nodeid, json.loads(text)) for nodeid, text in vacuous)
    return [
        f"VACUOUS {nodeid}: {raw['label']} {raw.get('receipt') or Receipt(0, raw['unit'])}"
        for nodeid, raw in read
        if raw["touched"] == 0
    ]


def not_struck_lines(steps: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line for each step of a play that did not strike, given as (node id, step and reason)."""
    return [f"NOT STRUCK {nodeid}: {text}" for nodeid, text in steps]


def flaky_lines(flaky: Iterable[tuple[str, int, int]]) -> list[str]:
    """Return a line for each test that passed after a failure, given as (node id, attempt, failed attempts before it)."""
    return [
        f"FLAKY {nodeid}: passed at attempt {attempt}, after {counted(failed, 'attempts')} that failed"
        for nodeid, attempt, failed in flaky
    ]


def unsupported_lines(reasons: Iterable[str]) -> list[str]:
    """Return a line for each reason for which tests were skipped, with the number of these tests."""
    return [f"{count} skipped: {reason}" for reason, count in sorted(Counter(reasons).items())]


def leak_lines(leaks: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line for each leak, given with the node id of its test."""
    return [f"LEAK {nodeid}: {text}" for nodeid, text in leaks]
