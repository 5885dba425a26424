"""A plant: a regression that the chaos suite must detect. Mutation testing calls a plant a mutant."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plant:
    """One regression.

    Args:
        name: what it is called.
        story: what the developer would have said.
        edits: (file, old text, new text); every occurrence of the old text is replaced.
        tests: those that must go red; a parametrised one when any of its cases does.
        says: a part of the failure's message: it names the cause.
    """

    name: str
    story: str
    edits: tuple[tuple[str, str, str], ...]
    tests: tuple[str, ...]
    says: str

    @property
    def file(self) -> str:
        """The file that the plant is mostly in."""
        return self.edits[0][0]


def plant(name: str, story: str, *edits: tuple[str, str, str], tests: str | tuple[str, ...], says: str) -> Plant:
    """One plant; files are named without their folder."""
    full = tuple((f"service/{file}", old, new) for file, old, new in edits)
    return Plant(name, story, full, (tests,) if isinstance(tests, str) else tests, says)


# Tests that plants of several files name.
TWICE = "test_redis_gone.py::test_reads_survive_two_outages_of_redis_in_a_row"
SLOW_REDIS = "test_cache.py::test_a_slow_redis_costs_a_read_at_most_one_budget_and_never_mixes_up_replies"
STARVED = "test_postgres_slow.py::test_a_starved_pool_gives_timely_503s_and_one_alert_and_recovers_to_full_capacity"
BOOT = "test_lifecycle.py::test_it_starts_without_postgres_and_redis_and_becomes_ready_when_they_come_up"
