"""The strikes of a generated test as a whole. A single one that affects nothing is normal, because schedules are drawn."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ..resilience import StrikeCount
from ..wording import counted

ENOUGH = 3  # strikes of one fault that all affected nothing are no accident


def never_hit(tally: Mapping[str, StrikeCount]) -> list[tuple[str, str]]:
    """Return the faults that make a generated test vacuous, each with the sum of its receipts.

    A fault does if it struck three times or more and never affected anything. If no fault of the test did, all of them do.
    """
    missed = [fault for fault, count in tally.items() if count.struck and not (count.hit or count.unknown)]
    vacuous = missed if len(missed) == len(tally) else [fault for fault in missed if tally[fault].struck >= ENOUGH]
    return [(fault, f"affected nothing in {counted(tally[fault].struck, 'strikes')}") for fault in vacuous]


def serialize_tally(tally: Mapping[str, StrikeCount]) -> str:
    """Return the strikes by fault as JSON, for JUnit and the reports of xdist."""
    return json.dumps({fault: count._asdict() for fault, count in sorted(tally.items())})
