"""Operations are spread over the time that the steps of an episode need."""

from __future__ import annotations

import pytest

from pytest_resilience.runner.triggers import horizon
from pytest_resilience.schedule import Episode, Step, after_heal, end, operations, seconds


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], 0.0),
        ([Step("redis.oom", at=operations(3), until=end())], 0.0),
        ([Step("redis.oom", at=seconds(0.5))], 0.5),
        ([Step("redis.oom", at=seconds(0.5), until=seconds(1.0))], 1.5),
        ([Step("redis.oom", until=seconds(1.0)), Step("redis.oom", at=after_heal(seconds=0.25))], 1.25),
        ([Step("redis.oom", at=after_heal(operations=3))], 0.0),
        ([Step("redis.oom", until=seconds(100.0))], 4.0),
    ],
)
def test_the_horizon_of_an_episode(steps: list[Step], expected: float) -> None:
    assert horizon(Episode(steps), 4.0) == expected
