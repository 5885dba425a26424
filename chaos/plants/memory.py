"""Plants in the memory guard."""

from __future__ import annotations

from plants.plant import plant

GUARD = "test_memory_pressure.py::test_the_guard_forces_a_collection_that_frees_memory_and_logs_true_figures"
REFUSES = (
    "test_memory_pressure.py::test_load_is_shed_near_the_memory_limit_and_logged_once_and_essential_routes_are_served"
)
NO_MEMORY = "test_memory_pressure.py::test_failed_allocations_are_503_and_the_process_survives"
GROUP = "test_memory_pressure.py::test_the_guard_obeys_the_memory_limit_of_its_cgroup"
GARBAGE = "test_memory_pressure.py::test_garbage_is_collected_every_gc_interval"

PLANTS = (
    plant(
        "guard-looks-at-the-heap",
        "92 % of the heap in use is critical.",
        (
            "monitor.py",
            "        usage = self._memory_reader.worst()\n        was_in_episode",
            '        stats = read_memory_stats()\n        usage = MemoryUsage(stats.heap_used or 0, stats.heap_total or 1, "heap")\n        was_in_episode',
        ),
        tests=GUARD,
        message="the guard acted before memory was short",
    ),
    plant(
        "guard-reads-its-limit-once",
        "Limits don't change.",
        ("memory/usage.py", "def _data_limit() -> int:", "@functools.cache\ndef _data_limit() -> int:"),
        ("memory/usage.py", "import errno\n", "import errno\nimport functools\n"),
        tests=GUARD,
        message="the guard has not forced a collection",
    ),
    plant(
        "guard-blind-to-control-groups",
        "There is one setting for the limit.",
        ("memory/usage.py", "        for cgroup in _cgroups():", "        for cgroup in ():"),
        tests=GROUP,
        message="the kernel killed the service",
    ),
    plant(
        "guard-too-late",
        "A look every minute will do.",
        ("settings.py", "    memory_check_interval: float = 1.0", "    memory_check_interval: float = 60.0"),
        tests=GUARD,
        message="the guard has not forced a collection",
    ),
    plant(
        "guard-without-trim",
        "gc.collect() frees the memory.",
        ("memory/malloc.py", "        _libc.malloc_trim(0)", "        pass"),
        tests=GUARD,
        message="memory is not freed",
    ),
    plant(
        "guard-drops-the-cache",
        "All of it, to be on the safe side.",
        ("cache/memory_cache.py", "self._shrink_to(self._max_entries, self.bytes // 2)", "self._shrink_to(0, 0)"),
        tests="test_memory_pressure.py::test_the_guard_forces_a_collection_that_frees_memory_and_logs_true_figures",
        message="which is all there is while Redis is down",
    ),
    plant(
        "guard-keeps-the-cache",
        "The cache is what keeps us fast.",
        ("monitor.py", "collect(evict=self._cache.evict_half)", "collect()"),
        tests=GUARD,
        message="memory is not freed",
    ),
    plant(
        "guard-invents-numbers",
        "About a third is freed.",
        ("memory/collector.py", "            before.rss - after.rss,\n", "            before.rss // 3,\n"),
        tests=GUARD,
        message="MB freed in total; RSS fell by",
    ),
    plant(
        "guard-small-megabytes",
        "A megabyte is a million bytes.",
        ("memory/malloc.py", "MIB = 1 << 20", "MIB = 1_000_000"),
        tests=GUARD,
        message="(2^20 bytes)",
    ),
    plant(
        "guard-logs-every-sample",
        "Every sample that is too high is worth a line.",
        ("memory/guard.py", "        if not self.in_episode:\n", "        if usage:\n"),
        tests=REFUSES,
        message="one line for one episode",
    ),
    plant(
        "guard-blocks",
        "Give the collector a moment.",
        (
            "monitor.py",
            "        freed = await self._collector.collect(evict",
            "        time.sleep(1.5)\n        freed = await self._collector.collect(evict",
        ),
        tests=GUARD,
        message="the guard delayed all requests",
    ),
    plant(
        "guard-always",
        "Better too often.",
        ("memory/guard.py", "COLLECT_ABOVE, CALM_BELOW = 0.90, 0.80", "COLLECT_ABOVE, CALM_BELOW = 0.005, 0.004"),
        tests=GUARD,
        message="the guard acted before memory was short",
    ),
    plant(
        "guard-never-refuses",
        "Customers are never turned away.",
        (
            "memory/guard.py",
            "        self.refusing = usage.needed_ratio >= REFUSE_FROM or",
            "        self.refusing = False and",
        ),
        tests=REFUSES,
        message="load is not shed",
    ),
    plant(
        "guard-refuses-health",
        "If it is short of memory it is not healthy.",
        (
            "http/load_shedding.py",
            'ESSENTIAL_PATHS = ("/health", ',
            "ESSENTIAL_PATHS = (",
        ),
        tests=REFUSES,
        message="/health is needed most when memory is short",
    ),
    plant(
        "out-of-memory-is-500",
        "MemoryError can't be handled.",
        ("shortages.py", '    if isinstance(error, MemoryError):\n        return "memory"\n', ""),
        tests=NO_MEMORY,
        message="a lack of memory is 503",
    ),
    plant(
        "out-of-memory-ends-it",
        "Let the supervisor start it again.",
        (
            "http/load_shedding.py",
            '            self._shortages.record(resource, "to answer a request")\n',
            "            import os\n\n            os._exit(137)\n",
        ),
        tests=NO_MEMORY,
        message="the process did not survive",
    ),
    plant(
        "statistics-of-arenas",
        "External is what malloc has.",
        ("memory/malloc.py", "    return int(info.uordblks + info.hblkhd)", "    return int(info.hblkhd)"),
        tests=GUARD,
        message="External grew by",
    ),
    plant(
        "garbage-never-collected",
        "Python collects garbage on its own.",
        ("monitor.py", "        if self._collector.is_worthwhile():\n", "        if False:\n"),
        tests=GARBAGE,
        message="no garbage is collected",
    ),
    plant(
        "memory-recovery-not-logged",
        "The statistics show that.",
        ("monitor.py", "        if was_in_episode and not self._guard.in_episode:", "        if False:"),
        tests=REFUSES,
        message="no line of the log reports that usage is back to normal",
    ),
    plant(
        "end-of-load-shedding-not-logged",
        "Operators will notice.",
        (
            "monitor.py",
            "        else:\n            memory_log.info(",
            "        elif share > 100:\n            memory_log.info(",
        ),
        tests=REFUSES,
        message="no line of the log reports that work is served again",
    ),
    plant(
        "load-shedding-reported-as-starting",
        "It has never been ready.",
        ("health.py", 'elif postgres == "down" and not refusing and not self._was_ready:', "elif not self._was_ready:"),
        tests="test_memory_pressure.py::test_readyz_names_memory_when_load_is_shed_from_the_start",
        message="load is shed for lack of memory, and /readyz reports",
    ),
    plant(
        "guard-calm-at-once",
        "One low value will do.",
        ("memory/guard.py", "CALM_SAMPLES = 3", "CALM_SAMPLES = 1"),
        tests=REFUSES,
        message="after its first calm check, and takes three",
    ),
    plant(
        "statistics-at-each-check",
        "The numbers are there anyway.",
        (
            "monitor.py",
            "partial(run_every, settings.memory_stats_interval, self.log_memory, clock)",
            "partial(run_every, settings.memory_check_interval, self.log_memory, clock)",
        ),
        tests=GARBAGE,
        message="MEMORY_STATS_INTERVAL is an hour",
    ),
    plant(
        "metrics-collections-not-counted",
        "The log has them.",
        ("memory/collector.py", "        self.totals.add(result)\n", ""),
        tests=GUARD,
        message="collections are in the log, and the metrics count 0",
    ),
    plant(
        "metrics-collections-freed-rss",
        "That is what the kernel got back.",
        ("memory/collector.py", "max(0, result.heap + result.external)", "max(0, result.rss)"),
        tests=GUARD,
        message="MB of heap and external memory, and the metrics report",
    ),
    plant(
        "metrics-collections-take-no-time",
        "They are short.",
        ("memory/collector.py", "        self.seconds += result.seconds\n", ""),
        tests=GUARD,
        message="the metrics report that collections blocked requests for 0.0 s",
    ),
    plant(
        "metrics-memory-in-mebibytes",
        "The log has MB, too.",
        ("metrics.py", "            yield (kind,), size\n", "            yield (kind,), size / 2**20\n"),
        tests=GUARD,
        message="MB, and the metrics report another one",
    ),
    plant(
        "metrics-limit-of-the-start",
        "Limits don't change.",
        (
            "metrics.py",
            "        _one(lambda s: s.memory_reader.worst().limit),\n",
            "        _one(lambda s, limits=[]: (limits.append(s.memory_reader.worst().limit), limits[0])[1]),\n",
        ),
        tests=GUARD,
        message="and the metrics report a limit of",
    ),
    plant(
        "metrics-used-share-of-the-heap",
        "The heap is what counts.",
        (
            "metrics.py",
            "_one(lambda s: s.memory_reader.worst().ratio)",
            "_one(lambda s: s.memory_stats().heap_used / s.memory_stats().heap_total)",
        ),
        tests=GUARD,
        message="% of the limit in use",
    ),
    plant(
        "metrics-cache-bytes-are-entries",
        "Both grow together.",
        ("metrics.py", "_one(lambda s: s.cache.memory.bytes)", "_one(lambda s: len(s.cache.memory))"),
        tests=GUARD,
        message="the memory cache has at least",
    ),
    plant(
        "metrics-memory-alert-while-refusing",
        "That is when memory is short.",
        (
            "metrics.py",
            "sources.guard.in_episode, sources.guard.episodes",
            "sources.guard.refusing, sources.guard.episodes",
        ),
        tests=REFUSES,
        message="the episode is not over, and the metrics report its alert as over",
    ),
    plant(
        "metrics-memory-alert-for-ever",
        "There was an episode.",
        (
            "metrics.py",
            "sources.guard.in_episode, sources.guard.episodes",
            "sources.guard.episodes > 0, sources.guard.episodes",
        ),
        tests=REFUSES,
        message="one episode is over, and the metrics report its alert as 1",
    ),
    plant(
        "metrics-refusing-for-ever",
        "It has been refusing.",
        ("metrics.py", "_one(lambda s: s.guard.refusing)", "_one(lambda s: s.guard.episodes > 0)"),
        tests=REFUSES,
        message="work is served again, and the metrics report that it is refused",
    ),
    plant(
        "no-memory-in-silence",
        "The guard logs it.",
        (
            "shortages.py",
            "        if resource not in self._failed_at:\n",
            '        if resource not in self._failed_at and resource != "memory":\n',
        ),
        tests=NO_MEMORY,
        message="requests found no memory, and the log has 0 lines",
    ),
    plant(
        "no-memory-line-per-request",
        "Each request that fails has a reason.",
        (
            "shortages.py",
            "        if resource not in self._failed_at:\n",
            '        if resource not in self._failed_at or resource == "memory":\n',
        ),
        tests=NO_MEMORY,
        message="not one for each episode",
    ),
)
