"""The notes of a failure."""

from __future__ import annotations

from pytest_resilience import program, redaction, schedule
from pytest_resilience.errors import PromiseBroken
from pytest_resilience.history import History
from pytest_resilience.operation import Operation, Verdict
from pytest_resilience.program import Operate, Program
from pytest_resilience.report.failure import Found, as_python, explain, schedule_as_python
from pytest_resilience.schedule import Episode, Schedule, Step, operations, touched

SCHEDULE = Schedule([Episode([Step("redis.refuse", at=operations(3))], operations=5), Episode([])])
FOUND = Found(
    {"schedule": SCHEDULE, "n": 3},
    "reproduced 9 of 10",
    ("shortened 2 times",),
    "pytest --resilience-replay x.json",
    "found after 3 schedules, 1.2 s",
)
PROGRAM = Program(SCHEDULE, ((Operate("update", "a", 1), *[Operate("read")] * 4), (Operate("read"),) * 12))


def test_a_schedule_as_python_is_that_schedule():
    text = schedule_as_python(SCHEDULE)
    names = {"Schedule": Schedule, "Episode": Episode, "Step": Step, "operations": operations, "touched": touched}
    assert eval(text, names) == SCHEDULE
    assert "\n        Step('redis.refuse', at=operations(3), until=touched(1)),\n" in text


def test_a_program_as_python_is_that_program():
    text = as_python(PROGRAM)
    assert eval(text, {**vars(schedule), **vars(program)}) == PROGRAM
    assert "\n            Operate('update', key='a', value=1),\n" in text


def test_the_notes_are_added_once_and_in_order():
    write = Operation(0, 0, "create", "7")
    error = PromiseBroken([Verdict("unique_ids", "violated", "id 7 twice", (write,))], History.of([write]))
    for _ in range(2):
        explain(error, None, FOUND, file="histories/x.jsonl")
    (note,) = error.__notes__
    parts = ["witness of unique_ids:", "timeline (* marks the witness):", "schedule = Schedule([", "n = 3"]
    parts += ["found after 3 schedules, 1.2 s; reproduced 9 of 10; shortened 2 times"]
    parts += ["replay it: pytest --resilience-replay x.json", "history: histories/x.jsonl"]
    places = [note.index(part) for part in parts]
    assert places == sorted(places)


def test_another_error_shows_the_history_of_its_play():
    error = ValueError("wrong")
    explain(error, History.of([Operation(0, 0, "create", "7")]))
    assert error.__notes__[0].startswith("timeline:\n")


def test_an_error_without_a_history_gets_no_note():
    error = ValueError("wrong")
    explain(error, None)
    assert not hasattr(error, "__notes__")


def test_the_notes_have_no_secrets():
    redaction.remember("a-very-secret-password")
    error = ValueError("wrong")
    explain(error, None, FOUND._replace(arguments={"url": "redis://:a-very-secret-password@host"}))
    assert "a-very-secret" not in error.__notes__[0]
