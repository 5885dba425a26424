"""The processes that belong to a test."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pytest_resilience.leaks.child_processes import new_children, process_ids

DAEMON = """
import os, subprocess, sys
if os.fork():
    os._exit(0)
print("ready", flush=True)
sys.stdin.readline()
child = subprocess.Popen(["sleep", "60"])
print(child.pid, flush=True)
sys.stdin.readline()
child.kill()
child.wait()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux lists processes")
def test_a_child_of_an_older_process_elsewhere_is_no_leak() -> None:
    """A run of this test beside this one has such children, with the same name of the test in their environment."""
    assert "PYTEST_CURRENT_TEST" in os.environ
    with subprocess.Popen(
        [sys.executable, "-c", DAEMON], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        parent.wait()
        before = process_ids()
        print(file=parent.stdin, flush=True)
        child = int(parent.stdout.readline())
        found = {resource.value.pid for resource in new_children(before)}
        print(file=parent.stdin, flush=True)
    assert child not in found
