"""The service itself dies too, in any order with faults of Redis and Postgres. What it has acknowledged outlives it.

Copies in Redis are fresh for a twentieth of a second here. A service that dies takes its pending writes along, and Redis then serves
the older copies for CACHE_TTL seconds, as docs/service.md states. Reads of copies in that time are not judged. The schedules of
`replays/with_restarts/` have broken a promise once.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given

import healthy
from campaigns import TIMEOUT
from instances import describe_service
from promises import play, schedules_of
from pytest_resilience import Resilience, Schedule, Service, Stack
from pytest_resilience.strategies import schedules

CACHE_TTL = 0.05  # seconds; 60 in production
LONGEST = TIMEOUT + healthy.SLACK  # seconds


@pytest.fixture(scope="session")
def resilience_service(resilience_stack: Stack) -> Service:
    return describe_service(resilience_stack, CACHE_TTL=str(CACHE_TTL))


@given(schedule=schedules("service", "redis", "postgres"))
def test_what_was_acknowledged_outlives_the_service(resilience: Resilience, schedule: Schedule) -> None:
    play(resilience, schedule, within=LONGEST, cache_ttl=CACHE_TTL)


@pytest.mark.parametrize("replay", schedules_of("replays/with_restarts"), ids=lambda path: path.stem)
def test_what_broke_a_restarted_service_once_breaks_it_no_more(resilience: Resilience, replay: Path) -> None:
    play(resilience, Schedule.load(replay), within=LONGEST, cache_ttl=CACHE_TTL)
