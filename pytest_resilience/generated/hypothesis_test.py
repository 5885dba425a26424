"""The connection of a generated test with Hypothesis: its settings, its seed and the function that it runs.

Hypothesis documents the attribute `hypothesis.inner_test` of a test for runners that have to do something before and after each
example. It is the function that the user wrote, or what a plugin for async tests has put in its place.
"""

from __future__ import annotations

import functools
import hashlib
import unittest
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import example as hypothesis_example
from hypothesis._settings import is_in_ci
from hypothesis.control import current_build_context
from hypothesis.database import ExampleDatabase
from hypothesis.errors import Flaky
from hypothesis.reporting import with_reporter

from ..errors import SetupError
from ..history import History
from ..operation import ProbeMark
from ..schedule import Schedule
from .arguments import drawn_arguments, key_of, users_function
from .candidate import Candidate
from .failures import HISTORY, Ended, Falsified
from .search import TRIES, Finding, Search

MISSING = object()
MANY = 1_000_000  # examples; the budget of seconds ends the search
SETTINGS = "_hypothesis_internal_use_settings"  # of a test, as Hypothesis' own plugin for pytest sets it
SEED = "_hypothesis_internal_use_seed"
DIGEST = "_hypothesis_internal_add_digest"
EXAMPLES = "hypothesis_explicit_examples"
SUPPRESSED = (
    HealthCheck.function_scoped_fixture,  # each example begins clean
    HealthCheck.too_slow,
    HealthCheck.filter_too_much,
    HealthCheck.data_too_large,
    HealthCheck.differing_executors,  # the fixtures of parametrized items differ
)
KNOWN_PHASES = (Phase.explicit, Phase.reuse)
NEW_PHASES = (Phase.generate, Phase.target)


class Examples(Protocol):
    """The part of the fixture `resilience` that a generated test needs."""

    history: History

    def begin_example(self) -> None:
        """Begin with a clean state, an empty history and no strikes."""

    def end_example(self) -> None:
        """Heal all strikes and count their receipts."""


def suppress_health_checks(test: Any) -> None:
    """Suppress the health checks that do not apply to a generated test, before Hypothesis' plugin looks at them."""
    function = getattr(test, "__func__", test)
    before = getattr(function, SETTINGS)
    if not set(SUPPRESSED) <= set(before.suppress_health_check):
        suppressed = {*before.suppress_health_check, *SUPPRESSED}
        setattr(function, SETTINGS, settings(before, suppress_health_check=suppressed))


def seed_of(test: str, run_seed: int | None) -> int:
    """Return the seed of one test, so that two tests of a run draw different examples.

    Args:
        test: the node id.
        run_seed: the seed of the run; None for a test that draws equal examples in all runs.
    """
    return int.from_bytes(hashlib.sha256(f"{run_seed}:{test}".encode()).digest()[:8])


class GeneratedTest:
    """One run of a generated test.

    Args:
        test: the function with `@given` that pytest calls.
        nodeid: the node id of the item.
        run_seed: the seed of the run; None if the user has chosen another seed.
        resilience: the value of the fixture.
        search: the search.
        prepare: is called at the begin of each example.
        is_parametrized: True if other items share the function, which then have other examples in the database.

    Attributes:
        recovered_after: the longest time that the system took to recover in an episode, in seconds; 0 without one.
    """

    def __init__(
        self,
        test: Any,
        nodeid: str,
        run_seed: int | None,
        resilience: Examples,
        search: Search,
        *,
        is_parametrized: bool = False,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self._test = test
        self._function = getattr(test, "__func__", test)
        self._nodeid = nodeid
        self._run_seed = run_seed
        self._resilience = resilience
        self._search = search
        self._is_parametrized = is_parametrized
        self._prepare = prepare
        self._replayed: int | None = None
        self.recovered_after = 0.0
        self._schedule: str | None = None  # the name of an argument that is a schedule
        self._has_records = False  # of operations or strikes, which each play makes

    def replay(self, fixtures: Mapping[str, Any], arguments: Mapping[str, Any], plays: int) -> Finding | None:
        """Play given arguments some times and nothing else. Return what was found, or None.

        Args:
            fixtures: the arguments that pytest passes to the test.
            arguments: those that Hypothesis would draw.
            plays: how many times.
        """
        self._replayed = plays
        given: settings = getattr(self._function, SETTINGS)
        with self._wrapped(), _restored(self._function, SETTINGS), _restored(self._function, EXAMPLES):
            setattr(self._function, EXAMPLES, [])
            hypothesis_example(**arguments)(self._function)
            self._round(settings(given, phases=tuple(Phase)), (Phase.explicit,), fixtures, tries=1)
        return self._search.finding

    def run(self, fixtures: Mapping[str, Any]) -> Finding | None:
        """Search and return what was found, or None.

        Args:
            fixtures: the arguments that pytest passes to the test.

        Raises:
            SetupError: the test has passed and has never played the schedules that it draws.
        """
        __tracebackhide__ = True
        given: settings = getattr(self._function, SETTINGS)
        with self._wrapped(), _restored(self._function, SETTINGS), _restored(self._function, SEED):
            self._round(given, KNOWN_PHASES, fixtures, tries=TRIES)
            seeds = self._seeds(given)
            while self._search.finding is None and Phase.generate in given.phases and not self._search.is_over:
                if self._is_seeded:
                    seed(next(seeds))(self._function)
                suspects = len(self._search.suspects)
                self._round(given, NEW_PHASES, fixtures, tries=1)
                if len(self._search.suspects) == suspects:
                    break
        best = max(self._search.suspects, key=lambda each: each.reproduced, default=None)
        found = self._search.finding or best
        if found is None and self._schedule is not None and not self._has_records:
            name = self._schedule
            raise SetupError(
                f"the test draws {name} and never plays it, so no fault has struck: call resilience.play({name}, workload)"
            )
        return found

    @property
    def _is_seeded(self) -> bool:
        return self._run_seed is not None and getattr(self._function, SEED, None) is None

    def _seeds(self, given: settings) -> Iterator[int]:
        """Yield the seed of each run of Hypothesis."""
        frozen = given.derandomize and not is_frozen_by_ci(given)
        first = seed_of(self._nodeid, None if frozen else self._run_seed)
        number = 0
        while True:
            yield first + number
            number += 1

    def _round(self, given: settings, phases: tuple[Phase, ...], fixtures: Mapping[str, Any], *, tries: int) -> None:
        """Run Hypothesis once, with some of its phases."""
        wanted = [*(phase for phase in phases if phase in given.phases)]
        if not wanted:
            return
        self._search.begin_round(tries=tries)
        shrink = [Phase.shrink] if Phase.shrink in given.phases else []
        setattr(self._function, SETTINGS, budgeted(given, [*wanted, *shrink], self._search))
        played, ended = self._search.plays, None
        try:
            self._test(**fixtures)
        except Falsified:
            pass  # the search has the finding
        except Ended as error:
            ended = error.error
        except Flaky:
            if not self._search.recover():
                raise
        except unittest.SkipTest:
            if self._search.plays > played:
                raise  # else there was no example to reuse
        except Exception as error:
            if not self._search.claim(error):
                raise
        if ended is not None:
            raise ended

    @contextmanager
    def _wrapped(self) -> Iterator[None]:
        """Replace the function that Hypothesis runs. Parametrized items share it, so it is restored."""
        handle = self._test.hypothesis
        inner = handle.inner_test

        @functools.wraps(users_function(self._test))  # its source is a part of the key of the example database
        def example(*arguments: Any, **named: Any) -> None:
            drawn = drawn_arguments(self._test, named)
            key = key_of(drawn, getattr(current_build_context().data, "choices", None))
            self._schedule = next(
                (name for name, value in drawn.items() if isinstance(value, Schedule)), self._schedule
            )
            candidate = Candidate(
                key, drawn, functools.partial(self._play, functools.partial(inner, *arguments, **named))
            )
            if self._replayed is None:
                judge(self._search, candidate)
            elif error := self._search.replay(candidate, self._replayed):
                raise error

        if self._is_parametrized:
            setattr(example, DIGEST, self._nodeid.encode())
        handle.inner_test = example
        try:
            yield
        finally:
            handle.inner_test = inner

    def _play(self, inner: Callable[[], None]) -> None:
        notes: list[object] = []
        self._resilience.begin_example()
        try:
            self._prepare()
            with with_reporter(notes.append):
                inner()
        except BaseException as error:
            setattr(error, HISTORY, self._resilience.history)
            for each in notes:
                error.add_note(str(each))
            raise
        finally:
            self._resilience.end_example()
            self._has_records = self._has_records or bool(self._resilience.history.records)
            self.recovered_after = max(self.recovered_after, _recovered_after(self._resilience.history))


def judge(search: Search, candidate: Candidate) -> None:
    """Return if drawn arguments pass, within a test of Hypothesis.

    Args:
        search: the search.
        candidate: the drawn arguments.

    Raises:
        Falsified: they fail. For an explicit example, the failure itself is raised.
        Ended: the test has to end.
    """
    is_final = current_build_context().is_final  # in the run for its report, and for explicit examples
    if is_final and search.shrinking:
        search.final(candidate.key)
    if is_final:
        if error := search.explicit(candidate):
            raise error
    else:
        search.example(candidate)


def is_frozen_by_ci(given: settings) -> bool:
    """True if Hypothesis' own profile for CI has fixed the examples.

    A profile of the user's that only names a database inherits this from the profile for CI. Older releases of Hypothesis do not
    show from which settings a value comes.
    """
    if not hasattr(given, "_fallback"):
        return given.derandomize and is_in_ci()
    return given.derandomize and settings.get_profile("ci") in _layers(given)


def _layers(given: settings) -> list[settings]:
    """Return settings and all those that they inherit from, the nearest first."""
    found: list[settings] = []
    layer: settings | None = given
    while layer is not None:
        found.append(layer)
        layer = getattr(layer, "_fallback", None)
    return found


def _profile_name() -> str:
    """Return the name of Hypothesis' profile. Releases before 6.139 do not show it."""
    return str(getattr(settings, "get_current_profile_name", lambda: "default")())


def budgeted(given: settings, phases: list[Phase], search: Search) -> settings:
    """Return the settings of one run of Hypothesis.

    Args:
        given: the settings of the test. Its number of examples is a limit if it differs from that of the profile.
        phases: the phases to run.
        search: the search. Hypothesis ends the generation when its budget is spent.
    """
    chosen = given.max_examples != settings.get_profile(_profile_name()).max_examples
    limit = given.max_examples if chosen else MANY

    class Budgeted(settings):
        @property
        def max_examples(self) -> int:
            return 1 if search.is_over and not search.shrinking else limit

        @max_examples.setter
        def max_examples(self, value: int) -> None:
            """Ignore it. Hypothesis before 6.138 sets all attributes."""

    return Budgeted(
        given,
        max_examples=limit,
        derandomize=False,
        database=_database(given),
        phases=phases,
        report_multiple_bugs=False,
        deadline=None,
        print_blob=False,
    )


def _database(given: settings) -> ExampleDatabase | None:
    """Return the example database: the user's, and the default one if Hypothesis' profile for CI has removed it."""
    database: ExampleDatabase | None = given.database
    if database is None and is_frozen_by_ci(given) and not _chose_database(given):
        return settings.get_profile("default").database
    return database


def _chose_database(given: settings) -> bool:
    """True if a layer of settings above that of the profile has a database."""
    layers = _layers(given)
    above = layers[: layers.index(settings.get_profile("ci"))] if hasattr(given, "_fallback") else layers
    return any(getattr(layer, "_database", None) is None for layer in above)


@contextmanager
def _restored(function: Any, name: str) -> Iterator[None]:
    """Restore an attribute of a function at the end of the block."""
    before = function.__dict__.get(name, MISSING)
    try:
        yield
    finally:
        if before is not MISSING:
            setattr(function, name, before)
        else:
            function.__dict__.pop(name, None)


def _recovered_after(history: History) -> float:
    """Return the longest time from the last heal of an episode to the recovery of the system, in seconds."""
    found = [mark.answer for mark in history.marks if isinstance(mark, ProbeMark) and mark.name == "recovery"]
    return max((float(each["after"]) for each in found if each.get("recovered")), default=0.0)
