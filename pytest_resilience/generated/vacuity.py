"""The strikes of a generated test as a whole. A single one that affects nothing is normal, because schedules are drawn."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

from ..resilience import StrikeCount
from ..wording import counted

ENOUGH = 3  # strikes of one fault by the code of a test that all affected nothing are no accident
ENOUGH_DRAWN = 20  # strikes of one fault by schedules; such as slow_close, which affects one in five
ENOUGH_OF_TARGET = 10  # strikes of one target by schedules
# Faults that affect only connections which are opened later. A system with a warm pool may open none, however often they strike.
ON_NEW_CONNECTIONS = {"max_clients", "slow_accept", "starve", "take_connections"}


def never_hit(tally: Mapping[str, StrikeCount]) -> list[tuple[str, str]]:
    """Return the faults that make a generated test vacuous, each with the sum of its receipts.

    A fault does if it struck often and never affected anything: three times by the code of the test, or 20 times by schedules
    unless it affects new connections only. So
    do all faults of a target that schedules struck ten times in vain. If no fault of the test affected anything, those do that the
    code of the test struck.
    """
    missed = [fault for fault, count in tally.items() if count.struck and not (count.hit or count.unknown)]
    untouched = _untouched_targets(tally, missed)
    nothing_hit = len(missed) == len(tally)
    vacuous = [
        fault
        for fault in missed
        if (nothing_hit and _struck_by_code(tally[fault]))
        or _target(fault) in untouched
        or _struck_often(fault, tally[fault])
    ]
    return [(fault, f"affected nothing in {counted(tally[fault].struck, 'strikes')}") for fault in vacuous]


def _untouched_targets(tally: Mapping[str, StrikeCount], missed: list[str]) -> set[str]:
    """Return the targets that schedules struck often, and of which no fault has affected anything."""
    drawn: Counter[str] = Counter()
    for fault in missed:
        drawn[_target(fault)] += tally[fault].drawn
    affected = {_target(fault) for fault in tally.keys() - set(missed)}
    return {target for target, strikes in drawn.items() if strikes >= ENOUGH_OF_TARGET and target not in affected}


def _struck_often(fault: str, count: StrikeCount) -> bool:
    often_drawn = count.drawn >= ENOUGH_DRAWN and fault.partition(".")[2] not in ON_NEW_CONNECTIONS
    return _struck_by_code(count) >= ENOUGH or often_drawn


def _struck_by_code(count: StrikeCount) -> int:
    return count.struck - count.drawn


def _target(fault: str) -> str:
    return fault.partition(".")[0]


def serialize_tally(tally: Mapping[str, StrikeCount]) -> str:
    """Return the strikes by fault as JSON, for JUnit and the reports of xdist."""
    return json.dumps({fault: count._asdict() for fault, count in sorted(tally.items())})
