"""The files that a run leaves for its users."""

from __future__ import annotations

import json
from pathlib import Path

from pytest_resilience.history import History
from pytest_resilience.redaction import new_password
from pytest_resilience.report.artifacts import save_history, save_logs


def test_logs_are_saved_without_passwords(tmp_path: Path) -> None:
    password = new_password()
    file = save_logs(
        tmp_path, "tests/test_it.py::test_it[a/b]", {"service": f"DATABASE_URL=postgresql://joe:{password}@host/shop\n"}
    )
    assert file.read_text() == "===== service =====\nDATABASE_URL=postgresql://joe:***@host/shop\n"
    assert file.parent == tmp_path / ".resilience" / "logs"


def test_a_history_has_a_file_of_its_worker_and_test(tmp_path: Path) -> None:
    history = History()
    history.add_heal(history.add_strike("redis.reset", 0.0), 0.5, touched=4, unit="connections")
    file = save_history(tmp_path, "gw0", "tests/test_it.py::test_it[a/b]", history)
    assert file == tmp_path / ".resilience" / "history" / "gw0" / "tests-test_it.py-test_it-a-b-.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["mark"], line["time"]) for line in lines] == [("strike", 0.0), ("heal", 0.5)]
    assert (tmp_path / ".resilience" / ".gitignore").read_text().endswith("*\n")
