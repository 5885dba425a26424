"""The text of a history: lanes, strikes between the lines, the witness, and the cut of a long history."""

from __future__ import annotations

from pytest_resilience.history import History
from pytest_resilience.operation import FaultMark, Operation, PhaseMark, SkipMark
from pytest_resilience.report.timeline import MAX_LINES, describe, timeline

WRITE = Operation(0, 0, "update", "1", "w0", "ok", 0.01, 0.02, version=2, client=0)
READ = Operation(1, 1, "read", "1", None, "ok", 0.30, 0.31, source="redis", client=2)
LOST = Operation(2, 2, "update", "1", "w1", "info", 0.10, 0.20, error="ReadTimeout", client=2)
STRIKE = FaultMark("strike", "redis.refuse", 0.05, 0)
HEAL = FaultMark("heal", "redis.refuse", 0.25, 0, 1, "connections")


def history_of(*records: object) -> History:
    return History.of(records)  # type: ignore[arg-type]


def test_operations_stand_in_the_lane_of_their_client_and_strikes_between_them():
    lines = timeline(history_of(PhaseMark("run", 0.0), WRITE, STRIKE, LOST, HEAL, READ), [WRITE, READ])
    assert [line.rstrip("─ ") for line in lines] == [
        "   seconds  client 0                                        client 2",
        "     0.000  ── episode 1: run",
        "*    0.010  update 1 = 'w0': ok",
        "     0.050  ── redis.refuse strikes",
        "     0.100                                                  update 1 = 'w1': info ReadTimeout",
        "     0.250  ── redis.refuse heals, touched 1 connection",
        "*    0.300                                                  read 1 -> None: ok",
    ]


def test_a_step_that_could_not_strike_is_shown_with_its_reason():
    (_, line) = timeline(history_of(SkipMark("strike", "redis.pause", "it is paused", 0.1)))
    assert line.startswith("     0.100  ── redis.pause cannot strike: it is paused ─")


def test_a_long_history_is_cut_to_the_lines_around_the_witness():
    many = [WRITE._replace(index=n, time=n / 10) for n in range(500)]
    lines = timeline(history_of(STRIKE, *many), [many[100], many[400]])
    assert len(lines) <= MAX_LINES + 5
    assert sum(line.startswith("*") for line in lines) == 2
    assert any(line.strip().startswith("…") for line in lines)
    assert lines[-1].strip() == "… 94 more …"


def test_a_long_history_without_a_witness_is_cut_to_its_end():
    many = [WRITE._replace(index=n, time=float(n)) for n in range(100)]
    lines = timeline(history_of(*many))
    assert lines[1].strip() == "… 60 more …"
    assert lines[-1].startswith("    99.000")


def test_many_clients_share_one_lane():
    many = [WRITE._replace(index=n, client=n) for n in range(6)]
    assert timeline(history_of(*many))[1:] == [f"     0.010  client {n}: update 1 = 'w0': ok" for n in range(6)]


def test_an_empty_history_is_reported_as_such():
    assert timeline(History()) == ["nothing was recorded"]


def test_an_operation_in_one_line_has_its_times_its_client_and_what_was_seen():
    assert describe(WRITE) == "0.010 to 0.020 s, client 0: update 1 = 'w0': ok (version 2)"
    assert describe(READ) == "0.300 to 0.310 s, client 2: read 1 -> None: ok (redis)"
    assert describe(LOST) == "0.100 to 0.200 s, client 2: update 1 = 'w1': info ReadTimeout"
