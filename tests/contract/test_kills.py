"""One round of scripts/kills for each target. `scripts/kills` runs 200."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: a subreaper, /proc")
def test_nothing_is_left_after_a_part_of_a_session_was_killed_or_interrupted():
    command = [sys.executable, "scripts/lib/kill_soak.py", "--backend=embedded", "--rounds=6", "--seed=1"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    rows = re.findall(
        r"^(pytest|controller|worker|proxy|supervisor|interrupt) +\| embedded \| 1 +\| [01] .*\| 1 +\| 0$",
        ran.stdout,
        re.MULTILINE,
    )
    assert rows == ["pytest", "controller", "worker", "proxy", "supervisor", "interrupt"], ran.stdout
