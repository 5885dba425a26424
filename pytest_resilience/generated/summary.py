"""The words and the properties of a search: what a failure, JUnit and the summary of the run show of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..report.run_reports import FOUND_AFTER, GENERATED_SEED, OUTCOME, REPRODUCED, SCHEDULES, STRIKES
from ..resilience import StrikeCount
from ..wording import counted
from .candidate import RARE, TWO_OF_EIGHT
from .search import Finding, Search
from .vacuity import serialize_tally


def properties(
    search: Search, finding: Finding | None, *, tally: Mapping[str, StrikeCount], seed: int
) -> list[tuple[str, str]]:
    """Return the properties of a search, by name and text.

    Args:
        search: the search.
        finding: the finding to report, or None.
        tally: the strikes by fault.
        seed: the seed of the run.
    """
    found = [(GENERATED_SEED, str(seed)), (SCHEDULES, str(search.examples)), (STRIKES, serialize_tally(tally))]
    if finding is None:
        return found
    if finding.found_after is not None:
        found.append((FOUND_AFTER, counted(finding.found_after.schedules, "schedules")))
    return [*found, (REPRODUCED, f"{finding.reproduced} of {finding.plays}"), (OUTCOME, "broken")]


def found_after(finding: Finding) -> str | None:
    """Return the sentence about the searching until the first failure, or None for arguments that were given."""
    effort = finding.found_after
    if effort is None:
        return None
    return f"found after {counted(effort.schedules, 'schedules')}, {effort.seconds:.1f} s"


def remarks(search: Search, finding: Finding) -> Iterable[str]:
    """Yield facts about the shortening, one each."""
    if finding.accepted:
        yield f"shortened {counted(finding.accepted, 'times')}"
    if finding.mode is TWO_OF_EIGHT:
        yield "it does not show in every run, so it was shortened by 2 failures of 8 plays, about one of four runs"
    if finding.mode is RARE and finding in search.suspects:
        yield "it shows too seldom to be shortened"
        if len(search.suspects) > 1:
            yield f"there were {counted(len(search.suspects) - 1, 'other failures')} as rare"
    elif not finding.is_shortest:
        yield f"shrinking stopped after {search.profile.shrink:g} s"
