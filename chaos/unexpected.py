"""Log lines of the service that no fault excuses."""

from __future__ import annotations

import re

# Each pattern with its meaning. The log is searched for them after every test.
UNEXPECTED = {
    r"Traceback \(most recent call last\)": "an unhandled error reached the log",
    r"was never retrieved|was never awaited|Task was destroyed": "a task failed unnoticed",
    r"Closed [1-9]\d* leaked connections": "connections were checked out for longer than any request may take: a request"
    " hangs or lost its connection, and the sweep took its connection back",
    r"\[Memory\] High heap usage": "the memory guard acted although no memory was taken away",
}


def find_unexpected_lines(log: str) -> None:
    """Assert that a log has none of these lines."""
    for pattern, meaning in UNEXPECTED.items():
        found = re.search(pattern, log)
        assert not found, f"{meaning}; the service's log:\n{log[found.start() :][:2000]}"
