"""The writes that Redis has missed, and their bound."""

from service.cache.pending_writes import PendingWrites


def test_the_newest_write_to_a_key_is_pending():
    pending = PendingWrites(max_keys=50, max_taken=50)
    pending.add(1, (5, 2))
    assert pending.add(1, (5, 1)) == (5, 2)
    assert pending.add(1, (5, 3)) == (5, 3)
    assert pending.next_batch(10) == [(1, (5, 3))]


def test_an_uncertain_write_stays_until_it_is_acknowledged():
    pending = PendingWrites(max_keys=50, max_taken=50)
    pending.add(1, (5, 2))
    assert pending.add(1, None) is None
    assert pending.add(1, (5, 3)) is None
    pending.acknowledge([(1, None)])
    assert not pending
    assert pending.add(1, (5, 3)) == (5, 3)


def test_a_write_after_the_delivery_stays_pending():
    pending = PendingWrites(max_keys=50, max_taken=50)
    pending.add(1, (5, 1))
    batch = pending.next_batch(1)
    pending.add(1, (5, 2))
    pending.acknowledge(batch)
    assert 1 in pending
    pending.acknowledge([(1, (5, 2)), (2, None)])
    assert 1 not in pending


def test_beyond_its_bound_every_key_is_pending_until_the_reset():
    pending = PendingWrites(max_keys=2, max_taken=2)
    for key in (1, 2, 1, 3):
        pending.add(key, (5, 1))
    assert pending.overflowed
    assert 99 in pending
    pending.reset()
    assert not pending
    assert 1 not in pending


def test_a_write_that_redis_has_lost_is_pending_again():
    pending = PendingWrites(max_keys=50, max_taken=50)
    pending.add(1, (5, 2))
    assert not pending.add_lost(1, (5, 1)), "Redis does not have it yet"
    pending.acknowledge([(1, (5, 2))])
    assert not pending.add_lost(1, (5, 2))
    assert not pending.add_lost(1, (5, 3)), "another instance has written"
    assert not pending
    assert pending.add_lost(1, (5, 1))
    assert pending.next_batch(10) == [(1, (5, 2))]


def test_the_number_of_remembered_writes_is_bounded():
    pending = PendingWrites(max_keys=50, max_taken=2)
    for key in (1, 2, 1, 3):
        pending.add(key, (5, 2))
        pending.acknowledge([(key, (5, 2))])
    assert [key for key in (1, 2, 3) if pending.add_lost(key, (5, 1))] == [1, 3]
