"""The in-memory cache, with its bounds, versions and ages."""

from service.cache.memory_cache import OVERHEAD, Entry, MemoryCache


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


def test_the_least_recently_used_entry_is_evicted_first():
    memory = cache(max_entries=2)
    memory.put(1, entry())
    memory.put(2, entry())
    memory.get(1)
    memory.put(3, entry())
    assert [memory.get(k) is not None for k in (1, 2, 3)] == [True, False, True]


def test_bytes_are_bounded_and_counted():
    memory = cache(max_bytes=3 * (OVERHEAD + 100))
    for key in range(10):
        memory.put(key, entry(size=100))
    assert (len(memory), memory.bytes) == (3, 3 * (OVERHEAD + 100))
    memory.put(9, entry(version=2, size=50))
    assert memory.bytes == 3 * (OVERHEAD + 100) - 50
    memory.put(11, entry(size=5000))
    assert memory.get(11) is None
    for key in range(10):
        memory.drop(key)
    assert (len(memory), memory.bytes) == (0, 0)


def test_an_older_version_never_replaces_a_newer_one():
    memory = cache()
    memory.put(1, entry(version=3))
    memory.put(1, entry(version=2))
    assert memory.get(1).stamp == (5, 3)
    memory.put(1, entry(version=1, created=6))
    assert memory.get(1).stamp == (6, 1), "a new row under a reused number is newer"


def test_an_entry_is_fresh_then_stale_then_gone():
    clock = FakeClock()
    memory = cache(clock)
    memory.put(1, entry())
    clock.now += 59
    assert memory.get_fresh(1)
    clock.now += 1
    assert (memory.get_fresh(1), memory.get(1) is not None) == (None, True)
    clock.now += 540
    assert (memory.get(1), len(memory)) == (None, 0)


def test_an_entry_keeps_the_age_that_it_had_in_redis():
    clock = FakeClock()
    memory = cache(clock)
    memory.put(1, entry(), age=50)
    clock.now += 10
    assert memory.get_fresh(1) is None
    memory.put(1, entry(), age=30)
    assert memory.get_fresh(1)
    memory.put(1, entry(), age=100)
    assert memory.get_fresh(1), "an older copy of the same version does not make the entry older"


def test_an_uncertain_entry_is_stale_at_once_but_kept():
    memory = cache()
    memory.put(1, entry())
    memory.mark_uncertain(1)
    assert (memory.get_fresh(1), memory.get(1) is not None) == (None, True)


def test_evict_half_evicts_half_the_bytes():
    memory = cache()
    for key in range(10):
        memory.put(key, entry(size=100))
    assert memory.evict_half() == 5
    assert [memory.get(k) is not None for k in range(10)] == [False] * 5 + [True] * 5


def test_remove_expired_drops_entries_past_their_lifetime():
    clock = FakeClock()
    memory = cache(clock)
    memory.put(1, entry())
    clock.now += 300
    memory.put(2, entry())
    clock.now += 300
    memory.remove_expired()
    assert len(memory) == 1
