"""The search of one generated test: from the first failure to the shortest arguments that still fail.

A real system does not fail every time, so one play decides nothing. The rules, with the measurements in docs/sequences.md:

- While searching, each drawn value is played once. After a failure it is played up to 8 times. Three failures in a row, or
  else two of eight, begin the shrinking. A single one is remembered as a suspect, and the search goes on.
- While shrinking, a candidate counts as failing by the same rule that the first one met. All accepted ones form the trail.
- At the end, the last of the trail is played 10 times. As long as too few of these fail, the one before it is played.
- A candidate that passes at once is not played again, which saves most of the time. Those that are shorter than the last of the
  trail get a second chance at the end, as long as the budget allows, with what has passed while searching.
- A verdict is remembered, so that equal arguments have equal verdicts for the rest of the search.
- What comes after a budget is spent passes without a play.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple, NoReturn, Protocol

from ..clock import SYSTEM, Clock
from ..profiles import Profile
from .candidate import CONFIRMATIONS, RARE, THREE_IN_A_ROW, TWO_OF_EIGHT, Candidate, Mode
from .failures import Ended, Falsified, Signature, ends_test, is_failure, is_rejection

TRIES = 8  # of arguments that have failed in an earlier run, before they pass


class Listener(Protocol):
    """An observer of a search."""

    def played(self, search: Search) -> None:
        """Note that a play has ended."""


class Effort(NamedTuple):
    """The searching until a failure.

    Args:
        schedules: the number of different arguments that were played, with those that failed.
        seconds: its duration, with the plays that confirmed the failure.
    """

    schedules: int
    seconds: float


class Finding:
    """Arguments that break a promise, as they are reported.

    Args:
        candidate: the arguments.
        mode: the rule by which they count as failing.
        reproduced: the number of plays that failed, of the last ones of these arguments.
        plays: the number of these plays.
        error: the failure of the last play that failed.
        accepted: the number of arguments that were accepted while shrinking.
        is_shortest: False if the budget was spent before no shorter arguments were left to try.
        found_after: the searching until the first failure; None for arguments that were given.
    """

    def __init__(
        self,
        candidate: Candidate,
        mode: Mode,
        *,
        reproduced: int,
        plays: int,
        error: BaseException,
        accepted: int = 0,
        is_shortest: bool = True,
        found_after: Effort | None = None,
    ) -> None:
        self.candidate = candidate
        self.mode = mode
        self.reproduced = reproduced
        self.plays = plays
        self.error = error
        self.accepted = accepted
        self.is_shortest = is_shortest
        self.found_after = found_after

    def __str__(self) -> str:
        return f"reproduced {self.reproduced} of {self.plays}"


class Search:
    """The search of one generated test.

    Args:
        profile: the budgets.
        clock: the clock of the budgets.
        known: the keys of arguments that have failed in an earlier run.
        listener: is called after each play; None for none.

    Attributes:
        examples: the number of different arguments that were played.
        plays: the number of plays.
        suspects: the findings that failed too seldom for shrinking.
        finding: the finding to report, or None.
        explicit_finding: that of the last explicit example that has failed, which may be expected to.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        clock: Clock = SYSTEM,
        known: Collection[str] = (),
        listener: Listener | None = None,
    ) -> None:
        self.profile = profile
        self.examples = 0
        self.plays = 0
        self.suspects: list[Finding] = []
        self.finding: Finding | None = None
        self.explicit_finding: Finding | None = None
        self._clock = clock
        self._known = known
        self._listener = listener
        self._verdicts: dict[str, BaseException | None] = {}
        self._tries = 1
        self._mode: Mode | None = None
        self._signature: Signature | None = None
        self._trail: list[Candidate] = []
        self._passed: list[Candidate] = []
        self._cut_short = False
        self._confirming = False
        self._found_after: Effort | None = None
        self._started = clock.now()
        self._deadline = self._started + profile.search

    @property
    def shrinking(self) -> bool:
        """True if a failure was found and shorter arguments are tried."""
        return self._mode is not None

    @property
    def seconds_left(self) -> float:
        """The seconds that are left of the present budget, of searching or of shrinking."""
        return max(0.0, self._deadline - self._clock.now())

    @property
    def is_over(self) -> bool:
        """True if the budget is spent."""
        return self.seconds_left == 0.0

    @property
    def stage(self) -> str:
        """The present stage in one word."""
        return "confirming" if self._confirming else "shrinking" if self.shrinking else "searching"

    def begin_round(self, *, tries: int = 1) -> None:
        """Begin another run of Hypothesis, for which the suspects so far pass.

        Args:
            tries: plays of each of the drawn arguments before they pass.
        """
        self._tries = tries
        if self._mode is RARE:
            self._verdicts[self._trail[0].key] = None
            self._mode, self._signature, self._trail = None, None, []

    def example(self, candidate: Candidate) -> None:
        """Return if the arguments pass, with a play of them if their verdict is not known yet.

        Raises:
            Falsified: they break a promise.
            Ended: the test has to end.
        """
        if candidate.key in self._verdicts:
            verdict = self._verdicts[candidate.key]
        else:
            verdict = self._judge(candidate)
        if verdict is not None:
            _raise_again(verdict)

    def explicit(self, candidate: Candidate) -> BaseException | None:
        """Return the failure of arguments that the user has written down, or None, and confirm it.

        Raises:
            Ended: the test has to end.
        """
        try:
            mode = self._weigh(candidate, TRIES if candidate.key in self._known else 1)
        except Rejected as rejected:
            return rejected.error
        if mode is None:
            return None
        self.explicit_finding = self._confirmed(candidate, mode)
        return self.explicit_finding.error

    def replay(self, candidate: Candidate, plays: int) -> BaseException | None:
        """Play arguments some times, and return the last failure, or None.

        Raises:
            Ended: the test has to end.
        """
        self.examples += 1
        while candidate.plays < plays:
            self._play(candidate)
        if not candidate.failures:
            return None
        count = len(candidate.failures)
        self.explicit_finding = Finding(candidate, RARE, reproduced=count, plays=plays, error=candidate.error())
        return self.explicit_finding.error

    def claim(self, error: BaseException) -> bool:
        """Make a failure of an explicit example the finding, if Hypothesis has reported it. False for another error."""
        if self.explicit_finding is None or error is not self.explicit_finding.error:
            return False
        self.finding = self.explicit_finding
        return True

    def final(self, key: str | None = None) -> NoReturn:
        """Confirm the shortest arguments, and report them to Hypothesis.

        Args:
            key: identifies the arguments to which Hypothesis has shrunk; None for the last ones of the trail.

        Raises:
            Falsified: always.
            Ended: the test has to end.
        """
        if self._mode is not RARE:
            self.finding = self._confirm_trail(self._last(key))
        _raise_again(FALSIFIED)

    def recover(self) -> bool:
        """Make the finding of a search that Hypothesis has given up. False if nothing was found."""
        if self.finding is None and self._mode not in (None, RARE):
            self.finding = self._confirm_trail(self._last(None))
        return self._mode is not None

    def _judge(self, candidate: Candidate) -> BaseException | None:
        if self._mode is not None:
            return self._judge_shorter(candidate, self._mode)
        if self.is_over:
            return None  # unknown, and not remembered
        try:
            mode = self._weigh(candidate, TRIES if candidate.key in self._known else self._tries)
        except Rejected as rejected:
            return self._remember(candidate, rejected.error)
        if mode is not None:
            self._begin_shrinking(candidate, mode)
        else:
            self._passed.append(candidate)
        return self._remember(candidate, FALSIFIED if mode is not None else None)

    def _remember(self, candidate: Candidate, verdict: BaseException | None) -> BaseException | None:
        self._verdicts[candidate.key] = verdict
        return verdict

    def _begin_shrinking(self, candidate: Candidate, mode: Mode) -> None:
        self._mode, self._trail, self._signature = mode, [candidate], candidate.signature
        effort = Effort(self.examples, self._clock.now() - self._started)
        if mode is RARE:
            self.suspects.append(_suspect(candidate, effort))
        else:
            self._found_after = effort
            self._deadline = self._clock.now() + self.profile.shrink
            self._cut_short = False

    def _judge_shorter(self, candidate: Candidate, mode: Mode) -> BaseException | None:
        if mode is RARE or self.is_over:
            self._cut_short = True
            return None
        try:
            fails = self._fails(candidate, mode, first_passes=0 if mode.in_a_row else mode.passes)
        except Rejected as rejected:
            return self._remember(candidate, rejected.error)
        (self._trail if fails else self._passed).append(candidate)
        return self._remember(candidate, FALSIFIED if fails else None)

    def _weigh(self, candidate: Candidate, tries: int) -> Mode | None:
        """Play until a rule for the candidate is found. None if `tries` plays pass."""
        self.examples += 1
        while not candidate.failures and candidate.plays < tries:
            self._play(candidate)
        if not candidate.failures:
            return None
        while candidate.count() == candidate.plays < THREE_IN_A_ROW.failures:
            self._play(candidate)
        if candidate.count() == candidate.plays:
            return THREE_IN_A_ROW
        while candidate.count() < TWO_OF_EIGHT.failures and candidate.plays < TRIES:
            self._play(candidate)
        return TWO_OF_EIGHT if candidate.count() >= TWO_OF_EIGHT.failures else RARE

    def _fails(self, candidate: Candidate, mode: Mode, *, first_passes: int | None = None) -> bool:
        """Play until the rule decides.

        Args:
            candidate: arguments that were not played yet.
            mode: the rule.
            first_passes: the passes that are allowed before the first failure, if not those of the rule.
        """
        self.examples += 1
        failures = 0
        while failures < mode.failures:
            passed = candidate.plays - candidate.count(self._signature)
            has_failed = candidate.count(self._signature) > 0
            allowed = mode.passes if has_failed or first_passes is None else first_passes
            if passed > allowed or self.is_over:
                return False
            before = candidate.count(self._signature)
            self._play(candidate)
            if candidate.count(self._signature) > before:
                failures += 1
            elif mode.in_a_row:
                failures = 0
        return True

    def _last(self, key: str | None) -> Candidate:
        """Return the shortest arguments that are accepted, those of `key` or shorter ones that have passed before."""
        last = next((each for each in self._trail if each.key == key), self._trail[-1])
        shorter = [each for each in self._passed if len(each.key) < len(last.key)]
        for earlier in sorted(shorter, key=lambda each: len(each.key)):
            candidate = Candidate(earlier.key, earlier.arguments, earlier.play)
            if self._mode is not None and not self.is_over and self._fails(candidate, self._mode):
                self._trail.append(candidate)
                return candidate
        return last

    def _confirm_trail(self, last: Candidate) -> Finding:
        """Return the shortest arguments that fail often enough, or else those that fail most often.

        Args:
            last: the shortest arguments of the trail. Its others follow by the length of their text.
        """
        others = sorted((each for each in self._trail if each is not last), key=lambda each: len(each.key))
        assert self._mode is not None, "a final run follows a failure"
        self._confirming = True
        deadline = self._deadline = self._clock.now() + self.profile.confirm
        best: Finding | None = None
        for candidate in [last, *others]:
            found = self._confirmed(candidate, self._mode, at_least=best.reproduced + 1 if best is not None else 0)
            best = found if best is None or found.reproduced > best.reproduced else best
            if best.reproduced >= self._mode.goal or self._clock.now() >= deadline:
                break
        assert best is not None, "the trail begins with the first failure"
        return best

    def _confirmed(self, candidate: Candidate, mode: Mode, at_least: int = 0) -> Finding:
        """Play 10 times, or until fewer than `at_least` failures are certain."""
        signature = self._signature or candidate.signature
        again = Candidate(candidate.key, candidate.arguments, candidate.play)
        while again.plays < CONFIRMATIONS:
            if again.count(signature) + CONFIRMATIONS - again.plays < at_least:
                break
            self._play(again)
        failing = again if again.count(signature) else candidate
        return Finding(
            candidate,
            mode,
            reproduced=again.count(signature),
            plays=again.plays,
            error=failing.error(signature),
            accepted=max(0, len(self._trail) - 1),
            is_shortest=not self._cut_short,
            found_after=self._found_after,
        )

    def _play(self, candidate: Candidate) -> None:
        try:
            error = outcome_of(candidate.play, is_first=not candidate.plays)
        finally:
            self.plays += 1
        candidate.add(error)
        if self._listener is not None:
            self._listener.played(self)


class Rejected(Exception):
    """The first play of the arguments has rejected them.

    Attributes:
        error: the error of Hypothesis.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


FALSIFIED = Falsified("a promise is broken")


def outcome_of(play: Callable[[], None], *, is_first: bool = False) -> BaseException | None:
    """Play once and return the failure, or None. A rejection after the first play is none.

    Raises:
        Rejected: the first play has rejected the arguments.
        Ended: an error that is no failure has to end the test.
    """
    try:
        play()
    except BaseException as error:  # Hypothesis, too, takes some of them for failures
        if is_failure(error):
            return error
        if is_rejection(error):
            if is_first:
                raise Rejected(error) from None
            return None
        if ends_test(error):
            raise Ended(error) from None
        raise
    return None


def _suspect(candidate: Candidate, effort: Effort) -> Finding:
    return Finding(
        candidate,
        RARE,
        reproduced=candidate.count(),
        plays=candidate.plays,
        error=candidate.error(),
        is_shortest=False,
        found_after=effort,
    )


def _raise_again(verdict: BaseException) -> NoReturn:
    """Raise a remembered verdict. Hypothesis identifies a bug by class, file, line and context, so this is the only line."""
    error = Falsified(*verdict.args) if isinstance(verdict, Falsified) else verdict
    try:
        raise error
    finally:
        error.__context__ = None
