"""The in-memory cache: bounded, ordered by version, fresh or stale by the clock."""

from service.memory_cache import OVERHEAD, Entry, MemoryCache


class FakeClock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def cache(clock=None, **settings):
    defaults = {"max_entries": 100, "max_bytes": 1 << 20, "fresh_for": 60.0, "lifetime": 600.0}
    return MemoryCache(**{**defaults, **settings}, clock=clock or FakeClock())


def entry(version=1, size=10, created=5):
    return Entry((created, version), b"x" * size)


def test_the_least_recently_used_goes_first():
    held = cache(max_entries=2)
    held.put(1, entry())
    held.put(2, entry())
    held.get(1)
    held.put(3, entry())
    assert [held.get(k) is not None for k in (1, 2, 3)] == [True, False, True]


def test_bytes_are_bounded_and_counted():
    held = cache(max_bytes=3 * (OVERHEAD + 100))
    for key in range(10):
        held.put(key, entry(size=100))
    assert (len(held), held.bytes) == (3, 3 * (OVERHEAD + 100))
    held.put(9, entry(version=2, size=50))
    assert held.bytes == 3 * (OVERHEAD + 100) - 50
    held.put(11, entry(size=5000))
    assert held.get(11) is None
    for key in range(10):
        held.drop(key)
    assert (len(held), held.bytes) == (0, 0)


def test_an_older_version_never_replaces_a_newer_one():
    held = cache()
    held.put(1, entry(version=3))
    held.put(1, entry(version=2))
    assert held.get(1).stamp == (5, 3)
    held.put(1, entry(version=1, created=6))
    assert held.get(1).stamp == (6, 1), "a new row under an old number is newer"


def test_fresh_then_stale_then_gone():
    clock = FakeClock()
    held = cache(clock)
    held.put(1, entry())
    clock.now += 59
    assert held.fresh(1)
    clock.now += 1
    assert (held.fresh(1), held.get(1) is not None) == (None, True)
    clock.now += 540
    assert (held.get(1), len(held)) == (None, 0)


def test_an_entry_that_came_with_an_age_is_not_younger_than_it_is():
    clock = FakeClock()
    held = cache(clock)
    held.put(1, entry(), age=50)
    clock.now += 10
    assert held.fresh(1) is None
    held.put(1, entry(), age=30)
    assert held.fresh(1)
    held.put(1, entry(), age=100)
    assert held.fresh(1), "hearing the same again from an older source takes nothing away"


def test_a_doubted_entry_is_stale_at_once_but_kept():
    held = cache()
    held.put(1, entry())
    held.doubt(1)
    assert (held.fresh(1), held.get(1) is not None) == (None, True)


def test_halving_lets_go_of_half_the_bytes():
    held = cache()
    for key in range(10):
        held.put(key, entry(size=100))
    assert held.halve() == 5
    assert [held.get(k) is not None for k in range(10)] == [False] * 5 + [True] * 5


def test_purging_drops_what_outlived_its_lifetime():
    clock = FakeClock()
    held = cache(clock)
    held.put(1, entry())
    clock.now += 300
    held.put(2, entry())
    clock.now += 300
    held.purge()
    assert len(held) == 1
