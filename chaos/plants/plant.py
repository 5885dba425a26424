"""The type of a plant, that is of a regression that the chaos suite must detect. Mutation testing calls it a mutant."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plant:
    """One regression.

    Attributes:
        name: a unique name.
        rationale: the reason that a tired developer would give for the change.
        edits: (file, old text, new text). Every occurrence of the old text is replaced.
        tests: the tests that must fail. For a parametrized test, one failing case is enough.
        message: a part of the failure's message, which names the cause.
    """

    name: str
    rationale: str
    edits: tuple[tuple[str, str, str], ...]
    tests: tuple[str, ...]
    message: str

    @property
    def file(self) -> str:
        """The file of the first edit."""
        return self.edits[0][0]


def plant(name: str, rationale: str, *edits: tuple[str, str, str], tests: str | tuple[str, ...], message: str) -> Plant:
    """Build a plant. Files are named relative to service/."""
    full = tuple((f"service/{file}", old, new) for file, old, new in edits)
    return Plant(name, rationale, full, (tests,) if isinstance(tests, str) else tests, message)


# Tests that plants of several files name.
TWICE = "test_redis_gone.py::test_reads_survive_two_outages_of_redis_in_a_row"
SLOW_REDIS = "test_cache.py::test_a_slow_redis_costs_a_read_at_most_one_budget_and_never_mixes_up_replies"
STARVED = "test_postgres_slow.py::test_a_starved_pool_gives_timely_503s_and_one_alert_and_recovers_to_full_capacity"
BOOT = "test_lifecycle.py::test_the_service_starts_without_postgres_and_redis_and_becomes_ready_when_they_come_up"
