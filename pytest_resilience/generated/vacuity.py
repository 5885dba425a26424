"""The strikes of a generated test as a whole. A single one that affects nothing is normal, because schedules are drawn."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

from ..resilience import StrikeCount
from ..wording import counted

ENOUGH = 3  # strikes of one fault by the code of a test that all affected nothing are no accident
# Schedules that struck one fault. Its strikes in one schedule count once, because all of them may come at moments without traffic.
ENOUGH_SCHEDULES = 20
ENOUGH_OF_TARGET = 10  # faults of one target, counted in each schedule
# Faults that affect only some traffic, of which a system may have none, however often they strike.
ON_SOME_TRAFFIC = {
    "client_kill_output_buffer",  # answers of more than 16 KiB
    "flush",  # a database with keys
    "max_clients",  # connections that are opened later, as for the next three
    "slow_accept",
    "starve",
    "take_connections",
    "slow_close",  # connections that are closed meanwhile
}


def never_hit(tally: Mapping[str, StrikeCount]) -> list[tuple[str, str]]:
    """Return the faults that make a generated test vacuous, each with the sum of its receipts.

    A fault does if it struck often and never affected anything: three times by the code of the test, or in 20 schedules
    unless it affects some traffic only. So do all faults of a target that schedules struck in vain, if these faults, counted in each
    schedule, come to ten. If no fault of the test affected anything, those do that the code of the test struck.
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
        if _affects_all_traffic(fault):
            drawn[_target(fault)] += tally[fault].schedules
    affected = {_target(fault) for fault in tally.keys() - set(missed)}
    return {target for target, strikes in drawn.items() if strikes >= ENOUGH_OF_TARGET and target not in affected}


def _struck_often(fault: str, count: StrikeCount) -> bool:
    in_vain = count.schedules >= ENOUGH_SCHEDULES and _affects_all_traffic(fault)
    return _struck_by_code(count) >= ENOUGH or in_vain


def _affects_all_traffic(fault: str) -> bool:
    return fault.partition(".")[2] not in ON_SOME_TRAFFIC


def _struck_by_code(count: StrikeCount) -> int:
    return count.struck - count.drawn


def _target(fault: str) -> str:
    return fault.partition(".")[0]


def serialize_tally(tally: Mapping[str, StrikeCount]) -> str:
    """Return the strikes by fault as JSON, for JUnit and the reports of xdist."""
    return json.dumps({fault: count._asdict() for fault, count in sorted(tally.items())})
