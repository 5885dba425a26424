"""The files that a run leaves on purpose."""

from __future__ import annotations

from pytest_resilience.redaction import new_password
from pytest_resilience.report.artifacts import save_logs


def test_logs_are_kept_without_passwords(tmp_path):
    password = new_password()
    file = save_logs(
        tmp_path, "tests/test_it.py::test_it[a/b]", {"service": f"DATABASE_URL=postgresql://joe:{password}@host/shop\n"}
    )
    assert file.read_text() == "===== service =====\nDATABASE_URL=postgresql://joe:***@host/shop\n"
    assert file.parent == tmp_path / ".resilience" / "logs"
