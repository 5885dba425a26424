"""Any faults in any order, drawn by Hypothesis. No acknowledged write is lost, no reader is misled, and all of it recovers.

A failure shrinks to the shortest schedule that still breaks a promise, and becomes a file in `.resilience/replays/`. The schedules of
`replays/` have broken a promise once.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given

import healthy
from promises import play, schedules_of
from pytest_resilience import Resilience, Schedule
from pytest_resilience.strategies import schedules

# Waiting for a connection and for a statement, and for Redis before and after it.
LONGEST = healthy.ACQUIRE_TIMEOUT + healthy.COMMAND_TIMEOUT + 2 * healthy.REDIS_BUDGET + healthy.SLACK


@given(schedule=schedules("redis", "postgres"))
def test_dependencies_may_fail_in_any_way_and_order(resilience: Resilience, schedule: Schedule) -> None:
    play(resilience, schedule, within=LONGEST)


@pytest.mark.parametrize("replay", schedules_of("replays"), ids=lambda path: path.stem)
def test_what_broke_the_service_once_breaks_it_no_more(resilience: Resilience, replay: Path) -> None:
    play(resilience, Schedule.load(replay), within=LONGEST)
