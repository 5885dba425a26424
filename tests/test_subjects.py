"""The check of commit subjects that scripts/lint runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "lib" / "check_subjects.py"


@pytest.mark.parametrize(
    "subject",
    [
        "Add a check of commit subjects",
        "Proxy: name the handle's methods by standard terms",
        "Embed the version in the wheel",
        "Pass the deadline to the probe",
        "Merge branch 'x' into y",
        f"Add {'x' * 68}",
    ],
)
def test_a_good_subject_passes(tmp_path, subject):
    assert check(tmp_path, f"{subject}\n\nWhy.\n") == (0, "subjects: 1 checked\n")


@pytest.mark.parametrize(
    ("subject", "problem"),
    [
        (f"Add {'x' * 69}", "is 73 characters long, not at most 72"),
        ("Added a check", "'added'"),
        ("Adds a check", "'adds'"),
        ("Adding a check", "'adding'"),
        ("The check of subjects", "'the'"),
        ("Docs: what the start costs", "'what'"),
        ("add a check", "does not begin with a capital letter"),
        ("Add a check.", "ends with a full stop"),
    ],
)
def test_a_wrong_subject_is_reported(tmp_path, subject, problem):
    code, out = check(tmp_path, subject)
    assert code == 1
    assert problem in out


def test_the_commits_since_the_main_branch_are_checked_or_the_last_one(tmp_path):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]

    def commit(subject: str) -> None:
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", subject], cwd=tmp_path, check=True)

    subprocess.run([*git, "init", "-q", "-b", "main"], cwd=tmp_path, check=True)
    commit("Wrongs of old")
    commit("Add the last commit of main")
    assert check(tmp_path) == (0, "subjects: 1 checked\n")
    subprocess.run([*git, "switch", "-q", "-c", "topic"], cwd=tmp_path, check=True)
    commit("Fixes it")
    commit("Add a test")
    code, out = check(tmp_path)
    assert code == 1
    assert "'Fixes it'" in out
    assert "subjects: 1 of 2 are wrong" in out


def check(folder: Path, message: str | None = None) -> tuple[int, str]:
    """Return exit code and output of the check, of a message or of the repository in the folder."""
    file = folder / "message"
    if message is not None:
        file.write_text(message)
    command = [sys.executable, SCRIPT, *([file] if message is not None else [])]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout
