"""Plants in the cache."""

from __future__ import annotations

from plants.plant import SLOW_REDIS, TWICE, plant

SOURCE = "test_cache.py::test_cache_headers_name_the_layer_that_really_answered"
STALE = "test_cache.py::test_stale_copies_are_marked_and_expire_after_cache_stale_ttl"
STALE_AT_ONCE = "test_cache.py::test_stale_copies_are_served_without_waiting_while_postgres_hangs"
ABSENT = "test_cache.py::test_errors_and_404s_are_not_cached"
ONE_LOAD = "test_cache.py::test_concurrent_misses_cause_a_single_load"
BOUNDS = "test_cache.py::test_the_memory_cache_stays_within_its_limits"
EXACT_TTL = "test_cache.py::test_a_copy_is_fresh_for_exactly_cache_ttl"

PLANTS = (
    plant(
        "cache-source-lies",
        "It goes into Redis anyway, so name Redis.",
        (
            "cache/cache.py",
            'return CacheResult(entry, "miss", "postgres")',
            'return CacheResult(entry, "hit", "redis")',
        ),
        tests=SOURCE,
        message="Redis is empty, so only Postgres can have answered",
    ),
    plant(
        "cache-source-lies-in-memory",
        "The cache in memory replaces Redis, so it can use its name.",
        ("cache/cache.py", 'return CacheResult(entry, "hit", "memory")', 'return CacheResult(entry, "hit", "redis")'),
        tests=f"{TWICE}[refusing]",
        message="while Redis is down, reads come from redis",
    ),
    plant(
        "cache-mixes-keys",
        "A few slots for flights will do.",
        (
            "cache/cache.py",
            "        flight = self._flights.get(key)\n",
            "        flight = self._flights.get(key % 8)\n",
        ),
        (
            "cache/cache.py",
            "            flight = self._flights[key] = asyncio",
            "            flight = self._flights[key % 8] = asyncio",
        ),
        (
            "cache/cache.py",
            "            if self._flights.get(key) is flight:\n                del self._flights[key]",
            "            if self._flights.get(key % 8) is flight:\n                del self._flights[key % 8]",
        ),
        tests=SLOW_REDIS,
        message="readers got another campaign than they requested",
    ),
    plant(
        "cache-each-reader-loads",
        "Postgres can stand it.",
        (
            "cache/cache.py",
            "        flight = self._flights.get(key)\n        if flight is None:",
            "        flight = None\n        if flight is None:",
        ),
        tests=ONE_LOAD,
        message="each reader loads it for itself",
    ),
    plant(
        "cache-unbounded-entries",
        "Bytes are bounded, that is enough.",
        (
            "cache/memory_cache.py",
            "        self._shrink_to(self._max_entries, self._max_bytes)",
            "        self._shrink_to(1 << 40, self._max_bytes)",
        ),
        tests=BOUNDS,
        message="CACHE_MAX_ENTRIES allows",
    ),
    plant(
        "cache-unbounded-bytes",
        "Entries are bounded, that is enough.",
        (
            "cache/memory_cache.py",
            "        self._shrink_to(self._max_entries, self._max_bytes)",
            "        self._shrink_to(self._max_entries, 1 << 40)",
        ),
        tests=BOUNDS,
        message="over CACHE_MAX_MB",
    ),
    plant(
        "cache-errors-cached",
        "No answer means no such campaign.",
        (
            "cache/cache.py",
            "            if stale is None:\n                raise\n",
            '            if stale is None:\n                return CacheResult(None, "miss", "postgres")\n',
        ),
        tests=ABSENT,
        message="without Postgres it is unknown whether a campaign exists",
    ),
    plant(
        "cache-absence-for-ever",
        "Spare Postgres the requests for missing campaigns.",
        (
            "cache/cache.py",
            "        if entry is None:\n            self.memory.drop(key)\n",
            "        if entry is None:\n            self._absent.add(key)\n            self.memory.drop(key)\n",
        ),
        (
            "cache/cache.py",
            "        self._flights: dict[int, Flight] = {}\n",
            "        self._flights: dict[int, Flight] = {}\n        self._absent: set[int] = set()\n",
        ),
        (
            "cache/cache.py",
            "        flight = self._flights.get(key)\n",
            '        if key in self._absent:\n            return CacheResult(None, "hit", "memory")\n        flight = self._flights.get(key)\n',
        ),
        tests=ABSENT,
        message="the 404 is cached",
    ),
    plant(
        "cache-ttl-ignored",
        "Campaigns hardly change.",
        ("cache/cache.py", "        self._fresh_for = settings.cache_ttl\n", "        self._fresh_for = lifetime\n"),
        ("cache/cache.py", "            fresh_for=settings.cache_ttl,\n", "            fresh_for=lifetime,\n"),
        tests=STALE,
        message="is served as fresh for longer than CACHE_TTL",
    ),
    plant(
        "cache-stale-unmarked",
        "It is a hit, isn't it?",
        ("cache/cache.py", 'CacheResult(entry, "stale", "memory")', 'CacheResult(entry, "hit", "memory")'),
        ("cache/cache.py", 'CacheResult(found.entry, "stale", "redis")', 'CacheResult(found.entry, "hit", "redis")'),
        tests=STALE,
        message="not marked as stale",
    ),
    plant(
        "cache-stale-after-the-wait",
        "Try Postgres first.",
        (
            "cache/cache.py",
            "        if not self._source_is_up():\n            stale = self._stale_copy(key, found)\n            if stale is not None:\n                return stale\n",
            "",
        ),
        tests=STALE_AT_ONCE,
        message="a stale copy is served only after",
    ),
    plant(
        "cache-memory-cold-after-redis",
        "Redis has it already, why keep it twice?",
        (
            "cache/cache.py",
            "            self.memory.put(key, found.entry, found.age)\n            if found",
            "            if found",
        ),
        tests="test_cache.py::test_campaigns_read_before_an_outage_of_redis_and_postgres_are_served_from_memory",
        message="just served from Redis, and memory has no copy",
    ),
    plant(
        "cache-memory-cold-after-postgres",
        "Memory is for outages.",
        (
            "cache/cache.py",
            "        self.memory.put(key, entry)\n        if self._redis_is_current(key):",
            "        if not self.redis.up:\n            self.memory.put(key, entry)\n        if self._redis_is_current(key):",
        ),
        tests="test_cache.py::test_campaigns_read_before_an_outage_of_redis_and_postgres_are_served_from_memory",
        message="just served from Postgres, and memory has no copy",
    ),
    plant(
        "cache-stale-for-ever",
        "Something old is better than nothing.",
        (
            "cache/memory_cache.py",
            "if self._clock() - cached.loaded_at >= self._lifetime:",
            "if self._clock() - cached.loaded_at >= 1000 * self._lifetime:",
        ),
        tests=STALE,
        message="for longer than CACHE_STALE_TTL",
    ),
    plant(
        "cache-stale-limits-fresh",
        "CACHE_STALE_TTL is how long it is kept.",
        (
            "cache/cache.py",
            "lifetime = max(settings.cache_ttl, settings.cache_stale_ttl)",
            "lifetime = settings.cache_stale_ttl",
        ),
        tests="test_cache.py::test_a_copy_is_kept_for_the_longer_of_its_two_lifetimes",
        message="CACHE_TTL is 60, and",
    ),
    plant(
        "metrics-stale-reads-are-hits",
        "They came from memory.",
        (
            "cache/cache.py",
            "self.reads[result.source, result.state] += 1",
            'self.reads[result.source, "miss" if result.source == "postgres" else "hit"] += 1',
        ),
        tests=STALE,
        message="of memory, and the metrics report",
    ),
    plant(
        "cache-fresh-for-a-little-longer",
        "A few seconds more spare Postgres a load.",
        (
            "cache/cache.py",
            "            if found.age < self._fresh_for:\n",
            "            if found.age < self._fresh_for + 5:\n",
        ),
        tests=EXACT_TTL,
        message="CACHE_TTL is 60, and a copy that is 61 s old is a ('hit', 'redis')",
    ),
    plant(
        "cache-fresh-for-a-little-less",
        "A copy should not expire on its way.",
        (
            "cache/cache.py",
            "            if found.age < self._fresh_for:\n",
            "            if found.age < self._fresh_for - 5:\n",
        ),
        tests=EXACT_TTL,
        message="CACHE_TTL is 60, and a copy that is 57 s old is a ('miss', 'postgres')",
    ),
)
