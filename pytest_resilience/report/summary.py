"""The plugin object that writes the section "resilience" at the end of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .run_reports import RunSummary


class Summary:
    """A plugin that writes the section "resilience" at the end of a run.

    Args:
        run_line: returns the line that shows which backend and seed the run used, or None if the run has shown it.
    """

    def __init__(self, run_line: Callable[[], str | None]) -> None:
        self._run_line = run_line

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Write the injected faults, the vacuous and flaky tests, and the leaks, if there are any."""
        summary, line = RunSummary.from_stats(terminalreporter.stats), self._run_line()
        if line or not summary.is_empty:
            from .terminal import summary_lines  # a run that shows nothing does not load it

            terminalreporter.section("resilience")
            for each in [*([line] if line else []), *summary_lines(summary)]:
                terminalreporter.write_line(each)
