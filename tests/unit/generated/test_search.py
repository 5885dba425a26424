"""The rules by which a search takes a value for failing, with plays that are scripted. No Hypothesis, no time."""

from __future__ import annotations

import pytest

from pytest_resilience.errors import PromiseBroken, SetupError
from pytest_resilience.generated.candidate import RARE, THREE_IN_A_ROW, TWO_OF_EIGHT, Candidate
from pytest_resilience.generated.failures import Ended, Falsified
from pytest_resilience.generated.search import TRIES, Search
from pytest_resilience.operation import Verdict
from pytest_resilience.profiles import PROFILES, Profile
from tests.support.clocks import FakeClock

LONG = Profile("long", search=100.0, shrink=100.0, confirm=100.0, clients=3)


class Scripted:
    """A candidate whose plays fail as a text says: "x" fails, "y" fails otherwise, "." passes. The last letter repeats."""

    def __init__(self, key: str, script: str, clock: FakeClock | None = None) -> None:
        self.left = list(script)
        self.clock = clock
        self.played = 0
        self.candidate = Candidate(key, {"key": key}, self.play)

    def play(self) -> None:
        self.played += 1
        if self.clock is not None:
            self.clock.time += 1
        letter = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        if letter != ".":
            raise PromiseBroken([Verdict(letter, "violated", "a promise")], None)


def fails(search: Search, scripted: Scripted) -> bool:
    try:
        search.example(scripted.candidate)
    except Falsified:
        return True
    return False


def finish(search: Search) -> None:
    with pytest.raises(Falsified):
        search.final()


def test_a_value_that_passes_is_played_once_and_its_verdict_remembered():
    search, value = Search(LONG), Scripted("a", ".x")
    assert not fails(search, value)
    assert not fails(search, value)
    assert value.played == 1


@pytest.mark.parametrize(
    ("script", "plays", "mode"),
    [
        ("x", 3, THREE_IN_A_ROW),
        ("xx.x", 3, TWO_OF_EIGHT),
        ("x.x.", 3, TWO_OF_EIGHT),
        ("x......x", 8, TWO_OF_EIGHT),
        ("x.", 8, RARE),
        ("yx.x.", 4, TWO_OF_EIGHT),
        ("xy.", 8, RARE),
    ],
)
def test_the_first_failure_is_played_again_until_a_rule_is_found(script: str, plays: int, mode: object):
    search, value = Search(LONG), Scripted("a", script)
    assert fails(search, value)
    assert fails(search, value), "the verdict is remembered"
    assert value.played == plays
    finish(search)
    finding = search.finding or search.suspects[0]
    assert finding.mode == mode


def test_shrinking_accepts_what_fails_three_times_in_a_row_with_the_first_signature():
    search = Search(LONG)
    assert fails(search, Scripted("first", "x"))
    passing, other, seldom, shorter = (Scripted(name, name) for name in (".", "y", "xx.xx.", "x"))
    assert [fails(search, each) for each in (passing, other, seldom, shorter)] == [False, False, False, True]
    assert [each.played for each in (passing, other, seldom, shorter)] == [1, 1, 6, 3]
    finish(search)
    assert search.finding.candidate is shorter.candidate
    assert str(search.finding) == "reproduced 10 of 10"
    assert search.finding.is_shortest


def test_the_finding_has_the_searching_until_the_first_failure():
    clock = FakeClock()
    search = Search(LONG, clock=clock)
    for name, script in [("a", "."), ("b", "."), ("rare", "x."), ("c", ".")]:
        fails(search, Scripted(name, script, clock))
    search.begin_round()
    for name, script in [("d", "."), ("first", "x"), ("shorter", "x")]:
        fails(search, Scripted(name, script, clock))
    finish(search)
    assert search.suspects[0].found_after == (3, 2 + 8)
    assert search.finding.found_after == (5, 2 + 8 + 1 + 3)


def test_arguments_that_were_given_were_not_found_by_searching():
    search = Search(LONG)
    search.explicit(Scripted("given", "x").candidate)
    assert search.explicit_finding.found_after is None


def test_shrinking_accepts_two_of_eight_if_the_first_failure_was_no_better():
    search = Search(LONG)
    assert fails(search, Scripted("first", "x.x."))
    assert fails(search, Scripted("shorter", "......xx.x."))
    assert not fails(search, Scripted("too seldom", ".......x"))
    finish(search)
    assert search.finding.candidate.key == "shorter"


def test_a_single_pass_after_a_failure_is_forgiven():
    search = Search(LONG)
    assert fails(search, Scripted("first", "x"))
    assert fails(search, Scripted("shorter", "xx.x"))


def test_a_shorter_candidate_that_has_passed_by_luck_gets_a_second_chance_at_the_end():
    search = Search(LONG)
    drawn, longer = Scripted("a", ".x"), Scripted("longer than the last one", ".x")
    assert not fails(search, drawn)
    assert fails(search, Scripted("the first", "x"))
    assert not fails(search, longer)
    assert not fails(search, Scripted("no", "."))
    assert fails(search, Scripted("last", "x"))
    finish(search)
    assert search.finding.candidate.key == "a"
    assert longer.played == 1


def test_the_trail_is_walked_back_to_what_fails_eight_times_of_ten():
    search = Search(LONG)
    for name, script in [("long", "x"), ("mid", "xxx" + "xxxxxxxx.."), ("s", "xxx" + "xxxxxxx...")]:
        assert fails(search, Scripted(name, script))
    finish(search)
    assert search.finding.candidate.key == "mid"
    assert str(search.finding) == "reproduced 8 of 10"
    assert search.finding.accepted == 2


def test_if_nothing_on_the_trail_fails_often_enough_the_most_frequent_one_is_reported():
    search = Search(LONG)
    for name, script in [("long", "xxx....."), ("middle", "xxx" + "xxxxxx...."), ("short", "xxx" + "xxx.......")]:
        assert fails(search, Scripted(name, script))
    finish(search)
    assert (search.finding.candidate.key, str(search.finding)) == ("middle", "reproduced 6 of 10")


def test_a_failure_that_never_comes_again_is_a_suspect_and_the_search_goes_on():
    search = Search(LONG)
    rare = Scripted("rare", "x.")
    assert fails(search, rare)
    assert not fails(search, Scripted("not played", "x")), "there is no shrinking by one failure"
    finish(search)
    assert search.finding is None
    assert [str(each) for each in search.suspects] == ["reproduced 1 of 8"]
    search.begin_round()
    assert not fails(search, rare), "it has been reported to Hypothesis, and passes from now on"
    assert fails(search, Scripted("better", "x"))


def test_after_the_budget_of_the_search_nothing_is_played():
    clock = FakeClock()
    search, late = Search(LONG, clock=clock), Scripted("late", "x")
    clock.time += 100
    assert search.is_over
    assert not fails(search, late)
    assert late.played == 0


def test_after_the_budget_of_shrinking_the_best_so_far_is_reported_as_such():
    clock = FakeClock()
    search = Search(LONG._replace(search=10, shrink=5), clock=clock)
    assert fails(search, Scripted("first", "x", clock))
    assert fails(search, Scripted("shorter", "x", clock))
    assert not fails(search, Scripted("interrupted", "x", clock))
    late = Scripted("shortest", "x", clock)
    assert not fails(search, late)
    assert late.played == 0
    finish(search)
    assert search.finding.candidate.key == "shorter"
    assert not search.finding.is_shortest


def test_the_confirmation_has_a_budget_of_its_own():
    clock = FakeClock()
    search = Search(LONG._replace(confirm=5), clock=clock)
    long, short = Scripted("long", "x", clock), Scripted("short", "xxx.", clock)
    assert fails(search, long)
    assert fails(search, short)
    finish(search)
    assert (search.finding.candidate.key, str(search.finding)) == ("short", "reproduced 0 of 10")
    assert search.finding.error is not None


def test_what_failed_in_an_earlier_run_gets_eight_plays_before_it_passes():
    search = Search(LONG, known={"replay"})
    replay, drawn, reused = Scripted("replay", ".......xx"), Scripted("drawn", ".x"), Scripted("reused", ".")
    assert fails(search, replay)
    search = Search(LONG)
    assert not fails(search, drawn)
    search.begin_round(tries=TRIES)
    assert not fails(search, reused)
    assert reused.played == 8


@pytest.mark.parametrize("error", [SetupError("wrong"), KeyboardInterrupt()])
def test_an_error_that_is_no_failure_ends_the_test_at_once(error: BaseException):
    def play() -> None:
        raise error

    with pytest.raises(type(error) if isinstance(error, KeyboardInterrupt) else Ended) as caught:
        Search(LONG).example(Candidate("a", {}, play))
    if isinstance(caught.value, Ended):
        assert caught.value.error is error


def test_the_verdicts_of_a_search_are_raised_from_one_line_without_a_context():
    """Hypothesis takes failures of another class, line or context for other bugs."""
    search = Search(LONG)
    places = set()
    for name in "ab":
        try:
            raise KeyError
        except KeyError:
            with pytest.raises(Falsified) as caught:
                search.example(Scripted(name, "x").candidate)
        assert caught.value.__context__ is None
        places.add(caught.traceback[-1].lineno)
    assert len(places) == 1


def test_every_profile_leaves_hypothesis_time_to_end_its_shrinking():
    """Hypothesis stops after 300 s with a request to report the strategy."""
    assert all(profile.shrink < 300 for profile in PROFILES.values())
