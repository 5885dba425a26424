"""What Redis has missed: newest wins, doubts stay, and there is an end to it."""

from service.pending_writes import PendingWrites


def test_the_newest_write_to_a_key_is_owed():
    owed = PendingWrites(most=50)
    owed.add(1, (5, 2))
    assert owed.add(1, (5, 1)) == (5, 2)
    assert owed.add(1, (5, 3)) == (5, 3)
    assert owed.next(10) == [(1, (5, 3))]


def test_a_doubt_stays_until_it_is_settled():
    owed = PendingWrites(most=50)
    owed.add(1, (5, 2))
    assert owed.add(1, None) is None
    assert owed.add(1, (5, 3)) is None
    owed.settle([(1, None)])
    assert not owed
    assert owed.add(1, (5, 3)) == (5, 3)


def test_what_was_written_since_stays_owed():
    owed = PendingWrites(most=50)
    owed.add(1, (5, 1))
    batch = owed.next(1)
    owed.add(1, (5, 2))
    owed.settle(batch)
    assert 1 in owed
    owed.settle([(1, (5, 2)), (2, None)])
    assert 1 not in owed


def test_beyond_its_bounds_everything_is_in_doubt_until_it_begins_anew():
    owed = PendingWrites(most=2)
    for key in (1, 2, 1, 3):
        owed.add(key, (5, 1))
    assert owed.everything
    assert 99 in owed
    owed.begin_anew()
    assert not owed
    assert 1 not in owed
