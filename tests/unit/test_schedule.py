"""Schedules are plain data: equal after JSON and after `repr`, and malformed ones name the field."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
from hypothesis import given, settings

from pytest_resilience import schedule as module
from pytest_resilience.errors import ScheduleError
from pytest_resilience.schedule import *  # noqa: F403  # the way in which a printed schedule is evaluated
from pytest_resilience.schedule import (
    Episode,
    Schedule,
    Step,
    Trigger,
    after_heal,
    connections,
    end,
    operations,
    seconds,
    statement,
    touched,
)
from pytest_resilience.strategies import schedules

ANY = schedules("redis", "postgres", "service", "client", "postgres:replica")
FULL = Schedule(
    [
        Episode(
            [
                Step("postgres.latency", {"seconds": 0.2}, at=seconds(0.5), until=operations(4)),
                Step("redis.refuse", at=connections(2), until=seconds(1)),
                Step("postgres.hold_locks", {"tables": ["a", "b"]}, at=after_heal(seconds=0.25), until=end()),
            ],
            operations=7,
        ),
        Episode([], operations=1),
        Episode([Step("client.cancel", at=after_heal(operations=2), until=touched(3))]),
    ]
)


def test_all_is_sorted():
    assert module.__all__ == sorted(module.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name))


@given(ANY)
@settings(deadline=None, database=None, max_examples=60)
def test_a_schedule_survives_json_repr_pickle_and_copy(schedule):
    for again in (
        Schedule.loads(schedule.dumps()),
        eval(repr(schedule)),
        pickle.loads(pickle.dumps(schedule)),
        copy.deepcopy(schedule),
    ):
        assert again == schedule
        assert hash(again) == hash(schedule)
        assert again.dumps() == schedule.dumps()


def test_every_kind_of_trigger_and_setting_survives():
    assert Schedule.loads(FULL.dumps()) == FULL
    assert eval(repr(FULL)) == FULL


def test_a_schedule_cannot_be_changed():
    with pytest.raises(TypeError):
        FULL.steps[0].settings["seconds"] = 3
    with pytest.raises(AttributeError):
        FULL.steps[0].fault = "redis.kill"


def test_the_text_has_one_step_a_line():
    assert FULL.dumps() == (
        "{\n"
        '  "version": 1,\n'
        '  "episodes": [\n'
        '    {"operations": 7, "steps": [\n'
        '      {"fault": "postgres.latency", "settings": {"seconds": 0.2}, "at": {"seconds": 0.5}, "until": {"operations": 4}},\n'
        '      {"fault": "redis.refuse", "settings": {}, "at": {"connections": 2}, "until": {"seconds": 1.0}},\n'
        '      {"fault": "postgres.hold_locks", "settings": {"tables": ["a", "b"]}, "at": {"after_heal": {"seconds": 0.25}}, "until": {"end": true}}\n'
        "    ]},\n"
        '    {"operations": 1, "steps": []},\n'
        '    {"operations": 12, "steps": [\n'
        '      {"fault": "client.cancel", "settings": {}, "at": {"after_heal": {"operations": 2}}, "until": {"touched": 3}}\n'
        "    ]}\n"
        "  ]\n"
        "}\n"
    )


def test_the_documented_form_is_read():
    text = '{"version": 1, "episodes": [{"operations": 12, "steps": [{"fault": "redis.refuse", "settings": {}, "at": {"operations": 3}, "until": {"touched": 1}}]}]}'
    assert Schedule.loads(text) == Schedule([Episode([Step("redis.refuse", at=operations(3))])])


def test_a_replay_file_is_read(tmp_path):
    extra = {"found": {"promise": "x"}, "test": "test_it", "arguments": {"size": 3}}
    path = tmp_path / "replay.json"
    path.write_text(json.dumps({**FULL.to_json(), **extra}))
    assert Schedule.load(path) == FULL


def test_load_names_the_file(tmp_path):
    path = tmp_path / "bad.json"
    path.write_text("[]")
    with pytest.raises(ScheduleError, match=r"bad\.json: schedule: must be an object"):
        Schedule.load(path)


def of(**step):
    return {"version": 1, "episodes": [{"steps": [{"fault": "redis.refuse", **step}]}]}


STEP = "episodes[0].steps[0]"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "schedule: must be an object, got []"),
        ({}, "version: missing"),
        ({"version": 1}, "episodes: missing"),
        ({"version": 2, "episodes": [], "new": 1}, "version: this release reads version 1, got 2"),
        ({"version": True, "episodes": []}, "version: this release reads version 1, got True"),
        ({"version": 1, "episodes": []}, "episodes: a schedule has 1 to 4, got 0"),
        ({"version": 1, "episodes": [{}] * 5}, "episodes: a schedule has 1 to 4, got 5"),
        ({"version": 1, "episodes": 3}, "episodes: must be a list, got 3"),
        ({"version": 1, "episodes": [3]}, "episodes[0]: must be an object, got 3"),
        ({"version": 1, "episode": []}, "episode: unknown field; did you mean 'episodes'?; there are: version"),
        ({"version": 1, "episodes": [{"step": []}]}, "episodes[0].step: unknown field; did you mean 'steps'?"),
        ({"version": 1, "episodes": [{}, {"operations": 0}]}, "episodes[1].operations: must be an integer from 1"),
        ({"version": 1, "episodes": [{"operations": 2.5}]}, "episodes[0].operations: must be an integer from 1"),
        ({"version": 1, "episodes": [{"steps": {}}]}, "episodes[0].steps: must be a list, got {}"),
        ({"version": 1, "episodes": [{"steps": [{}]}]}, f"{STEP}.fault: missing"),
        (of(fault=3), f"{STEP}.fault: must be text, got 3"),
        (of(fault="redis.refus"), f"{STEP}.fault: no fault named 'redis.refus'; did you mean 'refuse'?"),
        (of(fault="redis"), f"{STEP}.fault: no fault named 'redis'; a label has target and fault"),
        (of(fault="my redis.refuse"), f"{STEP}.fault: no fault named 'my redis.refuse'"),
        (of(fault="redis.hold_locks"), f"{STEP}.fault: hold_locks does not strike redis; it strikes postgres"),
        (of(fault="postgres.crash"), f"{STEP}.fault: postgres.crash never heals, so no schedule may have it"),
        (of(fault="client.kill"), f"{STEP}.fault: the only fault of clients is 'client.cancel'"),
        (of(colour=1), f"{STEP}.colour: unknown field; there are: fault, settings, at, until"),
        (of(settings=[]), f"{STEP}.settings: must be an object, got []"),
        (of(settings={"a": 1}), f"{STEP}.settings.a: redis.refuse has no such setting; it has none"),
        (
            of(fault="redis.latency", settings={"second": 1}),
            f"{STEP}.settings.second: redis.latency has no such setting; did you mean 'seconds'?; it has: seconds, jitter",
        ),
        (of(fault="redis.latency"), f"{STEP}.settings.seconds: missing; redis.latency needs it"),
        (
            of(fault="redis.latency", settings={"seconds": "1"}),
            f"{STEP}.settings.seconds: redis.latency: must be a number, got '1'",
        ),
        (
            of(fault="redis.latency", settings={"seconds": True}),
            f"{STEP}.settings.seconds: redis.latency: must be a number, got True",
        ),
        (
            of(fault="redis.latency", settings={"seconds": 0}),
            f"{STEP}.settings: redis.latency: seconds must be at least 0.001 s",
        ),
        (
            of(fault="redis.blackhole", settings={"direction": ["up"]}),
            f"{STEP}.settings.direction: redis.blackhole: must be text",
        ),
        (
            of(fault="redis.readonly", settings={"stale": 0}),
            f"{STEP}.settings.stale: redis.readonly: must be true or false, got 0",
        ),
        (
            of(fault="postgres.hold_locks", settings={"tables": [1]}),
            f"{STEP}.settings.tables: postgres.hold_locks: must be a name or a list of names",
        ),
        (of(fault="postgres.starve"), f"{STEP}.settings: postgres.starve: starve() needs either connections=N"),
        (of(at=3), f"{STEP}.at: must be an object, got 3"),
        (of(at={}), f"{STEP}.at: must have one of operations, seconds"),
        (of(at={"operations": 1, "seconds": 1}), f"{STEP}.at: must have one of operations, seconds"),
        (
            of(at={"touched": 1}),
            f"{STEP}.at: must be one of operations, seconds, connections, statement, after_heal, got touched(1)",
        ),
        (
            of(until={"connections": 1}),
            f"{STEP}.until: must be one of operations, seconds, touched, end, got connections(1)",
        ),
        (of(at={"operation": 1}), f"{STEP}.at.operation: unknown field; did you mean 'operations'?"),
        (of(at={"operations": -1}), f"{STEP}.at.operations: must be an integer from 0 to 100000, got -1"),
        (of(at={"seconds": "1"}), f"{STEP}.at.seconds: must be seconds of 0 or more, got '1'"),
        (of(at={"connections": 0}), f"{STEP}.at.connections: must be an integer from 1"),
        (of(until={"touched": 0}), f"{STEP}.until.touched: must be an integer from 1"),
        (of(until={"end": False}), f"{STEP}.until.end: must be true, got False"),
        (of(at={"after_heal": 1}), f"{STEP}.at.after_heal: must be an object, got 1"),
        (
            of(at={"after_heal": {"seconds": 1, "operations": 1}}),
            f"{STEP}.at.after_heal: must have operations or seconds",
        ),
        (of(at={"after_heal": {"seconds": -1}}), f"{STEP}.at.after_heal.seconds: must be seconds of 0 or more, got -1"),
        (of(at={"after_heal": {"operations": None}}), f"{STEP}.at.after_heal.operations: must be an integer from 0"),
    ],
)
def test_a_malformed_text_is_an_error_with_the_path_to_the_field(data, message):
    with pytest.raises(ScheduleError) as caught:
        Schedule.loads(json.dumps(data))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON: "),
        ('{"version": 1, "version": 1, "episodes": []}', "version: an object has this field twice"),
        ('{"version": 1, "episodes": [{"steps": [{"fault": "redis.refuse", "at": {"seconds": NaN}}]}]}', STEP),
        ('{"version": 1, "episodes": [{"steps": [{"fault": "redis.refuse", "at": {"seconds": 1e999}}]}]}', STEP),
    ],
)
def test_a_text_that_is_no_json_is_an_error(text, message):
    with pytest.raises(ScheduleError) as caught:
        Schedule.loads(text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Schedule(3), "episodes: must be a list, got 3"),
        (lambda: Schedule([3]), "episodes[0]: must be an Episode, got 3"),
        (lambda: Episode("redis.refuse"), "steps: must be a list, got 'redis.refuse'"),
        (lambda: Episode([3]), "steps[0]: must be a Step, got 3"),
        (lambda: Episode([], 0), "operations: must be an integer"),
        (lambda: Step("redis.refuse", at=3), "at: must be a trigger such as operations(1), got 3"),
        (lambda: Step("redis.refuse", at=end()), "at: must be one of operations"),
        (lambda: Step("redis.refuse", 3), "settings: must be a mapping, got 3"),
        (lambda: Step("client.cancel").to_fault(), "fault: client.cancel cancels operations"),
        (
            lambda: Step("postgres.on", {"verb": "commit", "act": "error", "code": "xx"}),
            "settings: postgres.on: code must be the SQLSTATE of an error",
        ),
        (
            lambda: Step("redis.on", {"verb": "get", "act": "hang", "matching": "a"}),
            "settings: redis.on: matching is a setting for postgres, not for redis",
        ),
        (lambda: after_heal(operations=1, seconds=1), "after_heal: takes operations or seconds, not both"),
        (lambda: Trigger("later", 1), "no trigger 'later'; there are: operations"),
        (lambda: Trigger("end", 1), "end: takes no number, got 1"),
        (lambda: Trigger("after_heal", 1, "bytes"), "after_heal: takes operations or seconds, got 'bytes'"),
    ],
)
def test_a_malformed_schedule_in_python_is_an_error(make, message):
    with pytest.raises(ScheduleError) as caught:
        make()
    assert str(caught.value).startswith(message)


def test_a_step_of_another_server_is_accepted():
    """The names of further servers are known when the schedule is played."""
    assert Step("replica.hold_locks").target == "replica"


def test_a_trigger_by_statements_survives_json_and_repr():
    schedule = Schedule(
        [
            Episode(
                [
                    Step("redis.refuse", at=statement("EXEC", 2), until=touched(1)),
                    Step("service.kill", at=statement("commit", on="postgres")),
                    Step("postgres.on", {"verb": "commit", "act": "lose_answer", "nth": 2}),
                ]
            )
        ]
    )
    assert Schedule.loads(schedule.dumps()) == schedule
    assert repr(schedule.steps[0].at) == "statement('exec', 2)"
    assert repr(schedule.steps[1].at) == "statement('commit', 1, on='postgres')"
    assert schedule.steps[1].at.to_json() == {"statement": {"verb": "commit", "n": 1, "on": "postgres"}}


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ('{"statement": {"n": 2}}', r"episodes\[0\].steps\[0\].at.statement.verb: missing"),
        (
            '{"statement": {"verb": "commit", "n": 0}}',
            r"episodes\[0\].steps\[0\].at.statement: must be an integer from 1",
        ),
        ('{"statement": {"verb": "", "n": 1}}', r"episodes\[0\].steps\[0\].at.statement.verb: verb must be"),
        ('{"statement": {"verb": "commit", "on": 3}}', r"at.statement.on: must be the name of a server, got 3"),
    ],
)
def test_a_trigger_by_statements_reports_the_path_of_a_wrong_field(at, message):
    text = f'{{"version": 1, "episodes": [{{"steps": [{{"fault": "redis.refuse", "at": {at}}}]}}]}}'
    with pytest.raises(ScheduleError, match=message):
        Schedule.loads(text)


def test_a_statement_is_no_moment_of_a_heal():
    with pytest.raises(ScheduleError, match="until: must be one of"):
        Step("redis.refuse", until=statement("commit"))


def test_a_schedule_has_no_event_as_a_fault():
    with pytest.raises(ScheduleError, match=r"write the fault that it starts, with a trigger such as at=statement"):
        Step("redis.after", {"verb": "exec", "fault": "refuse"})
