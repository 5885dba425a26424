"""Operations and marks are plain data, and describe the lines of a history file."""

from __future__ import annotations

from pytest_resilience.operation import FaultMark, Operation, PhaseMark, ProbeMark, SkipMark

KEYS = [
    "index",
    "process",
    "f",
    "key",
    "value",
    "type",
    "time",
    "end",
    "version",
    "expected",
    "source",
    "state",
    "node",
    "error",
    "episode",
    "phase",
    "client",
]


def test_an_operation_has_the_documented_keys_in_their_order() -> None:
    assert list(Operation(0, 0, "read").to_json()) == KEYS


def test_a_mark_has_its_kind_and_the_documented_keys() -> None:
    assert FaultMark("strike", "redis.refuse", 0.5, 0).to_json() == {
        "mark": "strike",
        "label": "redis.refuse",
        "time": 0.5,
        "strike": 0,
        "episode": 1,
    }
    healed = FaultMark("heal", "redis.refuse", 1.5, 0, 3, "connections", 2).to_json()
    assert healed["touched"] == 3
    assert healed["unit"] == "connections"
    assert SkipMark("heal", "redis.pause", "busy", 2.0).to_json()["mark"] == "skip"
    assert ProbeMark("ready", {"status": 200}, 2.0).to_json() == {
        "mark": "probe",
        "name": "ready",
        "answer": {"status": 200},
        "time": 2.0,
        "episode": 1,
    }
    assert PhaseMark("recovery", 3.0, 2).to_json() == {"mark": "phase", "phase": "recovery", "time": 3.0, "episode": 2}
