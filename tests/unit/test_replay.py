"""Replay files: round trips, and errors with the path of the file and of the field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_resilience.errors import ScheduleError
from pytest_resilience.replay import Replay, parse_replay_option, replay_of
from pytest_resilience.schedule import Episode, Schedule, Step

SCHEDULE = Schedule([Episode([Step("redis.refuse")], operations=5)])
FOUND = {"test": "test_it.py::test_it", "reproduced": "9 of 10"}


@pytest.mark.parametrize(
    "arguments",
    [
        {"schedule": SCHEDULE},
        {"schedule": SCHEDULE, "n": 3, "xs": [1, "a", None]},
        {"n": 3.5},
        {"a": 1, "plan": SCHEDULE},
    ],
)
def test_a_file_gives_the_arguments_back(tmp_path: Path, arguments: dict[str, object]):
    file = tmp_path / "replay.json"
    file.write_text(replay_of(arguments, FOUND).dumps())
    assert Replay.load(file).arguments_for(list(arguments)) == arguments
    assert Replay.load(file).found["test"] == FOUND["test"]
    if SCHEDULE in arguments.values():
        assert Schedule.load(file) == SCHEDULE


@pytest.mark.parametrize("value", [(1, 2), {1}, object(), float("nan"), {1: 2}, SCHEDULE])
def test_a_value_that_json_changes_is_kept_as_text_only(tmp_path: Path, value: object):
    file = tmp_path / "replay.json"
    file.write_text(replay_of({"schedule": SCHEDULE, "value": value}, FOUND).dumps())
    if value != value:
        return
    with pytest.raises(ScheduleError, match="argument 'value' can't be replayed"):
        Replay.load(file).arguments_for(["schedule", "value"])


def test_a_schedule_written_by_hand_stands_for_the_only_other_argument(tmp_path: Path):
    file = tmp_path / "plan.json"
    file.write_text(SCHEDULE.dumps())
    assert Replay.load(file).arguments_for(["plan"]) == {"plan": SCHEDULE}
    with pytest.raises(ScheduleError, match="the test draws arguments 'a' and 'b'"):
        Replay.load(file).arguments_for(["a", "b"])
    with pytest.raises(ScheduleError, match="the file has argument 'schedule', which the test does not draw"):
        Replay.load(file).arguments_for([])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "replay.json: must be an object"),
        ("{", "replay.json: not JSON"),
        ('{"version": 2, "episodes": [{}]}', "replay.json: version: "),
        ('{"version": 1}', "replay.json: episodes: missing"),
        (
            '{"version": 1, "episodes": [{"steps": [{"fault": "redis.boom"}]}]}',
            r"episodes\[0\].steps\[0\].fault: no fault",
        ),
        ('{"version": 1, "arguments": 3}', "replay.json: arguments: must be an object"),
        ('{"version": 1, "found": 3, "episodes": [{}]}', "replay.json: found: must be an object"),
    ],
)
def test_a_malformed_file_is_an_error_with_the_path(tmp_path: Path, text: str, message: str):
    file = tmp_path / "replay.json"
    file.write_text(text)
    with pytest.raises(ScheduleError, match=message):
        Replay.load(file)


def test_a_missing_file_is_an_error_with_its_name(tmp_path: Path):
    with pytest.raises(ScheduleError, match=r"gone\.json: No such file"):
        Replay.load(tmp_path / "gone.json")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.json", ("a.json", 10)),
        ("a.json:3", ("a.json", 3)),
        ("C:x.json", ("C:x.json", 10)),
        ("a:b.json:20", ("a:b.json", 20)),
    ],
)
def test_the_option_is_a_file_and_perhaps_a_number(text: str, expected: tuple[str, int]):
    assert parse_replay_option(text) == (Path(expected[0]), expected[1])


def test_zero_plays_are_an_error():
    with pytest.raises(ScheduleError, match="the number of plays must be 1 or more"):
        parse_replay_option("a.json:0")


def test_the_text_of_a_file_is_readable(tmp_path: Path):
    text = replay_of({"schedule": SCHEDULE}, FOUND).dumps()
    assert json.loads(text)["episodes"] == SCHEDULE.to_json()["episodes"]
    assert '\n      {"fault": "redis.refuse"' in text, "one step a line"
