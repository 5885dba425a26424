"""Detection of processes that have reached a limit."""

from __future__ import annotations

import pytest

from pytest_resilience.targets.limit_effects import DataLimitDetector


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
