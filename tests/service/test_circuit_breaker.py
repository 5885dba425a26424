"""The breaker: literals in, decisions out."""

from service.circuit_breaker import LONGEST_DELAY, TRIAL, CircuitBreaker


def up(now=0.0):
    breaker = CircuitBreaker(lambda: 1.0)
    breaker.recover(now)
    return breaker


def test_an_outage_is_told_once():
    breaker = up()
    epoch = breaker.epoch
    assert breaker.fail("refused", epoch)
    assert not breaker.up
    assert not breaker.fail("refused", epoch)
    assert not breaker.fail("still refused", breaker.epoch)
    assert breaker.reason == "still refused"


def test_an_outage_at_the_start_is_told_once():
    breaker = CircuitBreaker(lambda: 0.0)
    assert [breaker.fail("refused", breaker.epoch) for _ in range(3)] == [True, False, False]


def test_a_failure_from_before_the_recovery_changes_nothing():
    breaker = up()
    before = breaker.epoch
    breaker.fail("refused", before)
    breaker.recover(1.0)
    assert not breaker.fail("late", before)
    assert breaker.up


def test_the_delay_doubles_up_to_a_limit():
    breaker = up()
    breaker.fail("refused", breaker.epoch)
    delays = []
    for _ in range(5):
        delays.append(breaker.delay())
        breaker.fail("refused", breaker.epoch)
    assert delays == [0.2, 0.4, LONGEST_DELAY, LONGEST_DELAY, LONGEST_DELAY]
    assert CircuitBreaker(lambda: 0.0).delay() == 0.05


def test_only_what_fell_again_soon_is_put_on_trial():
    breaker = up(now=0.0)
    breaker.fail("refused", breaker.epoch)
    assert breaker.trial(1.0) == 0.0
    breaker.recover(1.0)
    breaker.fail("refused", breaker.epoch)
    assert breaker.trial(5.0) == TRIAL
    assert breaker.trial(20.0) == 0.0
