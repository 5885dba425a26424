"""Generated tests under Hypothesis itself, with a simulated bug in a pure function that shows with a probability."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import count
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, assume, example, given, note, settings
from hypothesis import strategies as st
from hypothesis.database import InMemoryExampleDatabase
from hypothesis.errors import InvalidArgument

from pytest_resilience.errors import CannotInject, PromiseBroken, SetupError
from pytest_resilience.generated.hypothesis_test import EXAMPLES, SEED, SETTINGS, GeneratedTest, suppress_health_checks
from pytest_resilience.generated.search import Finding, Search
from pytest_resilience.history import History
from pytest_resilience.operation import Verdict
from pytest_resilience.profiles import Profile
from pytest_resilience.schedule import Episode, Schedule, Step
from tests.support.clocks import FakeClock

UNLIMITED = Profile("unlimited", search=1.0, shrink=1.0, confirm=1.0, clients=3)  # the clock stands still
CAP = settings(max_examples=300, database=None)
STEPS = st.lists(st.sampled_from(["latency", "reset", "refuse"]), max_size=8)
MINIMUM = ["refuse", "refuse"]


class Resilience:
    """The part of the fixture that a generated test needs."""

    def __init__(self) -> None:
        self.history = History()
        self.begun = self.ended = 0

    def begin_example(self) -> None:
        self.begun += 1
        self.history = History()

    def end_example(self) -> None:
        self.ended += 1


def search_of(test: Any, *, seed: int | None = 0, nodeid: str = "test", search: Search | None = None) -> Finding | None:
    """Run a generated test and return its finding."""
    suppress_health_checks(test)
    resilience = Resilience()
    generated = GeneratedTest(test, nodeid, seed, resilience, search or Search(UNLIMITED, clock=FakeClock()))
    try:
        return generated.run({"resilience": resilience})
    finally:
        assert resilience.begun == resilience.ended


SCHEDULE = st.builds(lambda: Schedule([Episode([Step("redis.refuse")], 1)]))


def test_a_test_that_draws_schedules_and_never_plays_one_is_an_error() -> None:
    @CAP
    @given(schedule=SCHEDULE)
    def forgets(resilience: Any, schedule: Schedule) -> None:
        pass

    message = r"the test draws schedule and never plays it.*: call resilience\.play\(schedule, workload\)"
    with pytest.raises(SetupError, match=message):
        search_of(forgets)


def test_a_test_that_plays_some_schedules_or_draws_none_is_in_order() -> None:
    @CAP
    @given(schedule=SCHEDULE, number=st.integers(0, 3))
    def plays_some(resilience: Any, schedule: Schedule, number: int) -> None:
        if number == 3:
            resilience.history.client().invoke("read").ok()

    @CAP
    @given(number=st.integers())
    def draws_none(resilience: Any, number: int) -> None:
        pass

    assert search_of(plays_some) is None
    assert search_of(draws_none) is None


def buggy(p: float, noise: float, random: Random) -> Any:
    """Return a test with a bug that two refusals trigger, and with failures for no reason."""

    @CAP
    @given(steps=STEPS)
    def test(resilience: Resilience, steps: list[str]) -> None:
        if steps.count("refuse") >= 2 and random.random() < p:
            raise PromiseBroken([Verdict("no_lost_writes", "violated", "lost")], None)
        if random.random() < noise:
            raise TimeoutError("noise")

    return test


@pytest.mark.parametrize(("p", "noise", "at_least"), [(1.0, 0.0, 20), (0.9, 0.02, 15), (0.5, 0.02, 12)])
def test_a_bug_that_does_not_show_every_time_is_shrunk(p: float, noise: float, at_least: int):
    """Plain Hypothesis shrinks 20, 9 and 3 of 20, and ends the others with FlakyFailure or unshrunk."""
    shrunk = 0
    for seed in range(20):
        finding = search_of(buggy(p, noise, Random(seed)), seed=seed)
        assert finding is not None
        if isinstance(finding.error, PromiseBroken):
            shrunk += finding.candidate.arguments == {"steps": MINIMUM}
            assert finding.reproduced > 0
    assert shrunk >= at_least


def test_a_system_with_random_failures_only_gives_an_honest_count():
    random = Random(1)

    @CAP
    @given(steps=STEPS)
    def test(resilience: Resilience, steps: list[str]) -> None:
        if random.random() < 0.1:
            raise TimeoutError("noise")

    counts = Counter(finding.reproduced for n in range(15) if (finding := search_of(test, seed=n)) is not None)
    assert counts.total() == 15
    assert sum(k * n for k, n in counts.items()) / 15 < 3.5, (
        "a tenth of ten plays fails, and a few more of those that are selected"
    )


def collected(test: Callable[[], Any], **options: Any) -> list[list[str]]:
    """Return what a test that passes has drawn."""
    seen: list[list[str]] = []

    @settings(max_examples=20, database=None)
    @given(steps=STEPS)
    def passing(resilience: Resilience, steps: list[str]) -> None:
        seen.append(steps)

    assert search_of(passing, **options) is None
    return seen


def test_the_seed_and_the_name_of_the_test_decide_what_is_drawn():
    first = collected(collected, seed=1, nodeid="a")
    assert first == collected(collected, seed=1, nodeid="a")
    assert first != collected(collected, seed=2, nodeid="a")
    assert first != collected(collected, seed=1, nodeid="b")


def test_equal_arguments_are_played_once():
    seen = collected(collected)
    assert len(seen) == len({tuple(each) for each in seen})


def test_the_function_and_its_settings_are_restored():
    test = buggy(1.0, 0.0, Random(1))
    suppress_health_checks(test)
    before = {name: getattr(test, name, None) for name in (SETTINGS, SEED, EXAMPLES)} | {
        "inner": test.hypothesis.inner_test
    }
    assert search_of(test) is not None
    after = {name: getattr(test, name, None) for name in (SETTINGS, SEED, EXAMPLES)} | {
        "inner": test.hypothesis.inner_test
    }
    assert after == before


def test_the_database_remembers_a_failure_that_shows_seldom():
    database, random = InMemoryExampleDatabase(), Random(3)

    @settings(database=database)
    @given(steps=STEPS)
    def test(resilience: Resilience, steps: list[str]) -> None:
        if steps.count("refuse") >= 2 and random.random() < 0.6:
            raise ValueError("lost")

    assert search_of(test) is not None
    for seed in range(10):
        search = Search(UNLIMITED, clock=FakeClock())
        finding = search_of(test, seed=seed, search=search)
        assert finding is not None
        assert finding.candidate.arguments["steps"].count("refuse") >= 2
        assert search.examples < 20, "it was found again without a search"


def test_a_failure_that_came_once_is_reported_at_the_end_of_the_search():
    seen: Counter[str] = Counter()
    clock = FakeClock()

    @settings(max_examples=30, database=None)
    @given(steps=STEPS)
    def test(resilience: Resilience, steps: list[str]) -> None:
        seen["all"] += 1
        clock.time += 0.01
        if seen["all"] == 5:
            raise ValueError("once")

    search = Search(UNLIMITED, clock=clock)
    finding = search_of(test, search=search)
    assert finding is not None
    assert str(finding) == "reproduced 1 of 8"
    assert search.examples > 20, "the search went on"


def test_the_budget_of_the_search_ends_it_and_hypothesis_draws_no_more():
    clock, drawn = FakeClock(), []

    def counted(n: int) -> int:
        drawn.append(n)
        assert len(drawn) < 1000, "it goes on drawing"
        return n

    @settings(database=None)
    @given(n=st.integers().map(counted))
    def test(resilience: Resilience, n: int) -> None:
        clock.time += 0.1

    search = Search(UNLIMITED, clock=clock)
    assert search_of(test, search=search) is None
    assert 8 <= search.plays <= 11
    assert len(drawn) < 50


def test_the_users_number_of_examples_is_a_limit():
    search = Search(UNLIMITED, clock=FakeClock())

    @settings(max_examples=7, database=None)
    @given(n=st.integers())
    def test(resilience: Resilience, n: int) -> None:
        pass

    assert search_of(test, search=search) is None
    assert search.plays == 7


def test_explicit_examples_come_first_and_fail_with_their_own_error():
    played = []

    @settings(max_examples=5, database=None)
    @example(steps=["written", "down"])
    @given(steps=STEPS)
    def test(resilience: Resilience, steps: list[str]) -> None:
        played.append(steps)
        if "written" in steps:
            raise ValueError("explicit")

    finding = search_of(test)
    assert finding is not None
    assert finding.candidate.arguments == {"steps": ["written", "down"]}
    assert isinstance(finding.error, ValueError)
    assert str(finding) == "reproduced 10 of 10"
    assert all("written" in each for each in played)


def test_an_explicit_example_that_is_expected_to_fail_is_no_failure():
    @settings(max_examples=5, database=None)
    @example(steps=["written"]).xfail(raises=ValueError)
    @given(steps=STEPS)
    def test(resilience: Resilience, steps: list[str]) -> None:
        if "written" in steps:
            raise ValueError("explicit")

    assert search_of(test) is None


def test_assume_after_the_play_discards_the_example_and_is_remembered():
    random, passed = Random(1), []

    @settings(max_examples=20, database=None, suppress_health_check=list(HealthCheck))
    @given(steps=STEPS)
    def test(resilience: Resilience, steps: list[str]) -> None:
        assume(random.random() < 0.5)
        passed.append(steps)

    assert search_of(test) is None
    assert 10 < len(passed) <= 20


@pytest.mark.parametrize(
    "error", [SetupError("wrong"), CannotInject("here"), KeyboardInterrupt(), pytest.skip.Exception("skip")]
)
def test_errors_that_are_no_failures_end_the_test_at_the_first_play(error: BaseException):
    played = []

    @CAP
    @given(steps=STEPS)
    def test(resilience: Resilience, steps: list[str]) -> None:
        played.append(steps)
        raise error

    with pytest.raises(type(error)) as caught:
        search_of(test)
    assert caught.value is error
    assert len(played) == 1


def test_drawing_while_the_system_runs_is_refused():
    @CAP
    @given(data=st.data())
    def test(resilience: Resilience, data: Any) -> None:
        data.draw(STEPS)

    with pytest.raises(SetupError, match=r"st\.data\(\) draws while it runs"):
        search_of(test)


@pytest.mark.parametrize("seeds", [(1, 2), (None, None)], ids=["a seed of the run", "a seed of Hypothesis"])
def test_the_profile_of_hypothesis_for_ci_freezes_nothing(seeds: tuple[int | None, int | None]):
    try:
        settings.load_profile("ci")
    except InvalidArgument:
        pytest.skip("this release of Hypothesis has no profile for CI")
    try:

        @given(steps=STEPS)
        def test(resilience: Resilience, steps: list[str]) -> None:
            seen.append(steps)
            clock.time += 0.05

        drawn = []
        for seed in seeds:
            seen: list[list[str]] = []
            clock = FakeClock()
            assert search_of(test, seed=seed, search=Search(UNLIMITED, clock=clock)) is None
            drawn.append(seen)
        assert drawn[0] != drawn[1]
    finally:
        settings.load_profile("default")


def test_a_profile_of_the_users_that_inherits_from_the_one_for_ci_freezes_nothing_and_keeps_its_database():
    """Hypothesis loads its profile for CI first, so a profile that only names a database would fix the examples."""
    if not hasattr(settings.default, "_fallback"):
        pytest.skip("this release of Hypothesis does not show from which settings a value comes")
    database = InMemoryExampleDatabase()
    settings.load_profile("ci")
    try:
        settings.register_profile("fleet", database=database)
        settings.load_profile("fleet")

        @settings(max_examples=20)
        @given(steps=STEPS)
        def test(resilience: Resilience, steps: list[str]) -> None:
            seen.append(steps)
            assert len(steps) < limit

        drawn = []
        limit = 100
        for seed in (1, 2):
            seen: list[list[str]] = []
            assert search_of(test, seed=seed) is None
            drawn.append(seen)
        assert drawn[0] != drawn[1]
        limit = 3
        assert search_of(test, seed=1) is not None
        assert database.data
    finally:
        settings.load_profile("default")


def test_a_frozen_profile_of_the_users_that_inherits_nothing_from_the_one_for_ci_stays_frozen():
    settings.register_profile("frozen", parent=settings.get_profile("default"), derandomize=True, max_examples=20)
    settings.load_profile("frozen")
    try:

        @given(steps=STEPS)
        def test(resilience: Resilience, steps: list[str]) -> None:
            seen.append(steps)
            clock.time += 0.05

        drawn = []
        for seed in (1, 2):
            seen: list[list[str]] = []
            clock = FakeClock()
            assert search_of(test, seed=seed, search=Search(UNLIMITED, clock=clock)) is None
            drawn.append(seen)
        assert drawn[0] == drawn[1]
    finally:
        settings.load_profile("default")


def test_a_frozen_test_of_the_users_stays_frozen():
    def test_of() -> tuple[Any, list[list[str]]]:
        seen: list[list[str]] = []

        @settings(max_examples=20, derandomize=True)
        @given(steps=STEPS)
        def test(resilience: Resilience, steps: list[str]) -> None:
            seen.append(steps)

        return test, seen

    drawn = []
    for seed in (1, 2):
        test, seen = test_of()
        assert search_of(test, seed=seed) is None
        drawn.append(seen)
    assert drawn[0] == drawn[1]


def test_phases_of_the_users_are_kept():
    played = []

    @settings(phases=[Phase.explicit], database=None)
    @example(n=3)
    @given(n=st.integers())
    def test(resilience: Resilience, n: int) -> None:
        played.append(n)

    assert search_of(test) is None
    assert played == [3]


def test_notes_of_the_test_are_part_of_the_failure():
    @CAP
    @given(n=st.integers(0, 10))
    def test(resilience: Resilience, n: int) -> None:
        note(f"drawn was {n}")
        assert n < 5

    finding = search_of(test)
    assert finding is not None
    assert finding.error.__notes__ == ["drawn was 5"]


def test_arguments_that_never_look_equal_end_with_what_was_found_and_no_complaint_of_hypothesis():
    numbers, random = count(), Random(2)

    class Changing:
        def __init__(self, n: int) -> None:
            self.n = n

        def __repr__(self) -> str:
            return f"Changing {next(numbers)}"

    @CAP
    @given(thing=st.builds(Changing, st.integers(0, 100)))
    def test(resilience: Resilience, thing: Changing) -> None:
        if thing.n > 10 and random.random() < 0.6:
            raise ValueError("large")

    for seed in range(10):
        finding = search_of(test, seed=seed)
        assert finding is not None
        assert isinstance(finding.error, ValueError)
        assert finding.candidate.arguments["thing"].n > 10


def test_a_strategy_that_draws_otherwise_after_the_failure_does_not_hide_it():
    """Hypothesis complains of such a strategy with FlakyStrategyDefinition."""
    failed = []

    @st.composite
    def changing(draw: st.DrawFn) -> object:
        return draw(st.booleans() if failed else st.integers(0, 100))

    @CAP
    @given(thing=changing())
    def test(resilience: Resilience, thing: int) -> None:
        if thing > 10:
            failed.append(thing)
            raise ValueError("large")

    finding = search_of(test)
    assert finding is not None
    assert isinstance(finding.error, ValueError)
    assert finding.candidate.arguments["thing"] > 10
