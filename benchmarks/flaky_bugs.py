"""Count how often a bug that does not show every time is found and shrunk, by plain Hypothesis and by generated tests.

python benchmarks/flaky_bugs.py [--seeds 40] [--noise-runs 100]

The system is a pure function with a bug that two refusals trigger with a probability, among failures without a cause. The minimum are two
refusals. The last line is a system without a bug, in which a tenth of all plays fails. Only counts are shown, so the load of the machine
does not matter. The exit code is 1 if an error of Hypothesis reached the user.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky

from pytest_resilience.generated.hypothesis_test import GeneratedTest
from pytest_resilience.generated.search import Search
from pytest_resilience.history import History
from pytest_resilience.profiles import Profile

BUGS = ((1.0, 0.0), (0.9, 0.02), (0.5, 0.02), (0.25, 0.02))  # probability of the bug, and of other failures
STEPS = st.lists(st.sampled_from(["latency", "reset", "refuse"]), max_size=8)
MINIMUM = ["refuse", "refuse"]
LONG = Profile("long", search=60.0, shrink=60.0, confirm=60.0, clients=1)
SETTINGS = settings(max_examples=300, database=None, deadline=None, suppress_health_check=list(HealthCheck))


class Resilience:
    """The part of the fixture that a generated test needs."""

    history = History()

    def begin_example(self) -> None:
        """Begin an example."""

    def end_example(self) -> None:
        """End an example."""


class Bug(Exception):
    """The bug."""


def system(p: float, noise: float, random: Random, failed: list[list[str]]) -> Callable[..., None]:
    """Return a test that notes down the steps with which the bug has shown."""

    def test(resilience: Resilience, steps: list[str]) -> None:  # noqa: ARG001  # the fixture makes the test a generated one
        if steps.count("refuse") >= 2 and random.random() < p:
            failed.append(steps)
            raise Bug
        if random.random() < noise:
            raise TimeoutError

    return test


def plain(p: float, noise: float, number: int) -> str:
    """Return the outcome of one run of plain Hypothesis."""
    failed: list[list[str]] = []
    test = seed(number)(SETTINGS(given(steps=STEPS)(system(p, noise, Random(number), failed))))
    try:
        test(resilience=Resilience())
    except Bug:
        return "shrunk" if failed[-1] == MINIMUM else "longer"
    except (Flaky, ExceptionGroup):
        return "an error of Hypothesis"
    except TimeoutError:
        return "other"
    return "nothing"


def generated(p: float, noise: float, number: int, plays: list[int]) -> tuple[str, str]:
    """Return the outcome of one run of a generated test, and how often it was reproduced."""
    test: Any = SETTINGS(given(steps=STEPS)(system(p, noise, Random(number), [])))
    search, resilience = Search(LONG), Resilience()
    try:
        finding = GeneratedTest(test, "test", number, resilience, search).run({"resilience": resilience})
    except (Flaky, ExceptionGroup):
        return "an error of Hypothesis", ""
    plays.append(search.plays)
    if finding is None:
        return "nothing", ""
    if not isinstance(finding.error, Bug):
        return "other", str(finding)
    return "shrunk" if finding.candidate.arguments["steps"] == MINIMUM else "longer", str(finding)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--noise-runs", type=int, default=100)
    arguments = parser.parse_args()
    errors = 0
    for p, noise in BUGS:
        plays: list[int] = []
        before = Counter(plain(p, noise, number) for number in range(arguments.seeds))
        after = Counter(generated(p, noise, number, plays)[0] for number in range(arguments.seeds))
        errors += after["an error of Hypothesis"]
        median = statistics.median(plays) if plays else 0
        print(
            f"shows {p:4.0%}, noise {noise:2.0%}: plain {dict(before)}; generated {dict(after)}, median {median:g} plays"
        )
    counts = Counter(generated(0.0, 0.1, number, []) for number in range(arguments.noise_runs))
    errors += sum(n for (outcome, _), n in counts.items() if outcome == "an error of Hypothesis")
    print("no bug, noise 10%:", {text or outcome: n for (outcome, text), n in sorted(counts.items())})
    return min(errors, 1)


if __name__ == "__main__":
    sys.exit(main())
