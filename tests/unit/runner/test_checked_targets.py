"""The check of a schedule against the targets of a test, before anything strikes."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_resilience.errors import ScheduleError
from pytest_resilience.runner.stack_system import check_targets
from pytest_resilience.schedule import Episode, Schedule, Step


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"verb": "update", "act": "error", "code": "xx"}, "code must be the SQLSTATE of an error"),
        ({"verb": "update", "act": "hang", "matching": "re:("}, r"matching: 're:\(' is no regular expression"),
        ({"verb": "update", "act": "hang", "key": "a"}, "key is a setting for redis, not for postgres"),
    ],
)
def test_a_setting_that_does_not_fit_a_named_server_is_an_error(settings: dict[str, Any], message: str) -> None:
    schedule = Schedule([Episode([Step("replica.on", settings)])])
    with pytest.raises(ScheduleError, match=rf"^episodes\[0\]\.steps\[0\]\.settings: replica\.on: {message}"):
        check_targets(schedule, {"replica": "postgres"})
