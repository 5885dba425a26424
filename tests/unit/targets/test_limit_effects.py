"""Detection of processes that have reached a limit."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pytest_resilience.targets.limit_effects import DataLimitDetector, LimitHold
from pytest_resilience.targets.lowered_rlimit import LoweredRlimit
from pytest_resilience.targets.process_tree import ProcessTree

DATA_LIMIT = 1 << 30  # bytes; so far from the size of the process that only its activity leaves the receipt unknown


@pytest.mark.parametrize(
    "line",
    [
        "MemoryError",
        "java.lang.OutOfMemoryError: Java heap space",
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "memory allocation of 1048576 bytes failed",
        "RangeError: Array buffer allocation failed",
        "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory",
    ],
)
def test_a_log_line_of_each_language_shows_that_memory_was_refused(line):
    assert DataLimitDetector.log_pattern.search(line)


@pytest.mark.parametrize("line", ["caught NoMemoryErrorHere", "listening on port 8000", "allocated an array buffer"])
def test_other_log_lines_do_not(line):
    assert not DataLimitDetector.log_pattern.search(line)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are Linux'")
def test_a_process_that_ran_only_while_its_limit_was_lowered_was_not_idle():
    """It may have reached its limit at that time, so the receipt is unknown and not 0."""
    import psutil

    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        process = psutil.Process(child.pid)

        def run_and_keep_limit(_: psutil.Process) -> int:
            child.stdin.write(b"x")
            assert child.stdout.read(1) == b"x"
            return DATA_LIMIT

        tree = ProcessTree(process, lambda: [child.pid])
        hold = LimitHold(tree, LoweredRlimit(tree, psutil.RLIMIT_DATA, run_and_keep_limit), DataLimitDetector(1), None)
        try:
            assert hold.receipt().touched is None
        finally:
            hold.release()
            child.kill()
