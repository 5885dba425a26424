"""The line of progress."""

from __future__ import annotations

from pytest_resilience.report.progress import Progress


class Searching:
    examples = 12
    stage = "shrinking"
    seconds_left = 41.6


def test_the_line_has_the_stage_the_counts_and_the_seconds_left_and_is_removed():
    lines: list[str] = []
    progress = Progress(lines.append, lambda: 1)
    progress.played(Searching())
    progress.end()
    assert lines == ["shrinking: 12 schedules played, 1 strike hit, 42 s left", ""]
