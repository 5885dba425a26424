"""Plants in the cleanup."""

from __future__ import annotations

from plants.plant import plant

ZOMBIE = "test_cleanup.py::test_cleanup_terminates_zombie_sessions_of_an_earlier_boot_and_no_others"
ORPHAN = "test_cleanup.py::test_cleanup_terminates_statements_left_by_dead_processes"
LIVING = "test_cleanup.py::test_cleanup_spares_young_transactions_and_those_of_live_instances"
LOST = "test_cleanup.py::test_cleanup_terminates_own_sessions_that_the_pool_has_lost"
STUCK = "test_cleanup.py::test_cleanup_does_not_count_a_session_that_survives_its_termination"
DEAD = "test_cleanup.py::test_cleanup_closes_dead_connections_without_the_server"
NOTHING = "test_cleanup.py::test_cleanup_is_a_503_when_it_can_do_nothing"
ONE_CLEANUP = "test_cleanup.py::test_concurrent_cleanup_requests_share_one_run_and_the_next_is_rate_limited"
SWEPT = "test_cleanup.py::test_every_pool_check_sweeps_zombies"
RIGHTS = "test_cleanup.py::test_unauthorized_cleanup_has_no_effect_and_an_authorized_one_collects_garbage"
LIMITS = "test_cleanup.py::test_cleanup_terminates_sessions_of_other_boots_only_beyond_each_limit"
NAMED = "test_cleanup.py::test_the_name_in_host_is_a_host_of_this_machine"

PLANTS = (
    plant(
        "cleanup-does-nothing",
        "asyncpg looks after its connections.",
        (
            "postgres/cleanup.py",
            "        leaked = self._database.sweep_leaked()\n        idle_closed, terminated",
            "        return CleanupResult(0, 0, 0, 0.0)\n        leaked = self._database.sweep_leaked()\n        idle_closed, terminated",
        ),
        tests=(ZOMBIE, RIGHTS),
        message="zombie",
    ),
    plant(
        "cleanup-reports-work-not-done",
        "It will have done something.",
        (
            "postgres/cleanup.py",
            "        leaked = self._database.sweep_leaked()\n        idle_closed, terminated",
            "        return CleanupResult(1, 0, 2, 3.5)\n        leaked = self._database.sweep_leaked()\n        idle_closed, terminated",
        ),
        tests=(ZOMBIE, RIGHTS),
        message="zombie",
    ),
    plant(
        "cleanup-counts-wrong",
        "At least one, to look useful.",
        (
            "postgres/cleanup.py",
            "        return CleanupResult(idle_closed, len(leaked), terminated,",
            "        return CleanupResult(idle_closed, len(leaked), terminated + 1,",
        ),
        tests=ZOMBIE,
        message="the cleanup reports",
    ),
    plant(
        "cleanup-leaves-statements",
        "What is active is alive.",
        (
            "postgres/monitor.py",
            "              OR state = 'active' AND clock_timestamp() - query_start > make_interval(secs => $3)\n",
            "",
        ),
        tests=ORPHAN,
        message="Postgres still works for a dead process",
    ),
    plant(
        "cleanup-ends-idle-replicas",
        "Idle is idle.",
        (
            "postgres/monitor.py",
            "state = 'idle' AND clock_timestamp() - state_change > make_interval(secs => $4)",
            "state = 'idle' AND $4 > 0",
        ),
        tests=ZOMBIE,
        message="another instance, which may well be alive",
    ),
    plant(
        "cleanup-ends-its-own",
        "Those connections are not in use at the moment.",
        (
            "postgres/monitor.py",
            "(application_name = $1 AND NOT pid = ANY($2)\n         AND clock_timestamp() - backend_start > make_interval(secs => $3))",
            "(application_name = $1 AND (state = 'idle' OR NOT pid = ANY($2)))",
        ),
        tests=ZOMBIE,
        message="healthy connections of its own pool",
    ),
    plant(
        "cleanup-ends-similar-names",
        "All names of the service begin with service.",
        ("postgres/monitor.py", "application_name LIKE 'service:%'", "application_name LIKE 'service%'"),
        tests=ZOMBIE,
        message="a session of service-desk",
    ),
    plant(
        "cleanup-ends-foreign-sessions",
        "Idle in transaction is always wrong.",
        (
            "postgres/monitor.py",
            "((application_name LIKE 'service:%' AND application_name <> $1\n",
            "((application_name <> $1\n",
        ),
        ("postgres/monitor.py", "WHERE pid = ANY($1) AND application_name LIKE 'service:%'", "WHERE pid = ANY($1)"),
        tests=(ZOMBIE, SWEPT),
        message="is not the service's",
    ),
    plant(
        "cleanup-without-authorization",
        "It is an internal address.",
        ("http/routes.py", "        status = denial_status(", "        status = None and denial_status("),
        tests=RIGHTS,
        message="a remote caller without the token may clean up",
    ),
    plant(
        "cleanup-believes-headers",
        "We are behind a proxy.",
        (
            "http/routes.py",
            "        peer = request.client.host if request.client else None",
            '        peer = request.headers.get("x-forwarded-for") or (request.client.host if request.client else None)',
        ),
        tests=RIGHTS,
        message="a header decides who the caller is",
    ),
    plant(
        "cleanup-any-token",
        "A token was sent.",
        (
            "postgres/cleanup.py",
            "    return None if is_valid else 403",
            "    return None if is_valid or token else 403",
        ),
        tests=RIGHTS,
        message="a remote caller without the token may clean up",
    ),
    plant(
        "cleanup-open-without-a-token",
        "A service without a token needs no lock.",
        ("postgres/cleanup.py", "is_valid = expected is not None and", "is_valid = expected is None or"),
        tests="test_cleanup.py::test_without_a_configured_token_remote_callers_cannot_clean_up",
        message="CLEANUP_TOKEN is not set, and a remote caller may clean up",
    ),
    plant(
        "cleanup-before-authorization",
        "The check can wait.",
        (
            "http/routes.py",
            "        status = denial_status(",
            "        await self._cleanup.run(min_interval=0)\n        status = denial_status(",
        ),
        tests=RIGHTS,
        message="was refused, and the cleanup ran nevertheless",
    ),
    plant(
        "cleanup-without-a-rate-limit",
        "It does no harm.",
        ("postgres/cleanup.py", "                raise CleanupRateLimited(wait)", "                pass"),
        tests=ONE_CLEANUP,
        message="a cleanup right after another one gets",
    ),
    plant(
        "cleanup-always-success",
        "It was triggered, wasn't it?",
        ("postgres/cleanup.py", "            if not leaked and not idle_closed:\n", "            if False:\n"),
        tests=NOTHING,
        message="the cleanup claims success",
    ),
    plant(
        "cleanup-takes-its-time",
        "Better thorough than fast.",
        ("postgres/cleanup.py", "TERMINATE_SECONDS = 1.3", "TERMINATE_SECONDS = 30.0"),
        ("postgres/monitor.py", "ZOMBIE_SETTLE = 0.25", "ZOMBIE_SETTLE = 3.0"),
        tests=ZOMBIE,
        message="the cleanup took",
    ),
    plant(
        "cleanup-collects-nothing",
        "Python collects garbage on its own.",
        (
            "postgres/cleanup.py",
            "        freed = await self._collector.collect()\n",
            "        freed = GcResult(0, 0, 0, 0.0)\n",
        ),
        (
            "postgres/cleanup.py",
            "from ..memory.collector import GarbageCollector",
            "from ..memory.collector import GarbageCollector, GcResult",
        ),
        tests=RIGHTS,
        message="has collected no garbage",
    ),
    plant(
        "cleanup-side-by-side",
        "Two may clean up at the same time.",
        ("postgres/cleanup.py", "        if self._running is None:\n", "        if not self._last_run < 0:\n"),
        (
            "postgres/cleanup.py",
            "            wait = self._last_run",
            "            pass\n        if True:\n            wait = self._last_run",
        ),
        tests=ONE_CLEANUP,
        message="cleanups side by side, not 1",
    ),
    plant(
        "cleanup-leaves-dead-connections",
        "They will be closed when they are used.",
        ("postgres/cleanup.py", "            self._database.sweep_dead(),\n", "            asyncio.sleep(0, 0),\n"),
        tests=DEAD,
        message="503",
    ),
    plant(
        "no-periodic-cleanup",
        "There is an endpoint for that, and a check.",
        (
            "monitor.py",
            "            partial(run_every, settings.cleanup_interval, self.clean_up, clock),\n",
            "",
        ),
        tests="test_cleanup.py::test_cleanup_runs_every_cleanup_interval_without_a_request",
        message="no periodic cleanup runs",
    ),
    plant(
        "cleanup-again-in-a-second",
        "A client can try again and see.",
        ("http/routes.py", "retry_after=error.retry_after)\n        content", "retry_after=1)\n        content"),
        tests="test_cleanup.py::test_concurrent_cleanup_requests_share_one_run_and_the_next_is_rate_limited",
        message="Retry-After is 1 s",
    ),
    plant(
        "cleanup-invents-what-it-freed",
        "About twelve, as in the log of the incident.",
        ("postgres/cleanup.py", "round((freed.heap + freed.external) / MIB, 2)", "12.22"),
        tests="test_cleanup.py::test_concurrent_cleanup_requests_share_one_run_and_the_next_is_rate_limited",
        message="the reply reports 12.22 MB freed",
    ),
    plant(
        "cleanup-one-name-for-all",
        "A name that changes is hard to search for.",
        ("postgres/pool.py", 'f"service:{boot_id}"', '"service:main"'),
        ("postgres/monitor.py", 'f"service:{boot_id}"', '"service:main"'),
        tests="test_cleanup.py::test_each_process_gives_its_sessions_a_unique_name",
        message="a cleanup cannot tell them apart",
    ),
    plant(
        "cleanup-every-six-hours-only",
        "There is an endpoint for that.",
        (
            "monitor.py",
            "            partial(run_every, settings.db_pool_check_interval, self._cleanup.sweep, clock),\n",
            "",
        ),
        tests=SWEPT,
        message="a zombie outlives the checks of the pool",
    ),
    plant(
        "cleanup-ends-young-transactions",
        "Idle in transaction is always wrong.",
        (
            "postgres/monitor.py",
            "state LIKE 'idle in transaction%' AND clock_timestamp() - xact_start > make_interval(secs => $5)",
            "state LIKE 'idle in transaction%' AND $5 > 0",
        ),
        tests=LIVING,
        message="younger than those of a live instance can be",
    ),
    plant(
        "cleanup-ignores-live-monitors",
        "Old is old.",
        (
            "postgres/monitor.py",
            "         AND NOT EXISTS (SELECT FROM pg_stat_activity AS watch\n",
            "         AND NOT EXISTS (SELECT FROM pg_stat_activity AS watch WHERE false AND EXISTS (SELECT\n",
        ),
        ("postgres/monitor.py", "make_interval(secs => $7))\n", "make_interval(secs => $7)))\n"),
        tests=LIVING,
        message="a transaction of a live instance",
    ),
    plant(
        "cleanup-leaves-its-own-lost-sessions",
        "A session with the instance's name belongs to it.",
        (
            "postgres/monitor.py",
            "     OR (application_name = $1 AND NOT pid = ANY($2)\n",
            "     OR (application_name = $1 AND false AND NOT pid = ANY($2)\n",
        ),
        tests=LOST,
        message="a session under the instance's name that its pool does not know is left",
    ),
    plant(
        "cleanup-counts-sessions-that-remain",
        "A session that gets the signal is gone.",
        (
            "postgres/monitor.py",
            "                return len(pids) - int(remaining)\n",
            "                return len(pids)\n",
        ),
        tests=STUCK,
        message="and the cleanup reports 1 terminated",
    ),
    plant(
        "cleanup-waits-for-stuck-sessions",
        "It will end at some point.",
        (
            "postgres/monitor.py",
            "                deadline = self._clock() + seconds / 3\n",
            "                deadline = self._clock() + 5\n",
        ),
        ("postgres/cleanup.py", "TERMINATE_SECONDS = 1.3", "TERMINATE_SECONDS = 30.0"),
        tests=STUCK,
        message="the cleanup took",
    ),
    plant(
        "cleanup-hides-stuck-sessions",
        "Nothing can be done about it.",
        ("postgres/monitor.py", "                if remaining:\n", "                if False:\n"),
        tests=STUCK,
        message="the log does not report it",
    ),
    plant(
        "cleanup-leaves-idle-sessions",
        "An idle session does no harm.",
        (
            "postgres/monitor.py",
            "\n              OR state = 'idle' AND clock_timestamp() - state_change > make_interval(secs => $4)))",
            "\n              OR false AND make_interval(secs => $4) IS NULL))",
        ),
        tests=LIMITS,
        message="has not terminated a session that is idle",
    ),
    plant(
        "cleanup-ends-idle-sessions-early",
        "Idle is idle after DB_POOL_IDLE_TIMEOUT.",
        ("postgres/monitor.py", "settings.db_pool_idle_timeout * 2", "settings.db_pool_idle_timeout"),
        tests=LIMITS,
        message="has terminated a session that is idle for less than twice",
    ),
    plant(
        "cleanup-ends-statements-early",
        "A statement ends at DB_COMMAND_TIMEOUT.",
        ("postgres/monitor.py", "settings.db_command_timeout * 2", "settings.db_command_timeout"),
        tests=LIMITS,
        message="has terminated a statement that runs for less than twice",
    ),
    plant(
        "cleanup-needs-a-query-each-second",
        "A monitor sends one each 0.4 s.",
        ("postgres/monitor.py", "MONITOR_SILENCE = 10.0", "MONITOR_SILENCE = 1.0"),
        tests=LIMITS,
        message="whose monitor is silent for less than 10 s",
    ),
    plant(
        "cleanup-trusts-silent-monitors",
        "A monitor that is connected is alive.",
        ("postgres/monitor.py", "MONITOR_SILENCE = 10.0", "MONITOR_SILENCE = 86_400.0"),
        tests=LIMITS,
        message="whose monitor is silent for more than 10 s",
    ),
    plant(
        "sweep-says-nothing",
        "It is routine.",
        ("postgres/cleanup.py", "        if leaked or terminated:\n", "        if False:\n"),
        tests=SWEPT,
        message="no line of the log reports it",
    ),
    plant(
        "cleanup-by-loopback-names-only",
        "Callers on this machine use localhost.",
        ("postgres/cleanup.py", " or is_loopback(name) or name == named):", " or is_loopback(name)):"),
        tests=NAMED,
        message="HOST is Campaigns.Example, and a caller on loopback gets",
    ),
    plant(
        "cleanup-host-as-written",
        "Names are compared like any text.",
        ("postgres/cleanup.py", "else settings.host.lower()", "else settings.host"),
        tests=NAMED,
        message="HOST is Campaigns.Example, and a caller on loopback gets",
    ),
    plant(
        "cleanup-by-subdomains-of-host",
        "They are ours, too.",
        ("postgres/cleanup.py", " or name == named):", " or (named and name.endswith(named))):"),
        tests=NAMED,
        message="HOST is Campaigns.Example, and a caller on loopback gets",
    ),
    plant(
        "cleanup-always-verbose",
        "Numbers do no harm.",
        (
            "http/routes.py",
            '        if "verbose" in request.query_params:\n            content',
            "        if content:\n            content",
        ),
        tests=NAMED,
        message="without ?verbose a cleanup has no counts, and reports",
    ),
    plant(
        "cleanup-trusts-monitors-for-8-seconds",
        "A monitor sends a query each second.",
        ("postgres/monitor.py", "MONITOR_SILENCE = 10.0", "MONITOR_SILENCE = 8.0"),
        tests=LIMITS,
        message="the cleanup has terminated a transaction of an instance whose monitor is silent for less than 10 s",
    ),
)
