"""The file of a test's history is made at its first operation, and an error of the file system loses no record."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from pytest_resilience.history import History
from pytest_resilience.history_file import HistoryFile


def kinds(file: Path) -> list[str]:
    """Return the mark or the kind of operation of each line."""
    return [line.get("mark") or line["f"] for line in map(json.loads, file.read_text().splitlines())]


def test_a_history_without_operations_leaves_no_file(tmp_path: Path) -> None:
    history = History(file=HistoryFile(tmp_path / "new" / "it.jsonl"))
    history.add_strike("redis.refuse", 0.0)
    history.close()
    assert list(tmp_path.iterdir()) == []


def test_marks_before_the_first_operation_are_in_the_file_and_each_mark_flushes(tmp_path: Path) -> None:
    history = History(file=HistoryFile(tmp_path / "new" / "it.jsonl"))
    strike = history.add_strike("redis.refuse", 0.0)
    history.client().invoke("read").ok()
    history.add_heal(strike, 1.0)
    assert kinds(tmp_path / "new" / "it.jsonl") == ["strike", "read", "heal"]
    history.close()


def test_the_file_of_an_earlier_run_is_removed(tmp_path: Path) -> None:
    file = tmp_path / "it.jsonl"
    file.write_text("old")
    HistoryFile(file)
    assert not file.exists()


def test_it_holds_the_last_example_of_a_generated_test(tmp_path: Path) -> None:
    file = HistoryFile(tmp_path / "it.jsonl")
    for f in ("create", "read"):
        file.begin()
        history = History(file=file)
        history.client().invoke(f).ok()
        history.close()
    assert kinds(file.path) == ["read"]
    file.begin()
    assert not file.path.exists()


def test_it_may_begin_with_the_records_of_an_earlier_example(tmp_path: Path) -> None:
    history = History(start=0.0)
    history.client().invoke("read").ok()
    history.begin_phase("heal", 1)
    file = HistoryFile(tmp_path / "it.jsonl")
    file.begin(history.records)
    file.close()
    assert History.load(file.path).records == history.records


def test_a_record_after_the_end_stays_in_memory(tmp_path: Path) -> None:
    history = History(file=HistoryFile(tmp_path / "it.jsonl"))
    history.client().invoke("read").ok()
    history.close()
    history.client().invoke("update").ok()
    assert kinds(tmp_path / "it.jsonl") == ["read"]
    assert [operation.f for operation in history.operations] == ["read", "update"]


def test_a_directory_that_cant_be_made_is_a_problem_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    file = HistoryFile(tmp_path / "taken" / "it.jsonl")
    history = History(file=file)
    history.client().invoke("read").ok()
    history.close()
    assert isinstance(file.problem, OSError)
    assert str(tmp_path / "taken") in str(file.problem)
    assert len(history.operations) == 1


def test_a_full_disk_ends_the_file_and_not_the_test(tmp_path: Path) -> None:
    def fill() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = HistoryFile(tmp_path / "it.jsonl", prepare=fill)
    history = History(file=file)
    for _ in range(2):
        history.client().invoke("read").ok()
    assert file.problem is not None
    assert file.problem.errno == errno.ENOSPC
    assert not file.written
    assert len(history.operations) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_an_error_of_the_last_flush_is_a_problem_too(tmp_path: Path) -> None:
    (tmp_path / "it.jsonl").symlink_to("/dev/full")
    file = HistoryFile(tmp_path / "it.jsonl")
    (tmp_path / "it.jsonl").symlink_to("/dev/full")  # the constructor has removed the first one
    history = History(file=file)
    history.client().invoke("read").ok()
    history.close()
    assert file.problem is not None
