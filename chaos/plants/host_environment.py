"""Plants that show only where the service runs in other surroundings."""

from __future__ import annotations

from plants.plant import plant

OUTER = "test_host_environment.py::test_the_limit_of_a_group_around_its_group_counts_too"
FILES = "test_host_environment.py::test_files_that_the_kernel_keeps_in_memory_are_not_memory_in_use"
CLOCK = "test_host_environment.py::test_when_the_time_of_day_jumps_nothing_grows_old_or_young"
CROWD = "test_host_environment.py::test_a_redis_that_is_well_is_not_called_away_because_many_ask_at_once"
FROZEN = "test_host_environment.py::test_a_service_that_was_stopped_for_a_moment_does_not_call_redis_away"

PLANTS = (
    plant(
        "guard-sees-its-own-group-only",
        "/proc/self/cgroup says which group it is.",
        ("memory.py", "    for level in (group, *group.parents):", "    for level in (group,):"),
        tests=OUTER,
        says="the group around its own",
    ),
    plant(
        "guard-counts-files",
        "memory.current is what is used.",
        ("memory.py", '                    used -= int(line.rpartition(" ")[2])', "                    pass"),
        tests=FILES,
        says="which can be given up",
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
        says="uptime grows by",
    ),
    plant(
        "cache-by-the-time-of-day",
        "An entry has an expiry date.",
        ("memory_cache.py", "clock: Callable[[], float] = time.monotonic", "clock: Callable[[], float] = time.time"),
        ("cache.py", "            lifetime=lifetime,\n            clock=clock,\n", "            lifetime=lifetime,\n"),
        tests=CLOCK,
        says="a copy in memory",
    ),
    plant(
        "cleanup-by-the-time-of-day",
        "Store when it was.",
        ("cleanup.py", "clock: Callable[[], float] = time.monotonic", "clock: Callable[[], float] = time.time"),
        tests=CLOCK,
        says="a cleanup just after another one",
    ),
    plant(
        "checks-by-the-time-of-day",
        "Every full minute.",
        ("monitor.py", "        clock: Clock = time.monotonic,", "        clock: Clock = time.time,"),
        tests=CLOCK,
        says="what is done every so often is not done any more",
    ),
    plant(
        "crowd-is-called-an-outage",
        "A timeout is a timeout.",
        (
            "redis_store.py",
            "                had = limit - (self._clock() - started)\n",
            "                had = limit\n",
        ),
        tests=CROWD,
        says="it is called away",
    ),
    plant(
        "standstill-is-called-an-outage",
        "It did not answer in time.",
        (
            "redis_store.py",
            "        return _is_timeout(error) and self._clock() - started > limit + STALL",
            "        return False",
        ),
        tests=FROZEN,
        says="Redis was not",
    ),
)
