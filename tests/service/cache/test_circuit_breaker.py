"""The decisions of the circuit breaker, with literals."""

from service.cache.circuit_breaker import MAX_DELAY, TRIAL_SECONDS, CircuitBreaker


def up(now=0.0):
    breaker = CircuitBreaker(lambda: 1.0)
    breaker.record_recovery(now)
    return breaker


def test_an_outage_is_reported_once():
    breaker = up()
    epoch = breaker.epoch
    assert breaker.record_failure("refused", epoch)
    assert not breaker.up
    assert not breaker.record_failure("refused", epoch)
    assert not breaker.record_failure("still refused", breaker.epoch)
    assert breaker.reason == "still refused"


def test_an_outage_at_the_start_is_reported_once():
    breaker = CircuitBreaker(lambda: 0.0)
    assert [breaker.record_failure("refused", breaker.epoch) for _ in range(3)] == [True, False, False]


def test_a_failure_from_before_the_recovery_changes_nothing():
    breaker = up()
    before = breaker.epoch
    breaker.record_failure("refused", before)
    breaker.record_recovery(1.0)
    assert not breaker.record_failure("late", before)
    assert breaker.up


def test_the_delay_doubles_up_to_a_limit():
    breaker = up()
    breaker.record_failure("refused", breaker.epoch)
    delays = []
    for _ in range(5):
        delays.append(breaker.probe_delay())
        breaker.record_failure("refused", breaker.epoch)
    assert delays == [0.2, 0.4, MAX_DELAY, MAX_DELAY, MAX_DELAY]
    assert CircuitBreaker(lambda: 0.0).probe_delay() == 0.05


def test_only_a_dependency_that_failed_again_soon_gets_a_trial_period():
    breaker = up(now=0.0)
    breaker.record_failure("refused", breaker.epoch)
    assert breaker.trial_period(1.0) == 0.0
    breaker.record_recovery(1.0)
    breaker.record_failure("refused", breaker.epoch)
    assert breaker.trial_period(5.0) == TRIAL_SECONDS
    assert breaker.trial_period(20.0) == 0.0
