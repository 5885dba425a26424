"""Each acknowledged job runs, and nothing else does."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience.checkers import jobs_run
from pytest_resilience.history import History
from pytest_resilience.operation import Operation, PhaseMark, Verdict


def operation(f: str, key: str | None, time: float, **fields: Any) -> Operation:
    return Operation(int(time), 0, f, key, time=time, end=time + 0.5, **fields)


def verdict(*records: Any, exactly_once: bool = False) -> Verdict:
    return jobs_run(exactly_once)(History.of(records))


DRAINED = PhaseMark("recovery", 90.0)


def test_a_job_that_ran_is_right() -> None:
    found = verdict(operation("enqueue", "1", 0), operation("run", "1", 1), DRAINED)
    assert (found.kind, found.why) == ("ok", "")


def test_an_acknowledged_job_that_never_ran_is_lost() -> None:
    enqueues = operation("enqueue", "1", 0), operation("enqueue", "2", 1), operation("enqueue", "3", 2)
    found = verdict(*enqueues, operation("run", "2", 3), DRAINED)
    assert found.kind == "violated"
    assert found.why == "job 1, acknowledged at 0.500 s, never ran (one of 2 such jobs)"
    assert found.witness == (enqueues[0], enqueues[2])


def test_before_the_queue_is_drained_nothing_is_lost() -> None:
    found = verdict(operation("enqueue", "1", 0), operation("run", "2", 1), operation("enqueue", "2", 0))
    assert found.kind == "unknown"
    assert found.why == "job 1 has not run, but the history ended before the queue was drained"


def test_the_phase_of_the_last_operation_or_a_drain_ends_the_wait() -> None:
    enqueue = operation("enqueue", "1", 0)
    assert verdict(enqueue, operation("read", "x", 5, phase="recovery")).kind == "violated"
    assert verdict(enqueue, operation("drain", None, 5)).kind == "violated"
    assert verdict(operation("drain", None, 0), operation("enqueue", "1", 5)).kind == "unknown"


def test_a_job_with_an_unknown_enqueue_may_run_or_not() -> None:
    unknown = operation("enqueue", "1", 0, type="info")
    assert verdict(unknown, operation("run", "1", 1), DRAINED).kind == "ok"
    assert verdict(unknown, DRAINED).kind == "ok"


def test_a_job_that_was_not_enqueued_does_not_run() -> None:
    found = verdict(operation("enqueue", "1", 0), operation("run", "1", 1), operation("run", "2", 2))
    assert (found.kind, found.why) == ("violated", "job 2 ran at 2.500 s, and nothing had enqueued it")
    failed = operation("enqueue", "2", 1, type="fail")
    found = verdict(failed, operation("run", "2", 2))
    assert (found.why, found.witness) == (
        "job 2 ran at 2.500 s, and its enqueue had failed",
        (failed, operation("run", "2", 2)),
    )


def test_an_unknown_enqueue_without_an_id_stands_for_one_job() -> None:
    unknown = operation("enqueue", None, 0, type="info")
    assert verdict(unknown, operation("run", "2", 2)).kind == "ok"
    assert verdict(unknown, operation("run", "2", 2), operation("run", "3", 3)).kind == "violated"


def test_a_second_run_breaks_only_exactly_once() -> None:
    records = operation("enqueue", "1", 0), operation("run", "1", 1), operation("run", "1", 2), DRAINED
    assert verdict(*records).kind == "ok"
    found = verdict(*records, exactly_once=True)
    assert (found.kind, found.why) == ("violated", "job 1 ran more than once: at 1.500 s and 2.500 s")
    assert found.witness == records[:3]
    assert verdict(*records[:2], records[2]._replace(type="info"), exactly_once=True).kind == "ok"


def test_a_job_with_an_unknown_run_is_not_lost() -> None:
    found = verdict(operation("enqueue", "1", 0), operation("run", "1", 1, type="info"), DRAINED)
    assert (found.kind, found.why) == ("unknown", "job 1 has not run, but its run is unknown")


def test_without_a_job_nothing_is_decided() -> None:
    assert verdict(operation("read", "1", 0)).kind == "unknown"


@given(st.integers(1, 20), st.integers(0, 100), st.sampled_from(["lost", "foreign", "twice"]))
def test_one_changed_run_in_a_true_history_is_found(jobs: int, spoiled: int, change: str) -> None:
    enqueues = [operation("enqueue", str(job), 0) for job in range(jobs)]
    runs = [operation("run", str(job), 1) for job in range(jobs)]
    assert verdict(*enqueues, *runs, DRAINED, exactly_once=True).kind == "ok"
    run = runs.pop(spoiled % jobs)
    if change != "lost":
        runs += [run, run if change == "twice" else run._replace(key="foreign")]
    found = verdict(*enqueues, *runs, DRAINED, exactly_once=True)
    assert found.kind == "violated"
    assert {each.key for each in found.witness} & {run.key, "foreign"}
