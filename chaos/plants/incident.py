"""Plants that put the incidents of docs/incident.md back, and the cleanup that was one of the fixes."""

from __future__ import annotations

from plants.plant import STARVED, TWICE, plant

GUARD = "test_memory_pressure.py::test_the_guard_forces_a_collection_that_frees_memory_and_logs_true_figures"
ZOMBIE = "test_cleanup.py::test_cleanup_terminates_zombie_sessions_of_an_earlier_boot_and_no_others"

PLANTS = (
    plant(
        "incident-pool-unwatched",
        "20 connections were always enough.",
        ("settings.py", "db_pool_max: int = 100", "db_pool_max: int = 20"),
        (
            "monitor.py",
            "            partial(run_every, settings.db_pool_check_interval, self.check_pool, clock),\n",
            "",
        ),
        (
            "monitor.py",
            "            partial(run_every, settings.db_pool_check_interval, self._cleanup.sweep, clock),\n",
            "",
        ),
        tests=STARVED,
        message="the pool is full, and no alert was raised",
    ),
    plant(
        "incident-heap-guard-gone",
        "Python collects its garbage.",
        (
            "monitor.py",
            "            partial(run_every, settings.memory_check_interval, self.check_memory, clock),\n",
            "",
        ),
        ("monitor.py", "            partial(run_every, settings.gc_interval, self.collect, clock),\n", ""),
        tests=GUARD,
        message="the guard has not forced a collection",
    ),
    plant(
        "incident-redis-fallback-gone",
        "Redis has never been down.",
        (
            "cache/cache.py",
            "        if not self._redis_is_current(key):\n            entry = self.memory.get_fresh(key)\n",
            "        if False:\n            entry = self.memory.get_fresh(key)\n",
        ),
        (
            "cache/cache.py",
            "        if not self._redis_is_current(key):\n            return None\n        try:\n",
            "        if not self.redis.up:\n            raise Unavailable('The cache is down.')\n        try:\n",
        ),
        (
            "cache/cache.py",
            "        except RedisUnavailable:\n            return None\n",
            "        except RedisUnavailable as error:\n            raise Unavailable('The cache is down.') from error\n",
        ),
        tests=(f"{TWICE}[refusing]", f"{TWICE}[hanging]"),
        message="reads failed while Redis was down",
    ),
    plant(
        "incident-cleanup-closes-nothing",
        "One curl, and it was a success.",
        (
            "postgres/cleanup.py",
            "        leaked = self._database.sweep_leaked()\n        idle_closed, terminated",
            "        return CleanupResult(0, 0, 0, 0.0)\n        leaked = self._database.sweep_leaked()\n        idle_closed, terminated",
        ),
        tests=ZOMBIE,
        message="the cleanup reports success, and 2 of 2 zombies are still there",
    ),
)
