"""The results of a run's tests, read from pytest's reports. A plugin may run a test again after a failure.

The properties below are in the reports, so that they reach the controller of pytest-xdist and JUnit. Every run of pytest
imports this file, so it imports nothing heavy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

OUTCOME = "resilience_outcome"
STRIKE = "resilience_strike"
UNSUPPORTED = "resilience_cannot"
LEAK = "resilience_leak"
ATTEMPT = "resilience_attempt"  # from the second attempt on
FAILED_ATTEMPTS = "resilience_failed_attempts"  # before this one
GENERATED_SEED = "resilience_seed"
SCHEDULES = "resilience_schedules"  # that a generated test has played
STRIKES = "resilience_strikes"  # of a generated test, by fault, as JSON
NOT_STRUCK = "resilience_not_struck"  # a step that did not strike in a test that is not vacuous, with the reason
NEVER_HIT = "resilience_never_hit"  # a fault that makes a generated test vacuous, serialized as a strike
SCHEDULE = "resilience_schedule"  # the SHA-256 of the one that broke a promise
REPLAY = "resilience_replay"  # the path of its file
FOUND_AFTER = "resilience_found_after"  # the number of schedules that were played until the first failure
REPRODUCED = "resilience_reproduced"
RECOVERED = "resilience_recovered_s"  # the longest recovery
GENERATED_PROPERTIES = (
    GENERATED_SEED,
    SCHEDULES,
    STRIKES,
    NEVER_HIT,
    SCHEDULE,
    REPLAY,
    FOUND_AFTER,
    REPRODUCED,
    RECOVERED,
)
ATTEMPT_PROPERTIES = (OUTCOME, STRIKE, NOT_STRUCK, UNSUPPORTED, LEAK, ATTEMPT, FAILED_ATTEMPTS, *GENERATED_PROPERTIES)


class RunReports:
    """The reports of one run, by test and attempt.

    Args:
        stats: the terminal reporter's reports by category.
    """

    def __init__(self, stats: dict[str, list[Any]]) -> None:
        self._reports = [report for reports in stats.values() for report in reports if hasattr(report, "when")]
        self._vacuous = stats.get("vacuous", [])
        self._last: dict[tuple[str, str], int] = {}
        for report in self._reports:
            self._last[_test(report)] = max(self._last.get(_test(report), 0), _number(report))

    def strikes(self) -> list[str]:
        """Return each strike of each attempt, serialized."""
        return [text for report in self._reports if report.when != "teardown" for text in _values(report, STRIKE)]

    def vacuous(self) -> list[tuple[str, str]]:
        """Return (node id, serialized strike) of the tests with a vacuous last attempt."""
        last = [report for report in self._vacuous if self._is_last(report)]
        return [
            (report.nodeid, text) for report in last for text in (*_values(report, STRIKE), *_values(report, NEVER_HIT))
        ]

    def not_struck(self) -> list[tuple[str, str]]:
        """Return (node id, step and reason) of the steps that did not strike in the last attempt of a test that passed."""
        last = [report for report in self._reports if report.when == "call" and self._is_last(report)]
        return [(report.nodeid, text) for report in last for text in _values(report, NOT_STRUCK)]

    def leaks(self) -> list[tuple[str, str]]:
        """Return (node id, leak) of each leaked resource. A leak of several attempts of one test is in the list once."""
        leaks: Counter[tuple[str, str]] = Counter()
        for report in self._reports:
            if report.when == "teardown":
                leaks |= Counter(
                    (report.nodeid, text) for text in _values(report, LEAK)
                )  # one test may leak two of a name
        return list(leaks.elements())

    def generated(self) -> list[tuple[str, dict[str, str]]]:
        """Return (node id, properties) of the last attempt of each generated test."""
        found = [r for r in self._reports if r.when == "call" and self._is_last(r) and _values(r, SCHEDULES)]
        return [(report.nodeid, dict(report.user_properties)) for report in found]

    def unsupported(self) -> list[str]:
        """Return the reason of each test that was skipped because a fault can't be injected."""
        return [text for report in self._reports if report.when != "teardown" for text in _values(report, UNSUPPORTED)]

    def flaky(self) -> list[tuple[str, int, int]]:
        """Return (node id, attempt, failed attempts before it) of the tests that passed after a failure."""
        failed = {(_test(r), _number(r)) for r in self._reports if r.outcome in ("failed", "rerun")}
        passed = [r for r in self._reports if r.when == "call" and r.outcome == "passed" and self._is_last(r)]
        return [
            (report.nodeid, _number(report), int(before))
            for report in passed
            for before in _values(report, FAILED_ATTEMPTS)
            if (_test(report), _number(report)) not in failed
        ]

    def _is_last(self, report: Any) -> bool:
        return _number(report) == self._last[_test(report)]


class RunSummary:
    """The results of a run for its summary, each from the method of `RunReports` with its name."""

    def __init__(self, reports: RunReports) -> None:
        self.strikes = reports.strikes()
        self.vacuous = reports.vacuous()
        self.not_struck = reports.not_struck()
        self.flaky = reports.flaky()
        self.unsupported = reports.unsupported()
        self.leaks = reports.leaks()
        self.generated = reports.generated()

    @classmethod
    def from_stats(cls, stats: dict[str, list[Any]]) -> RunSummary:
        """Return the summary of the terminal reporter's reports by category."""
        return cls(RunReports(stats))

    @property
    def is_empty(self) -> bool:
        """True if no test used the plugin in a way that the summary shows."""
        return not (self.strikes or self.not_struck or self.unsupported or self.leaks or self.generated)


def _test(report: Any) -> tuple[str, str]:
    """Return node id and worker. With xdist's --dist=each, every worker runs every test."""
    return report.nodeid, getattr(report, "worker_id", "")


def _number(report: Any) -> int:
    return int(next(iter(_values(report, ATTEMPT)), "1"))


def _values(report: Any, name: str) -> Iterable[str]:
    return [value for found, value in getattr(report, "user_properties", ()) if found == name]
