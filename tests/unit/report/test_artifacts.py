"""The files that a run leaves for its users."""

from __future__ import annotations

import json
from pathlib import Path

from pytest_resilience.history import History
from pytest_resilience.redaction import new_password
from pytest_resilience.report.artifacts import open_history, save_logs


def test_logs_are_saved_without_passwords(tmp_path: Path) -> None:
    password = new_password()
    file = save_logs(
        tmp_path, "tests/test_it.py::test_it[a/b]", {"service": f"DATABASE_URL=postgresql://joe:{password}@host/shop\n"}
    )
    assert file.read_text() == "===== service =====\nDATABASE_URL=postgresql://joe:***@host/shop\n"
    assert file.parent == tmp_path / ".resilience" / "logs"


def test_a_history_has_a_file_of_its_worker_and_test(tmp_path: Path) -> None:
    file = open_history(tmp_path, ".resilience/history", "gw0", "tests/test_it.py::test_it[a/b]")
    assert file is not None
    assert file.path == tmp_path / ".resilience" / "history" / "gw0" / "tests-test_it.py-test_it-a-b-.jsonl"
    assert not (tmp_path / ".resilience").exists()
    History(file=file).client().invoke("read").ok()
    file.close()
    assert json.loads(file.path.read_text())["f"] == "read"
    assert (tmp_path / ".resilience" / ".gitignore").read_text().endswith("*\n")


def test_each_attempt_has_a_file_of_its_own(tmp_path: Path) -> None:
    file = open_history(tmp_path, "histories", "main", "test_it.py::test_it", attempt=2)
    assert file is not None
    assert file.path == tmp_path / "histories" / "main" / "test_it.py-test_it-attempt-2.jsonl"
    assert file.name == "histories/main/test_it.py-test_it-attempt-2.jsonl"


def test_a_directory_outside_of_the_rootdir_has_its_whole_path(tmp_path: Path) -> None:
    file = open_history(tmp_path / "root", str(tmp_path / "histories"), "main", "test_it.py::test_it")
    assert file is not None
    assert file.name == str(tmp_path / "histories" / "main" / "test_it.py-test_it.jsonl")


def test_off_is_no_file(tmp_path: Path) -> None:
    assert open_history(tmp_path, "off", "main", "test_it.py::test_it") is None
