"""The drawn arguments of a test and what identifies them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience.generated.arguments import digest_of, drawn_arguments, drawn_parameters, key_of
from pytest_resilience.schedule import Episode, Schedule, Step

SCHEDULE = Schedule([Episode([Step("redis.refuse")])])


class Opaque:
    """An object with the repr of its address."""


def test_equal_arguments_have_one_key_and_others_another():
    assert key_of({"a": 1, "b": [2]}) == key_of({"b": [2], "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 2})
    assert key_of({"a": SCHEDULE}) == key_of({"a": Schedule.loads(SCHEDULE.dumps())})


def test_arguments_with_an_address_in_their_repr_are_identified_by_the_choices():
    assert key_of({"a": Opaque()}, (1, 2)) == key_of({"a": Opaque()}, (1, 2))
    one = Opaque()
    assert key_of({"a": one}, (1, 2)) != key_of({"a": one}, (1, 3))


def test_the_digest_of_a_single_schedule_is_that_of_its_text():
    assert digest_of({"a": SCHEDULE}) == digest_of({"b": SCHEDULE})
    assert digest_of({"a": SCHEDULE, "n": 1}) != digest_of({"a": SCHEDULE, "n": 2})


def test_the_drawn_arguments_are_those_that_are_no_fixtures():
    @given(b=st.integers(), d=st.integers())
    def test(a, b, c, d):
        pass

    class Some:
        @given(st.integers())
        def test(self, a, b):
            pass

    assert drawn_parameters(test) == ["b", "d"]
    assert drawn_arguments(test, {"a": 1, "b": 2, "c": 3, "d": 4}) == {"b": 2, "d": 4}
    assert drawn_parameters(Some().test) == ["b"]
