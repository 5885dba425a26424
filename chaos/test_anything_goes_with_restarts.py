"""The service itself dies too, in any order with faults of Redis and Postgres. What it has acknowledged outlives it.

Copies in Redis are fresh for a fifth of a second here. A service that dies takes its pending writes along, and Redis then serves the
older copies for CACHE_TTL seconds, as docs/service.md states. The schedules of `replays/with_restarts/` have broken a promise once.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given

import healthy
from campaigns import TIMEOUT, Campaigns
from instances import describe_service
from promises import check_promises
from pytest_resilience import Resilience, Schedule, Service, Stack
from pytest_resilience.checkers import bounded_failure
from pytest_resilience.strategies import schedules

CACHE_TTL = 0.2  # seconds; 60 in production
REPLAYS = sorted((Path(__file__).parent / "replays" / "with_restarts").glob("*.json"))


@pytest.fixture(scope="session")
def resilience_service(resilience_stack: Stack) -> Service:
    return describe_service(resilience_stack, CACHE_TTL=str(CACHE_TTL))


def play(resilience: Resilience, schedule: Schedule) -> None:
    history = resilience.play(schedule, Campaigns())
    check_promises(history, resilience.service.log)
    history.check(bounded_failure(within=TIMEOUT + healthy.SLACK))


@given(schedule=schedules("service", "redis", "postgres"))
def test_what_was_acknowledged_outlives_the_service(resilience: Resilience, schedule: Schedule) -> None:
    play(resilience, schedule)


@pytest.mark.parametrize("replay", REPLAYS, ids=lambda path: path.stem)
def test_what_broke_a_restarted_service_once_breaks_it_no_more(resilience: Resilience, replay: Path) -> None:
    play(resilience, Schedule.load(replay))
