"""Plants that show only in another host environment."""

from __future__ import annotations

from plants.plant import plant

OUTER = "test_host_environment.py::test_the_guard_obeys_the_memory_limit_of_a_parent_cgroup"
FILES = "test_host_environment.py::test_the_page_cache_does_not_count_as_used_memory"
CLOCK = "test_host_environment.py::test_jumps_of_the_wall_clock_change_no_age_and_no_interval"
CROWD = "test_host_environment.py::test_a_crowd_of_readers_does_not_make_a_healthy_redis_count_as_down"
FROZEN = "test_host_environment.py::test_a_service_that_was_suspended_does_not_treat_redis_as_down"

PLANTS = (
    plant(
        "guard-sees-its-own-group-only",
        "/proc/self/cgroup names the cgroup.",
        ("memory/usage.py", "    for level in (group, *group.parents):", "    for level in (group,):"),
        tests=OUTER,
        message="the parent cgroup",
    ),
    plant(
        "guard-counts-files",
        "memory.current is what is used.",
        ("memory/usage.py", '                    used -= int(line.rpartition(" ")[2])', "                    pass"),
        tests=FILES,
        message="which can be freed",
    ),
    plant(
        "uptime-by-the-time-of-day",
        "Now minus then.",
        (
            "health.py",
            "        clock: Callable[[], float] = time.monotonic,\n    ) -> None:\n        self._lifecycle",
            "        clock: Callable[[], float] = time.time,\n    ) -> None:\n        self._lifecycle",
        ),
        tests=CLOCK,
        message="uptime grows by",
    ),
    plant(
        "cache-by-the-time-of-day",
        "An entry has an expiry date.",
        (
            "cache/memory_cache.py",
            "clock: Callable[[], float] = time.monotonic",
            "clock: Callable[[], float] = time.time",
        ),
        (
            "cache/cache.py",
            "            lifetime=lifetime,\n            clock=clock,\n",
            "            lifetime=lifetime,\n",
        ),
        tests=CLOCK,
        message="a copy in memory",
    ),
    plant(
        "cleanup-by-the-time-of-day",
        "Store when it was.",
        (
            "postgres/cleanup.py",
            "clock: Callable[[], float] = time.monotonic",
            "clock: Callable[[], float] = time.time",
        ),
        tests=CLOCK,
        message="a cleanup right after another one",
    ),
    plant(
        "checks-by-the-time-of-day",
        "Every full minute.",
        ("monitor.py", "        clock: Clock = time.monotonic,", "        clock: Clock = time.time,"),
        tests=CLOCK,
        message="periodic work stops",
    ),
    plant(
        "crowd-is-called-an-outage",
        "A timeout is a timeout.",
        (
            "cache/redis_store.py",
            "                available = limit - (self._clock() - started)\n",
            "                available = limit\n",
        ),
        tests=CROWD,
        message="it counts as down",
    ),
    plant(
        "standstill-is-called-an-outage",
        "It did not answer in time.",
        (
            "cache/redis_store.py",
            "        return _is_timeout(error) and self._clock() - started > limit + STALL_THRESHOLD",
            "        return False",
        ),
        tests=FROZEN,
        message="Redis counts as down",
    ),
)
