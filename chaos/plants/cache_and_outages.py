"""Plants in the cache that show only during an outage of Redis or Postgres."""

from __future__ import annotations

from plants.plant import plant

ONE_LOAD = "test_cache_and_outages.py::test_concurrent_misses_cause_a_single_load_while_redis_is_slow_hanging_or_down"
FAILED_LOAD = (
    "test_cache_and_outages.py::test_a_failed_shared_load_fails_all_its_waiters_and_is_retried_by_the_next_read"
)
COLLECTED = "test_cache_and_outages.py::test_garbage_collection_keeps_stale_copies_while_postgres_is_down"
ROOM = "test_cache_and_outages.py::test_replaced_and_deleted_entries_free_their_room_and_the_least_recently_read_are_evicted"
ABSENT = "test_cache_and_outages.py::test_a_campaign_created_after_a_404_is_served_by_the_next_read"
GONE = "test_cache_and_outages.py::test_a_campaign_known_to_be_deleted_is_not_served_as_stale"
AGE = "test_cache_and_outages.py::test_a_copy_keeps_its_age_when_it_moves_from_redis_to_memory"
PAST = "test_cache_and_outages.py::test_a_load_in_flight_during_a_write_is_neither_joined_nor_cached"
SAME = "test_cache_and_outages.py::test_every_cache_layer_returns_the_same_body_and_etag"

REMEMBERED_ABSENCE = (
    (
        "cache/cache.py",
        "        flight = self._flights.get(key)\n        if flight is None:",
        '        if self._absent.get(key, 0.0) > time.monotonic():\n            return CacheResult(None, "hit", "memory")\n        flight = self._flights.get(key)\n        if flight is None:',
    ),
    (
        "cache/cache.py",
        "        if entry is None:\n            self.memory.drop(key)\n",
        "        if entry is None:\n            self._absent[key] = time.monotonic() + 1.0\n            self.memory.drop(key)\n",
    ),
    (
        "cache/cache.py",
        "        self._flights: dict[int, Flight] = {}\n",
        "        self._flights: dict[int, Flight] = {}\n        self._absent: dict[int, float] = {}\n",
    ),
)
"""A 404 is remembered for a second."""

PLANTS = (
    plant(
        "one-load-only-with-redis",
        "Without Redis there is nothing to fill.",
        (
            "cache/cache.py",
            "        flight = self._flights.get(key)\n        if flight is None:",
            "        flight = self._flights.get(key) if self.redis.up else None\n        if flight is None:",
        ),
        tests=ONE_LOAD,
        message="each reader loads it",
    ),
    plant(
        "failed-load-stays",
        "A load that failed once fails again.",
        (
            "cache/cache.py",
            "            if self._flights.get(key) is flight:\n                del self._flights[key]",
            "            if self._flights.get(key) is flight and not flight.exception():\n                del self._flights[key]",
        ),
        tests=FAILED_LOAD,
        message="never retried",
    ),
    plant(
        "purge-takes-what-is-stale",
        "Old is old.",
        (
            "cache/memory_cache.py",
            "        oldest = self._clock() - self._lifetime\n",
            "        oldest = self._clock() - self._fresh_for\n",
        ),
        tests=COLLECTED,
        message="it was collected too early",
    ),
    plant(
        "purge-takes-half",
        "Free some memory while it is quiet.",
        ("monitor.py", "        self._cache.memory.remove_expired()\n", "        self._cache.memory.evict_half()\n"),
        tests=COLLECTED,
        message="it was collected too early",
    ),
    plant(
        "replaced-entries-count",
        "The new one takes its place.",
        (
            "cache/memory_cache.py",
            "                loaded_at = max(loaded_at, old.loaded_at)\n            self.drop(key)\n",
            "                loaded_at = max(loaded_at, old.loaded_at)\n            del self._entries[key]\n",
        ),
        tests=ROOM,
        message="replaced entries still count",
    ),
    plant(
        "deleted-entries-count",
        "It is out of the dict.",
        (
            "cache/cache.py",
            "        self._flights.pop(key, None)\n        self.memory.drop(key)\n        await",
            "        self._flights.pop(key, None)\n        self.memory._entries.pop(key, None)\n        await",
        ),
        tests=ROOM,
        message="deleted entries still count",
    ),
    plant(
        "memory-first-in-first-out",
        "First in, first out is simpler.",
        ("cache/memory_cache.py", "        self._entries.move_to_end(key)\n", ""),
        tests=ROOM,
        message="were evicted for others",
    ),
    plant(
        "absence-for-a-second",
        "A 404 for a second does no harm.",
        *REMEMBERED_ABSENCE,
        tests=ABSENT,
        message="and the next read gets 404",
    ),
    plant(
        "absence-until-we-write",
        "The service knows of changes: it makes them.",
        *REMEMBERED_ABSENCE,
        (
            "cache/cache.py",
            "        self.memory.put(key, entry)\n        await self._write_through",
            "        self._absent.pop(key, None)\n        self.memory.put(key, entry)\n        await self._write_through",
        ),
        tests=ABSENT,
        message="and the next read gets 404",
    ),
    plant(
        "deleted-for-ever",
        "An id is never used again.",
        (
            "cache/cache.py",
            "        await self._write_through(key, (created, DELETED_VERSION))",
            "        await self._write_through(key, (1 << 60, DELETED_VERSION))",
        ),
        tests=ABSENT,
        message="never cached",
    ),
    plant(
        "gone-stays-in-memory",
        "It will expire.",
        (
            "cache/cache.py",
            "        if entry is None:\n            self.memory.drop(key)\n",
            "        if entry is None:\n",
        ),
        tests=GONE,
        message="its copy in memory is served",
    ),
    plant(
        "gone-stays-in-redis",
        "It will expire there, too.",
        (
            "cache/cache.py",
            "            if found is not None:\n                self._pending.add(key, None)  # deleted in Postgres, still in Redis\n",
            "",
        ),
        tests=GONE,
        message="Redis",
    ),
    plant(
        "age-lost-on-the-way",
        "It has just come.",
        ("cache/cache.py", "self.memory.put(key, found.entry, found.age)", "self.memory.put(key, found.entry)"),
        tests=AGE,
        message="is fresh in memory",
    ),
    plant(
        "old-copy-is-a-hit",
        "With Postgres away it is the best there is.",
        (
            "cache/cache.py",
            '            if found.age < self._fresh_for:\n                return CacheResult(found.entry, "hit", "redis")',
            '            if found.age < self._fresh_for or not self._source_is_up():\n                return CacheResult(found.entry, "hit", "redis")',
        ),
        tests=AGE,
        message="is served as hit",
    ),
    plant(
        "change-leaves-a-load-behind",
        "They will get the next one.",
        (
            "cache/cache.py",
            "        self._flights.pop(key, None)\n        self.memory.put(key, entry)",
            "        self.memory.put(key, entry)",
        ),
        tests=PAST,
        message="joined a load",
    ),
    plant(
        "delete-leaves-a-load-behind",
        "The load will find nothing.",
        (
            "cache/cache.py",
            "        self._flights.pop(key, None)\n        self.memory.drop(key)",
            "        self.memory.drop(key)",
        ),
        tests=PAST,
        message="joined a load",
    ),
    plant(
        "late-load-is-cached",
        "It was loaded, so keep it.",
        (
            "cache/cache.py",
            "        if self._flights.get(key) is flight:\n            await self._fill",
            "        if True:\n            await self._fill",
        ),
        tests=PAST,
        message="its result was cached",
    ),
    plant(
        "etag-weak-when-stale",
        "A stale copy has a weak tag.",
        (
            "http/routes.py",
            'headers = {**(headers or {}), "ETag": f\'"{entry.stamp[1]}"\'}',
            'headers = {**(headers or {}), "ETag": f\'"{entry.stamp[1]}"\'}\n    if headers.get("X-Cache") == "stale":\n        headers["ETag"] = "W/" + headers["ETag"]',
        ),
        tests=SAME,
        message="returns",
    ),
    plant(
        "first-read-in-an-outage-fails",
        "The next read will be quicker.",
        (
            "cache/cache.py",
            '        elif not self._redis_is_current(key):\n            entry = self.memory.get_fresh(key)\n            if entry is not None:\n                return CacheResult(entry, "hit", "memory")\n',
            "",
        ),
        tests=SAME,
        message="should serve, not",
    ),
    plant(
        "doubt-leaves-a-load-behind",
        "The load has nothing to do with it.",
        (
            "cache/cache.py",
            "        self._flights.pop(key, None)\n        self.memory.mark_uncertain(key)",
            "        self.memory.mark_uncertain(key)",
        ),
        tests="test_cache_and_outages.py::test_a_load_in_flight_during_a_refused_write_is_not_cached",
        message="and its old result is served from memory",
    ),
)
