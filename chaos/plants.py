"""Regressions to plant in the service, each as a tired developer would write it, with the test that must go red and what it must say.

`scripts/plants` plants them one at a time in a copy. A promise without a plant is a promise that nobody knows to be tested.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plant:
    """One regression.

    Args:
        name: what it is called.
        story: what the developer would have said.
        edits: (file, old text, new text); every occurrence of the old text is replaced.
        tests: those that must go red; a parametrised one when any of its cases does.
        says: a part of the failure's message: it names the cause.
    """

    name: str
    story: str
    edits: tuple[tuple[str, str, str], ...]
    tests: tuple[str, ...]
    says: str

    @property
    def file(self) -> str:
        """The file that the plant is mostly in."""
        return self.edits[0][0]


def plant(name: str, story: str, *edits: tuple[str, str, str], tests: str | tuple[str, ...], says: str) -> Plant:
    """One plant; files are named without their folder."""
    full = tuple((f"service/{file}", old, new) for file, old, new in edits)
    return Plant(name, story, full, (tests,) if isinstance(tests, str) else tests, says)


TWICE = "test_redis_gone.py::test_reads_survive_an_outage_of_redis_twice_in_a_row"
LONG = "test_redis_gone.py::test_a_long_outage_costs_one_line_and_one_prober"
KINDS = "test_redis_gone.py::test_outages_of_every_kind_one_after_the_other"
COMES_AND_GOES = "test_redis_gone.py::test_who_comes_and_goes_is_not_trusted_each_time"
UNDONE = "test_redis_gone.py::test_what_was_written_during_an_outage_is_not_undone_by_what_redis_remembers"
REDIS_ERRORS = "test_redis_errors.py::test_a_redis_that_answers_with_errors_is_away"
SOURCE = "test_cache.py::test_every_answer_says_truly_where_it_came_from"
STALE = "test_cache.py::test_what_is_stale_says_so_and_is_served_only_for_so_long"
STALE_AT_ONCE = "test_cache.py::test_what_is_stale_is_served_at_once_while_postgres_hangs"
ABSENT = "test_cache.py::test_errors_and_absences_are_not_remembered"
ONE_LOAD = "test_cache.py::test_many_who_miss_at_once_cost_one_load"
BOUNDS = "test_cache.py::test_the_fallback_cache_keeps_within_its_bounds"
NEWER = "test_cache.py::test_a_newer_version_of_another_instance_is_not_overwritten_by_what_redis_missed"
SLOW_REDIS = "test_cache.py::test_a_slow_redis_costs_a_request_its_budget_once_and_mixes_nothing_up"
STARVED = "test_postgres_slow.py::test_a_starved_pool_answers_503_in_time_alerts_once_and_recovers_to_full_capacity"
SERVER_FULL = "test_postgres_slow.py::test_a_full_server_is_a_503_and_not_a_hang"
NO_ANSWER = "test_postgres_slow.py::test_an_answer_that_never_comes_is_a_503_in_time"
EPISODES = "test_pool.py::test_the_alert_tells_average_use_once_for_each_episode"
IDLE = "test_pool.py::test_idle_connections_are_closed_and_come_back_when_needed"
BOOKS = "test_pool.py::test_no_fault_costs_the_pool_a_connection"
ONCE = "test_postgres_gone.py::test_a_write_whose_answer_was_lost_is_not_done_again"
IN_DOUBT = "test_postgres_gone.py::test_after_a_write_in_doubt_nobody_is_served_what_was_before"
SILENT = "test_postgres_gone.py::test_connections_that_went_silent_cost_the_time_of_one_statement"
READ_AGAIN = "test_postgres_gone.py::test_a_read_whose_session_is_ended_under_it_is_done_again"
SAFE = "test_postgres_gone.py::test_nothing_is_acknowledged_before_it_is_safe"
AWAY = "test_postgres_gone.py::test_cached_reads_go_on_and_others_get_503_while_postgres_is_away"
READY = "test_postgres_gone.py::test_readiness_is_true_of_the_last_second_although_nobody_asks_for_anything"
KILLED = "test_postgres_gone.py::test_no_acknowledged_write_is_lost_when_postgres_is_killed_twice"
ONE_WINS = "test_contention.py::test_of_many_who_saw_the_same_version_one_wins"
EVERY_CHANGE = "test_contention.py::test_every_change_counts_and_no_reader_goes_back_in_time"
GUARD = "test_memory_pressure.py::test_the_guard_forces_a_collection_memory_comes_down_and_every_number_is_true"
REFUSES = "test_memory_pressure.py::test_near_its_limit_it_refuses_work_tells_so_once_and_serves_what_is_essential"
NO_MEMORY = "test_memory_pressure.py::test_a_service_without_memory_answers_503_and_lives"
GROUP = "test_memory_pressure.py::test_the_limit_of_a_control_group_counts_too"
GARBAGE = "test_memory_pressure.py::test_garbage_is_collected_from_time_to_time"
HEALTH = "test_health.py::test_health_answers_in_time_under"
TIME = "test_health.py::test_health_tells_the_time_and_is_not_remembered"
ZOMBIE = "test_cleanup.py::test_a_zombie_of_an_earlier_boot_is_really_gone_and_nobody_else"
ORPHAN = "test_cleanup.py::test_a_statement_that_nobody_waits_for_any_more_is_ended"
DEAD = "test_cleanup.py::test_dead_connections_are_closed_without_touching_the_server"
NOTHING = "test_cleanup.py::test_it_claims_no_success_when_it_can_do_nothing"
ONE_CLEANUP = "test_cleanup.py::test_many_who_ask_at_once_get_one_cleanup_and_the_next_has_to_wait"
SWEPT = "test_cleanup.py::test_zombies_are_swept_with_every_check_of_the_pool"
RIGHTS = "test_cleanup.py::test_without_rights_it_has_no_effect_and_with_them_it_collects"
BOOT = "test_lifecycle.py::test_it_starts_without_postgres_and_redis_and_becomes_ready_by_itself"
STOP = "test_lifecycle.py::test_told_to_stop_it_finishes_what_it_has_begun"
STOP_TWICE = "test_lifecycle.py::test_told_to_stop_it_does_not_wait_for_ever_and_told_twice_not_at_all"
TOLD = "test_secrets.py::test_no_secret_in_logs_answers_and_the_list_of_processes"
DEFAULTS = "test_defaults.py::test_the_figures_after_the_incident_are_the_defaults"
TOO_LARGE = "test_bad_clients.py::test_a_body_that_is_too_large_is_refused_whether_it_says_so_or_not"
SLOW_CLIENTS = "test_bad_clients.py::test_clients_that_begin_and_do_not_go_on_hold_up_nobody"
WRONG_SETTING = "test_secrets.py::test_a_wrong_setting_ends_the_start_in_one_line_that_names_it"
UPSTASH = "test_secrets.py::test_upstash_comes_first_and_is_asked_by_tls"

REDIS = (
    plant(
        "redis-no-fallback",
        "Redis is part of the service; if it is down, so are we.",
        (
            "cache.py",
            "        except Away:\n            return None\n",
            "        except Away as error:\n            raise Unavailable('The cache is down.') from error\n",
        ),
        tests=f"{TWICE}[refusing]",
        says="reads failed while Redis was away",
    ),
    plant(
        "redis-no-breaker",
        "Every request may see for itself whether Redis is there.",
        (
            "redis_store.py",
            "        return self._breaker.up\n\n    @property\n    def tried",
            "        return True\n\n    @property\n    def tried",
        ),
        (
            "redis_store.py",
            "if client is None or not self._breaker.up or budget.left <= 0:",
            "if client is None or budget.left <= 0:",
        ),
        tests=f"{TWICE}[hanging]",
        says="reads still wait for Redis long after it went away",
    ),
    plant(
        "redis-no-budget",
        "The client has timeouts of its own.",
        ("redis_store.py", "async with asyncio.timeout(limit), self._slots:", "async with self._slots:"),
        tests=f"{TWICE}[hanging]",
        says="a read took",
    ),
    plant(
        "redis-budget-per-command",
        "Each command has its time.",
        ("redis_store.py", "            budget.left -= self._clock() - started", "            pass"),
        tests=SLOW_REDIS,
        says="more than its budget",
    ),
    plant(
        "redis-never-back",
        "Once it was away, an operator should look.",
        (
            "redis_store.py",
            "        await self._close()\n        epoch",
            "        await self._close()\n        if self._breaker.outages:\n            return False\n        epoch",
        ),
        tests=f"{TWICE}[refusing]",
        says="the service still does not use it",
    ),
    plant(
        "redis-back-only-once",
        "Twice is no accident; give up on it then.",
        (
            "redis_store.py",
            "        await self._close()\n        epoch",
            "        await self._close()\n        if self._breaker.outages > 1:\n            return False\n        epoch",
        ),
        tests=f"{TWICE}[refusing]",
        says="the service still does not use it",
    ),
    plant(
        "redis-back-after-ten-seconds",
        "No need to hammer it.",
        ("breaker.py", "FIRST_DELAY = 0.1\nLONGEST_DELAY = 0.5", "FIRST_DELAY = 10.0\nLONGEST_DELAY = 10.0"),
        tests=f"{TWICE}[refusing]",
        says="the service still does not use it",
    ),
    plant(
        "redis-trusted-each-time",
        "It answers, so it is back.",
        ("breaker.py", "return TRIAL if flapping else 0.0", "return 0.0"),
        tests=COMES_AND_GOES,
        says="the service flaps along with it",
    ),
    plant(
        "redis-prober-dies-of-another-error",
        "Only network errors can happen here.",
        (
            "redis_store.py",
            "            await self._deliver(client)\n        except Exception as error:  # noqa: BLE001  # the same",
            "            await self._deliver(client)\n        except (OSError, TimeoutError) as error:",
        ),
        tests=LONG,
        says="an error escaped",
    ),
    plant(
        "redis-every-request-connects",
        "Whoever needs Redis brings it back.",
        (
            "redis_store.py",
            "        async with self._spend(budget) as client:\n            pipe",
            "        if not self._breaker.up:\n            await self._bring_back()\n        async with self._spend(budget) as client:\n            pipe",
        ),
        (
            "cache.py",
            '        if not self._redis_knows(key):\n            entry = self.fallback.fresh(key)\n            if entry is not None:\n                return Answer(entry, "hit", "memory")\n        flight',
            "        flight",
        ),
        (
            "cache.py",
            "        if not self._redis_knows(key):\n            return None\n",
            "        if key in self._owed:\n            return None\n",
        ),
        tests=LONG,
        says="requests retry for themselves",
    ),
    plant(
        "redis-line-per-probe",
        "So that everybody sees that it is well.",
        (
            "redis_store.py",
            "            await self._deliver(client)\n        except Exception as error:  # noqa: BLE001  # Redis is optional",
            """            await self._deliver(client)
            log.info("Redis connected successfully")
        except Exception as error:  # noqa: BLE001  # Redis is optional""",
        ),
        tests=LONG,
        says="one line for each change of state",
    ),
    plant(
        "redis-line-per-error",
        "One can never log too much.",
        (
            "redis_store.py",
            "        if self._breaker.fail(reason, epoch):\n            log",
            "        opened = self._breaker.fail(reason, epoch)\n        log",
        ),
        (
            "redis_store.py",
            'in-memory cache: %s", reason)\n            self._wake.set()',
            'in-memory cache: %s", reason)\n        if opened:\n            self._wake.set()',
        ),
        tests=LONG,
        says="not one for each error",
    ),
    plant(
        "redis-no-line-on-recovery",
        "Good news needs no line.",
        ("redis_store.py", '        log.info("Redis connected successfully")\n', ""),
        tests=f"{TWICE}[refusing]",
        says="one line at the start and one for each recovery",
    ),
    plant(
        "redis-outage-writes-forgotten",
        "Redis is away, so there is nothing to tell it.",
        (
            "cache.py",
            "        owed = self._owed.add(key, stamp)\n        if not self.redis.up:\n            return\n",
            "        if not self.redis.up:\n            return\n        owed = self._owed.add(key, stamp)\n",
        ),
        tests=UNDONE,
        says="came back out of Redis",
    ),
    plant(
        "redis-deleted-comes-back",
        "A deleted row will expire from Redis by itself.",
        (
            "cache.py",
            "        await self._tell(key, (created, DELETED))",
            "        if self.redis.up:\n            await self._tell(key, (created, DELETED))",
        ),
        tests=UNDONE,
        says="a deleted campaign came back out of Redis",
    ),
    plant(
        "redis-own-write-not-read",
        "The next reader fills the cache anyway.",
        (
            "cache.py",
            "        self.fallback.put(key, entry)\n        await self._tell(key, entry.stamp)",
            "        await self._tell(key, entry.stamp)",
        ),
        tests=UNDONE,
        says="a read missed the write before it",
    ),
    plant(
        "redis-older-overwrites-newer",
        "A plain SET is easier to read.",
        ("redis_store.py", "    return 0\n", ""),
        tests=NEWER,
        says="has overwritten the newer one of another instance",
    ),
    plant(
        "redis-ping-is-healthy",
        "A PING is what everybody uses for a health check.",
        (
            "redis_store.py",
            '    await client.eval(COMPARE_AND_SET, 1, "service:probe", 0, 0, "", 5000)',
            "    await client.ping()",
        ),
        tests=(f"{REDIS_ERRORS}[READONLY]", f"{REDIS_ERRORS}[OOM]"),
        says="takes it for healthy",
    ),
    plant(
        "redis-error-replies-crash",
        "Only connections fail.",
        (
            "redis_store.py",
            "        except Exception as error:\n            fair",
            "        except (OSError, TimeoutError) as error:\n            fair",
        ),
        tests=f"{REDIS_ERRORS}[OOM]",
        says="a write fails because Redis says OOM",
    ),
    plant(
        "redis-connections-left-behind",
        "They will be collected.",
        (
            "redis_store.py",
            "                    await client.connection_pool.disconnect(inuse_connections=True)",
            "                    _KEPT.append(client)",
        ),
        ("redis_store.py", "class Away(Exception):", "_KEPT: list[Any] = []\n\n\nclass Away(Exception):"),
        tests=KINDS,
        says="connections are left behind",
    ),
    plant(
        "redis-loss-is-not-ready",
        "Without Redis we are slow, so send the traffic elsewhere.",
        (
            "health.py",
            "        ready = postgres and not refusing",
            "        ready = postgres and redis and not refusing",
        ),
        tests=f"{TWICE}[refusing]",
        says="says that it is not ready",
    ),
    plant(
        "redis-needed-to-start",
        "Fail early.",
        (
            "app.py",
            "        await database.start()\n",
            "        await database.start()\n        from redis.asyncio import Redis\n\n        async with Redis.from_url(settings.redis_url or '') as client:\n            await client.ping()\n",
        ),
        tests=BOOT,
        says="the service ended",
    ),
    plant(
        "redis-upstash-second",
        "REDIS_URL is set, so use it.",
        (
            "redis_store.py",
            "        if settings.upstash_redis_rest_url and settings.upstash_redis_rest_token:\n            return Redis(",
            "        if not settings.redis_url and settings.upstash_redis_rest_url and settings.upstash_redis_rest_token:\n            return Redis(",
        ),
        tests=UPSTASH,
        says="timed out",
    ),
    plant(
        "redis-upstash-in-clear",
        "TLS gives trouble with certificates.",
        (
            "redis_store.py",
            "                ssl=True,\n                ssl_ca_certs=settings.upstash_redis_ca_file,\n",
            "",
        ),
        ("redis_store.py", "            if self._tls:\n", "            if False:\n"),
        tests=UPSTASH,
        says="Upstash is to be asked by TLS",
    ),
)

CACHE = (
    plant(
        "cache-source-lies",
        "It goes into Redis anyway, so say Redis.",
        ("cache.py", 'return Answer(entry, "miss", "postgres")', 'return Answer(entry, "hit", "redis")'),
        tests=SOURCE,
        says="Redis is empty, so only Postgres can have answered",
    ),
    plant(
        "cache-source-lies-in-memory",
        "Redis' replacement may go by its name.",
        ("cache.py", 'return Answer(entry, "hit", "memory")', 'return Answer(entry, "hit", "redis")'),
        tests=f"{TWICE}[refusing]",
        says="the fallback cache does not serve while Redis is away",
    ),
    plant(
        "cache-mixes-keys",
        "A few slots for flights will do.",
        ("cache.py", "        flight = self._flights.get(key)\n", "        flight = self._flights.get(key % 8)\n"),
        (
            "cache.py",
            "            flight = self._flights[key] = asyncio",
            "            flight = self._flights[key % 8] = asyncio",
        ),
        (
            "cache.py",
            "            if self._flights.get(key) is flight:\n                del self._flights[key]",
            "            if self._flights.get(key % 8) is flight:\n                del self._flights[key % 8]",
        ),
        tests=SLOW_REDIS,
        says="readers got somebody else's campaign",
    ),
    plant(
        "cache-each-reader-loads",
        "Postgres can stand it.",
        (
            "cache.py",
            "        flight = self._flights.get(key)\n        if flight is None:",
            "        flight = None\n        if flight is None:",
        ),
        tests=ONE_LOAD,
        says="each reader loads it for itself",
    ),
    plant(
        "cache-unbounded-entries",
        "Bytes are bounded, that is enough.",
        (
            "fallback.py",
            "        self._shrink_to(self._max_entries, self._max_bytes)",
            "        self._shrink_to(1 << 40, self._max_bytes)",
        ),
        tests=BOUNDS,
        says="CACHE_MAX_ENTRIES allows",
    ),
    plant(
        "cache-unbounded-bytes",
        "Entries are bounded, that is enough.",
        (
            "fallback.py",
            "        self._shrink_to(self._max_entries, self._max_bytes)",
            "        self._shrink_to(self._max_entries, 1 << 40)",
        ),
        tests=BOUNDS,
        says="over CACHE_MAX_MB",
    ),
    plant(
        "cache-errors-cached",
        "No answer means no such campaign.",
        (
            "cache.py",
            "            if stale is None:\n                raise\n",
            '            if stale is None:\n                return Answer(None, "miss", "postgres")\n',
        ),
        tests=ABSENT,
        says="nobody can know that there is no such campaign",
    ),
    plant(
        "cache-absence-for-ever",
        "Spare Postgres those who ask for what is not there.",
        (
            "cache.py",
            "        if entry is None:\n            self.fallback.drop(key)\n",
            "        if entry is None:\n            self._absent.add(key)\n            self.fallback.drop(key)\n",
        ),
        (
            "cache.py",
            "        self._owed = Owed()\n",
            "        self._owed = Owed()\n        self._absent: set[int] = set()\n",
        ),
        (
            "cache.py",
            "        flight = self._flights.get(key)\n",
            '        if key in self._absent:\n            return Answer(None, "hit", "memory")\n        flight = self._flights.get(key)\n',
        ),
        tests=ABSENT,
        says="its absence is remembered",
    ),
    plant(
        "cache-ttl-ignored",
        "Campaigns hardly change.",
        ("cache.py", "        self._fresh_for = settings.cache_ttl\n", "        self._fresh_for = lifetime\n"),
        ("cache.py", "            fresh_for=settings.cache_ttl,\n", "            fresh_for=lifetime,\n"),
        tests=STALE,
        says="is served as fresh for longer than CACHE_TTL",
    ),
    plant(
        "cache-stale-unmarked",
        "It is a hit, isn't it?",
        ("cache.py", 'Answer(entry, "stale", "memory")', 'Answer(entry, "hit", "memory")'),
        ("cache.py", 'Answer(found.entry, "stale", "redis")', 'Answer(found.entry, "hit", "redis")'),
        tests=STALE,
        says="not marked as stale",
    ),
    plant(
        "cache-stale-after-the-wait",
        "Give Postgres a chance first.",
        (
            "cache.py",
            "        if not self._source_is_up():\n            stale = self._stale(key, found)\n            if stale is not None:\n                return stale\n",
            "",
        ),
        tests=STALE_AT_ONCE,
        says="a stale copy is served only after",
    ),
    plant(
        "cache-memory-cold-after-redis",
        "Redis has it already, why keep it twice?",
        (
            "cache.py",
            "            self.fallback.put(key, found.entry, found.age)\n            if found",
            "            if found",
        ),
        tests="test_cache.py::test_what_was_read_is_still_known_when_redis_and_postgres_are_away",
        says="it came from Redis a moment ago, and memory has no copy",
    ),
    plant(
        "cache-memory-cold-after-postgres",
        "Memory is for outages.",
        (
            "cache.py",
            "        self.fallback.put(key, entry)\n        if self._redis_knows(key):",
            "        if not self.redis.up:\n            self.fallback.put(key, entry)\n        if self._redis_knows(key):",
        ),
        tests="test_cache.py::test_what_was_read_is_still_known_when_redis_and_postgres_are_away",
        says="it came from Postgres a moment ago, and memory has no copy",
    ),
    plant(
        "cache-stale-for-ever",
        "Something old is better than nothing.",
        (
            "fallback.py",
            "if self._clock() - held.loaded_at >= self._lifetime:",
            "if self._clock() - held.loaded_at >= 1000 * self._lifetime:",
        ),
        tests=STALE,
        says="for longer than CACHE_STALE_TTL",
    ),
)

POSTGRES = (
    plant(
        "pool-no-acquire-timeout",
        "They will get their turn.",
        (
            "database.py",
            "        async with asyncio.timeout(self._settings.db_pool_acquire_timeout):\n            await self._slots.acquire()\n",
            "        await self._slots.acquire()\n",
        ),
        tests=STARVED,
        says="who finds the pool exhausted hears it after",
    ),
    plant(
        "pool-unbounded",
        "Postgres will say when it is full.",
        ("database.py", "asyncio.Semaphore(settings.db_pool_max)", "asyncio.Semaphore(1000)"),
        ("database.py", "            max_size=self._settings.db_pool_max,", "            max_size=1000,"),
        tests=STARVED,
        says="connections at once; the pool has",
    ),
    plant(
        "pool-one-too-many",
        "Off by one, who counts?",
        ("database.py", "asyncio.Semaphore(settings.db_pool_max)", "asyncio.Semaphore(settings.db_pool_max + 1)"),
        (
            "database.py",
            "            max_size=self._settings.db_pool_max,",
            "            max_size=self._settings.db_pool_max + 1,",
        ),
        tests=STARVED,
        says="connections at once; the pool has",
    ),
    plant(
        "pool-two-too-few",
        "Keep some in reserve.",
        (
            "database.py",
            "asyncio.Semaphore(settings.db_pool_max)",
            "asyncio.Semaphore(max(1, settings.db_pool_max - 2))",
        ),
        tests=f"{BOOKS}[refusing]",
        says="of the pool's",
    ),
    plant(
        "postgres-fault-is-500",
        "An error is an error.",
        (
            "database.py",
            '            raise Unavailable("The database cannot answer now.") from error',
            "            raise",
        ),
        tests=f"{BOOKS}[refusing]",
        says="a dependency fault is 503, never",
    ),
    plant(
        "postgres-lock-timeout-is-500",
        "That can't happen.",
        ("database.py", "    asyncpg.LockNotAvailableError,\n", ""),
        tests=STARVED,
        says="a dependency fault is 503, never",
    ),
    plant(
        "postgres-full-is-500",
        "max_connections is high enough.",
        (
            "database.py",
            "    asyncpg.InsufficientResourcesError,  # 53: too many connections, out of memory, disk full\n",
            "",
        ),
        tests=SERVER_FULL,
        says="500",
    ),
    plant(
        "errors-in-a-form-of-our-own",
        "JSON is JSON.",
        ("problems.py", 'media_type = "application/problem+json"', 'media_type = "application/json"'),
        tests=BOOKS,
        says="errors are application/problem+json",
    ),
    plant(
        "postgres-retry-after-an-hour",
        "Let them come back when it is quiet.",
        ("errors.py", "retry_after: float = 1.0", "retry_after: float = 3600.0"),
        tests="test_pool.py::test_no_fault_costs_the_pool_a_connection",
        says="a 503 sends its client away for 3600 s",
    ),
    plant(
        "postgres-no-retry-after",
        "Nobody reads that header.",
        (
            "problems.py",
            "    return Problem(503, error.detail, retry_after=error.retry_after)",
            "    return Problem(503, error.detail)",
        ),
        tests=f"{BOOKS}[refusing]",
        says="a 503 says when to try again",
    ),
    plant(
        "postgres-no-command-timeout",
        "Postgres has a statement_timeout.",
        ("database.py", '        "command_timeout": settings.db_command_timeout,\n', ""),
        tests=NO_ANSWER,
        says="the sweep had to take them back",
    ),
    plant(
        "alert-never",
        "A fraction is what everybody uses.",
        ("monitor.py", "        if self._alert.check(percent):", "        if self._alert.check(percent / 100):"),
        tests=STARVED,
        says="no alert was raised",
    ),
    plant(
        "alert-every-check",
        "They should not forget it.",
        ("monitor.py", "            return first\n", "            return True\n"),
        tests=EPISODES,
        says="alerts for",
    ),
    plant(
        "alert-once-in-a-life",
        "Once is enough.",
        (
            "monitor.py",
            "            self._raised = False\n        return False",
            "            pass\n        return False",
        ),
        tests=EPISODES,
        says="no alert was raised (episode 2)",
    ),
    plant(
        "alert-at-ninety-whatever-is-set",
        "Nobody will want another threshold.",
        ("monitor.py", "if percent > self._threshold:", "if percent > 90.0:"),
        tests="test_pool.py::test_the_alert_comes_at_the_percentage_that_was_set",
        says="DB_POOL_ALERT_PERCENT is 50, and no alert was raised",
    ),
    plant(
        "alert-on-size",
        "The pool's size is at its maximum.",
        (
            "monitor.py",
            "        percent = self._database.usage.percent()",
            "        percent = 100 * self._database.size() / self._settings.db_pool_max",
        ),
        tests=EPISODES,
        says="one moment",
    ),
    plant(
        "alert-of-one-moment",
        "A sample is good enough.",
        (
            "monitor.py",
            "        percent = self._database.usage.percent()",
            "        percent = 100 * self._database.usage.in_use / self._settings.db_pool_max",
        ),
        tests=EPISODES,
        says="one moment",
    ),
    plant(
        "pool-leaks-on-error",
        "After an error the connection is gone anyway.",
        (
            "database.py",
            "        finally:\n            await self._release(checkout)",
            "        else:\n            await self._release(checkout)",
        ),
        tests=STARVED,
        says="the others are lost",
    ),
    plant(
        "pool-leaks-a-slot",
        "Without a connection there is nothing to give back.",
        (
            "database.py",
            "        except BaseException:\n            release_slot()\n            raise",
            "        except BaseException:\n            raise",
        ),
        tests=f"{BOOKS}[refusing]",
        says="connections can be used: the others are lost",
    ),
    plant(
        "pool-idle-timeout-ignored",
        "Opening connections is expensive.",
        (
            "database.py",
            "            max_inactive_connection_lifetime=self._settings.db_pool_idle_timeout,",
            "            max_inactive_connection_lifetime=0,",
        ),
        tests=IDLE,
        says="are not closed",
    ),
    plant(
        "read-given-up",
        "An error is an error.",
        (
            "database.py",
            "        except LostConnection:\n            rows =",
            "        except ZeroDivisionError:\n            rows =",
        ),
        tests=READ_AGAIN,
        says="a read is given up when its session is ended",
    ),
    plant(
        "pool-trusts-the-neighbours",
        "One dead connection says nothing about the others.",
        (
            "database.py",
            "            for holder in self._pool._holders:\n                if holder.is_idle() and holder.is_connected():\n                    holder.terminate()",
            "            pass",
        ),
        tests=SILENT,
        says="neighbours were trusted all the same",
    ),
    plant(
        "statements-go-on",
        "We have a limit on our side.",
        (
            "database.py",
            '            "statement_timeout": str(int(milliseconds * 0.9)),\n            "lock_timeout": str(int(milliseconds * 0.6)),\n',
            "",
        ),
        tests=STARVED,
        says="their statements still wait in Postgres",
    ),
    plant(
        "write-in-doubt-forgotten",
        "It was an error, so nothing has changed.",
        ("cache.py", "        self.fallback.doubt(key)\n        self._owed.add(key, None)\n", "        return\n"),
        tests=IN_DOUBT,
        says="still serves what was before",
    ),
    plant(
        "write-tried-again",
        "Lost connections deserve a second try.",
        (
            "database.py",
            '        row: Mapping[str, Any] | None = await self._run("fetchrow", sql, args)\n',
            '        try:\n            row: Mapping[str, Any] | None = await self._run("fetchrow", sql, args)\n        except LostConnection:\n            row = await self._run("fetchrow", sql, args)\n',
        ),
        tests=ONCE,
        says="an INSERT was tried again",
    ),
    plant(
        "write-acknowledged-early",
        "Deleting can happen in the background.",
        (
            "routes.py",
            "            created = await self._campaigns.delete(campaign_id)",
            "            self._later = asyncio.ensure_future(self._campaigns.delete(campaign_id))\n            created: int | None = 1",
        ),
        tests=SAFE,
        says="acknowledged before it happened",
    ),
    plant(
        "write-behind",
        "The row is known already; Postgres can catch up.",
        (
            "campaigns.py",
            '        row = await self._database.write(\n            sql, campaign_id, version, *(fields.get(n) for n in ("name", "message", "status"))\n        )\n        return None if row is None else _campaign(row)',
            '        import asyncio\n        from dataclasses import replace\n\n        write = self._database.write(sql, campaign_id, version, *(fields.get(n) for n in ("name", "message", "status")))\n        old = await self.get(campaign_id)\n        self._behind = asyncio.ensure_future(write)\n        return old and replace(old, version=old.version + 1, **fields)',
        ),
        tests=SAFE,
        says="acknowledged",
    ),
    plant(
        "commit-not-flushed",
        "synchronous_commit=off is so much faster.",
        (
            "database.py",
            '            "application_name": application_name,\n',
            '            "application_name": application_name,\n            "synchronous_commit": "off",\n',
        ),
        tests=SAFE,
        says="synchronous_commit",
    ),
    plant(
        "postgres-needed-to-start",
        "A few warm connections.",
        ("database.py", "            min_size=0,", "            min_size=2,"),
        tests=BOOT,
        says="the service ended",
    ),
    plant(
        "ready-finds-out-late",
        "It may just be slow for a moment.",
        ("watch.py", "TIMEOUT = 0.6", "TIMEOUT = 10.0"),
        tests=READY,
        says="still says ready",
    ),
    plant(
        "ready-whatever-happens",
        "The balancer should not take us out.",
        ("health.py", '        return ready, {"status": status', '        return True, {"status": status'),
        tests=AWAY,
        says="/readyz still says ready",
    ),
    plant(
        "lost-update",
        "Look first, then write.",
        (
            "campaigns.py",
            "             WHERE id = $1 AND version = coalesce($2, version)\n",
            "             WHERE id = $1 AND coalesce($2, 1) > 0\n",
        ),
        (
            "campaigns.py",
            "        row = await self._database.write(\n            sql, campaign_id, version",
            "        seen = await self.get(campaign_id)\n        if seen is None or version not in (None, seen.version):\n            return None\n        row = await self._database.write(\n            sql, campaign_id, version",
        ),
        tests=ONE_WINS,
        says="the others' changes are lost",
    ),
    plant(
        "if-match-ignored",
        "The last one wins.",
        ("routes.py", "        versions = None if if_match is None", "        versions = None if True"),
        tests=ONE_WINS,
        says="the others' changes are lost",
    ),
    plant(
        "version-stands-still",
        "updated_at tells the same.",
        ("campaigns.py", "version = version + 1, updated_at", "version = version, updated_at"),
        tests=EVERY_CHANGE,
        says="changes were lost",
    ),
)

MEMORY = (
    plant(
        "guard-looks-at-the-heap",
        "92 % of the heap in use is critical.",
        (
            "monitor.py",
            "        use = self._gauge.worst()\n        action",
            '        told = figures()\n        use = Use(told.heap_used or 0, told.heap_total or 1, "heap")\n        action',
        ),
        (
            "monitor.py",
            "import CLEAR, Collector, Gauge, Guard, figures",
            "import CLEAR, Collector, Gauge, Guard, Use, figures",
        ),
        tests=GUARD,
        says="the guard must not cry before memory is short",
    ),
    plant(
        "guard-reads-its-limit-once",
        "Limits don't change.",
        ("memory.py", "def _data_limit() -> int:", "@functools.cache\ndef _data_limit() -> int:"),
        ("memory.py", "import gc\n", "import functools\nimport gc\n"),
        tests=GUARD,
        says="the guard has not forced a collection",
    ),
    plant(
        "guard-blind-to-control-groups",
        "There is one setting for the limit.",
        ("memory.py", "        for cgroup in _cgroups():", "        for cgroup in ():"),
        tests=GROUP,
        says="the kernel killed it",
    ),
    plant(
        "guard-too-late",
        "A look every minute will do.",
        ("settings.py", "    memory_check_interval: float = 1.0", "    memory_check_interval: float = 60.0"),
        tests=GUARD,
        says="the guard has not forced a collection",
    ),
    plant(
        "guard-without-trim",
        "gc.collect() frees the memory.",
        ("memory.py", "        _libc.malloc_trim(0)", "        pass"),
        tests=GUARD,
        says="memory does not come down",
    ),
    plant(
        "guard-drops-the-cache",
        "All of it, to be on the safe side.",
        ("fallback.py", "self._shrink_to(self._max_entries, self.bytes // 2)", "self._shrink_to(0, 0)"),
        tests="test_memory_pressure.py::test_the_guard_forces_a_collection_memory_comes_down_and_every_number_is_true",
        says="what is left is all there is while Redis is away",
    ),
    plant(
        "guard-keeps-the-cache",
        "The cache is what keeps us fast.",
        ("monitor.py", "collect(give_up=self._cache.halve)", "collect()"),
        tests=GUARD,
        says="memory does not come down",
    ),
    plant(
        "guard-invents-numbers",
        "About a third is freed.",
        ("memory.py", "            before.rss - after.rss,\n", "            before.rss // 3,\n"),
        tests=GUARD,
        says="MB in total; RSS fell by",
    ),
    plant(
        "guard-small-megabytes",
        "A megabyte is a million bytes.",
        ("memory.py", "MIB = 1 << 20", "MIB = 1_000_000"),
        tests=GUARD,
        says="(2^20 bytes)",
    ),
    plant(
        "guard-spams",
        "Every sample that is too high is worth a line.",
        ("memory.py", "        if not self._in_episode:\n", "        if use:\n"),
        tests=REFUSES,
        says="one line for one episode",
    ),
    plant(
        "guard-blocks",
        "Give the collector a moment.",
        (
            "monitor.py",
            "        freed = await self._collector.collect(give_up",
            "        time.sleep(1.5)\n        freed = await self._collector.collect(give_up",
        ),
        tests=GUARD,
        says="the guard kept everybody waiting",
    ),
    plant(
        "guard-always",
        "Better too often.",
        ("memory.py", "SOFT, CLEAR = 0.90, 0.80", "SOFT, CLEAR = 0.005, 0.004"),
        tests=GUARD,
        says="the guard must not cry before memory is short",
    ),
    plant(
        "guard-never-refuses",
        "We never turn a customer away.",
        ("memory.py", "        self.refusing = use.needed >= HARD or", "        self.refusing = False and"),
        tests=REFUSES,
        says="work is not refused",
    ),
    plant(
        "guard-refuses-health",
        "If it is short of memory it is not healthy.",
        (
            "problems.py",
            'ESSENTIAL = ("/health", "/livez", "/readyz", "/api/db-cleanup")',
            'ESSENTIAL = ("/livez", "/readyz", "/api/db-cleanup")',
        ),
        tests=REFUSES,
        says="/health is needed most when memory is short",
    ),
    plant(
        "out-of-memory-is-500",
        "MemoryError can't be handled.",
        ("problems.py", "        except MemoryError:\n", "        except FileNotFoundError:\n"),
        tests=NO_MEMORY,
        says="a lack of memory is 503",
    ),
    plant(
        "out-of-memory-ends-it",
        "Let the supervisor start it again.",
        (
            "problems.py",
            '            log.error("out of memory while answering a request")\n',
            "            import os\n\n            os._exit(137)\n",
        ),
        tests=NO_MEMORY,
        says="the process did not survive",
    ),
    plant(
        "statistics-of-arenas",
        "External is what malloc has.",
        ("memory.py", "    return int(info.uordblks + info.hblkhd)", "    return int(info.hblkhd)"),
        tests=GUARD,
        says="External grew by",
    ),
    plant(
        "garbage-never-collected",
        "Python does that by itself.",
        ("monitor.py", "        if self._collector.worthwhile():\n", "        if False:\n"),
        tests=GARBAGE,
        says="nothing is collected",
    ),
)

HEALTH_ROUTES = (
    plant(
        "health-asks-postgres",
        "Healthy means that the database answers.",
        (
            "routes.py",
            "        return JSONResponse(self._health.healthy(), headers=NO_STORE)",
            '        await self._cleanup._database.read("SELECT 1")\n        return JSONResponse(self._health.healthy(), headers=NO_STORE)',
        ),
        tests=f"{HEALTH}[postgres hangs]",
        says="/health",
    ),
    plant(
        "health-takes-a-connection",
        "A slot that is free proves that the pool is well.",
        (
            "routes.py",
            "        return JSONResponse(self._health.healthy(), headers=NO_STORE)",
            "        slot = await self._cleanup._database._take_slot()\n        slot()\n        return JSONResponse(self._health.healthy(), headers=NO_STORE)",
        ),
        tests=STARVED,
        says="a health route waits for the pool",
    ),
    plant(
        "health-asks-redis",
        "Just a quick ping.",
        (
            "routes.py",
            "        return JSONResponse(self._health.healthy(), headers=NO_STORE)",
            "        from contextlib import suppress\n\n        from redis.asyncio import Redis\n\n        with suppress(Exception):\n            async with Redis.from_url(self._settings.redis_url or '', socket_timeout=1) as client:\n                await client.ping()\n        return JSONResponse(self._health.healthy(), headers=NO_STORE)",
        ),
        tests=f"{HEALTH}[redis hangs]",
        says="/health waits",
    ),
    plant(
        "health-waits-for-a-lock",
        "See that nobody is just looking.",
        (
            "routes.py",
            "        return JSONResponse(self._health.healthy(), headers=NO_STORE)",
            "        async with self._health._watch._lock:\n            return JSONResponse(self._health.healthy(), headers=NO_STORE)",
        ),
        tests=f"{HEALTH}[postgres hangs]",
        says="/health waits",
    ),
    plant(
        "health-says-more",
        "One more field does no harm.",
        (
            "health.py",
            '            "status": "healthy",\n',
            '            "status": "healthy",\n            "version": "1.0",\n',
        ),
        tests=f"{HEALTH}[redis refuses]",
        says="/health answers in another form",
    ),
    plant(
        "health-ready-as-text",
        'true or "true", who cares?',
        (
            "health.py",
            '"nextReady": not self._lifecycle.draining',
            '"nextReady": str(not self._lifecycle.draining).lower()',
        ),
        tests=f"{HEALTH}[redis refuses]",
        says="/health answers in another form",
    ),
    plant(
        "health-uptime-in-milliseconds",
        "JavaScript counts in milliseconds.",
        (
            "health.py",
            "round(self._clock() - self._started_at, 9)",
            "round(1000 * (self._clock() - self._started_at), 9)",
        ),
        tests=TIME,
        says="uptime is in seconds",
    ),
    plant(
        "health-local-time",
        "The server runs on UTC anyway.",
        (
            "health.py",
            '    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")',
            '    return datetime.now().isoformat(timespec="milliseconds") + "Z"',
        ),
        tests=TIME,
        says="not the present time in UTC",
    ),
    plant(
        "health-remembered",
        "It is asked every second, so keep the answer.",
        (
            "health.py",
            '        return {\n            "status": "healthy",',
            '        self._kept = getattr(self, "_kept", None) or {\n            "status": "healthy",',
        ),
        (
            "health.py",
            '            "uptime": round(self._clock() - self._started_at, 9),\n        }\n',
            '            "uptime": round(self._clock() - self._started_at, 9),\n        }\n        return self._kept\n',
        ),
        tests=TIME,
        says="/health answers with an old answer",
    ),
    plant(
        "health-may-be-stored",
        "Headers cost bytes.",
        ("routes.py", 'NO_STORE = {"Cache-Control": "no-store"}', "NO_STORE: dict[str, str] = {}"),
        tests=TIME,
        says="may be stored",
    ),
    plant(
        "alive-needs-postgres",
        "What is a service without its database?",
        (
            "routes.py",
            '        return JSONResponse({"status": "alive"}, headers=NO_STORE)',
            '        return JSONResponse({"status": "alive"}, 200 if self._health.ready()[0] else 503, headers=NO_STORE)',
        ),
        tests=f"{HEALTH}[postgres killed]",
        says="/livez depends on something that is broken",
    ),
)

CLEANUP = (
    plant(
        "cleanup-does-nothing",
        "asyncpg looks after its connections.",
        (
            "cleanup.py",
            "        leaked = self._database.sweep_leaked()\n        idle_closed, ended",
            "        return Cleaned(0, 0, 0, 0.0)\n        leaked = self._database.sweep_leaked()\n        idle_closed, ended",
        ),
        tests=(ZOMBIE, RIGHTS),
        says="zombie",
    ),
    plant(
        "cleanup-claims",
        "It will have done something.",
        (
            "cleanup.py",
            "        leaked = self._database.sweep_leaked()\n        idle_closed, ended",
            "        return Cleaned(1, 0, 2, 3.5)\n        leaked = self._database.sweep_leaked()\n        idle_closed, ended",
        ),
        tests=(ZOMBIE, RIGHTS),
        says="zombie",
    ),
    plant(
        "cleanup-counts-wrong",
        "At least one, to look useful.",
        (
            "cleanup.py",
            "        return Cleaned(idle_closed, len(leaked), ended,",
            "        return Cleaned(idle_closed, len(leaked), ended + 1,",
        ),
        tests=ZOMBIE,
        says="the cleanup claims",
    ),
    plant(
        "cleanup-leaves-statements",
        "What is active is alive.",
        (
            "watch.py",
            "              OR state = 'active' AND clock_timestamp() - query_start > make_interval(secs => $3)\n",
            "",
        ),
        tests=ORPHAN,
        says="Postgres still works for a process that is gone",
    ),
    plant(
        "cleanup-ends-idle-replicas",
        "Idle is idle.",
        (
            "watch.py",
            "state = 'idle' AND clock_timestamp() - state_change > make_interval(secs => $4)",
            "state = 'idle' AND $4 > 0",
        ),
        tests=ZOMBIE,
        says="another instance, which may well be alive",
    ),
    plant(
        "cleanup-ends-its-own",
        "Nobody uses those at the moment.",
        (
            "watch.py",
            "(application_name = $1 AND NOT pid = ANY($2)\n         AND clock_timestamp() - backend_start > make_interval(secs => $3))",
            "(application_name = $1 AND (state = 'idle' OR NOT pid = ANY($2)))",
        ),
        tests=ZOMBIE,
        says="healthy connections of its own pool",
    ),
    plant(
        "cleanup-ends-namesakes",
        "All of ours begin with service.",
        ("watch.py", "application_name LIKE 'service:%'", "application_name LIKE 'service%'"),
        tests=ZOMBIE,
        says="a session of service-desk",
    ),
    plant(
        "cleanup-ends-strangers",
        "Idle in transaction is always wrong.",
        ("watch.py", "((application_name LIKE 'service:%' AND application_name <> $1\n", "((application_name <> $1\n"),
        ("watch.py", "WHERE pid = ANY($1) AND application_name LIKE 'service:%'", "WHERE pid = ANY($1)"),
        tests=(ZOMBIE, SWEPT),
        says="none of the service's",
    ),
    plant(
        "cleanup-for-everybody",
        "It is an internal address.",
        ("routes.py", "        refused = refusal(", "        refused = None and refusal("),
        tests=RIGHTS,
        says="a caller from elsewhere without the token may clean up",
    ),
    plant(
        "cleanup-believes-headers",
        "We are behind a proxy.",
        (
            "routes.py",
            "        peer = request.client.host if request.client else None",
            '        peer = request.headers.get("x-forwarded-for") or (request.client.host if request.client else None)',
        ),
        tests=RIGHTS,
        says="a caller from elsewhere without the token may clean up",
    ),
    plant(
        "cleanup-any-token",
        "A token was sent.",
        ("cleanup.py", "    return None if right else 403", "    return None if right or token else 403"),
        tests=RIGHTS,
        says="a caller from elsewhere without the token may clean up",
    ),
    plant(
        "cleanup-without-a-token-for-everybody",
        "Who sets no token needs no lock.",
        ("cleanup.py", "right = expected is not None and", "right = expected is None or"),
        tests="test_cleanup.py::test_where_no_token_is_set_nobody_from_elsewhere_may_clean_up",
        says="CLEANUP_TOKEN is not set, and a caller from elsewhere may clean up",
    ),
    plant(
        "cleanup-first-then-asks",
        "The check can wait.",
        (
            "routes.py",
            "        refused = refusal(",
            "        await self._cleanup.run(least_interval=0)\n        refused = refusal(",
        ),
        tests=RIGHTS,
        says="was refused, and the cleanup ran nevertheless",
    ),
    plant(
        "cleanup-as-often-as-you-like",
        "It does no harm.",
        ("cleanup.py", "                raise TooSoon(wait)", "                pass"),
        tests=ONE_CLEANUP,
        says="a cleanup right after the last one is refused",
    ),
    plant(
        "cleanup-always-success",
        "It was triggered, wasn't it?",
        ("cleanup.py", "            if not leaked and not idle_closed:\n", "            if False:\n"),
        tests=NOTHING,
        says="it claims success",
    ),
    plant(
        "cleanup-takes-its-time",
        "Better thorough than fast.",
        ("cleanup.py", "SERVER_SECONDS = 1.3", "SERVER_SECONDS = 30.0"),
        ("watch.py", "STILL = 0.25", "STILL = 3.0"),
        tests=ZOMBIE,
        says="the cleanup took",
    ),
    plant(
        "cleanup-collects-nothing",
        "Python does that by itself.",
        ("cleanup.py", "        freed = await self._collector.collect()\n", "        freed = Freed(0, 0, 0, 0.0)\n"),
        ("cleanup.py", "from .memory import MIB, Collector", "from .memory import MIB, Collector, Freed"),
        tests=RIGHTS,
        says="has collected no garbage",
    ),
    plant(
        "cleanup-side-by-side",
        "Two may clean up at the same time.",
        ("cleanup.py", "        if self._running is None:\n", "        if not self._last < 0:\n"),
        (
            "cleanup.py",
            "            wait = self._last",
            "            pass\n        if True:\n            wait = self._last",
        ),
        tests=ONE_CLEANUP,
        says="cleanups ran side by side",
    ),
    plant(
        "cleanup-leaves-the-dead",
        "They will be closed when they are used.",
        ("cleanup.py", "            self._database.sweep_dead(),\n", "            asyncio.sleep(0, 0),\n"),
        tests=DEAD,
        says="503",
    ),
    plant(
        "cleanup-only-when-asked",
        "There is an endpoint for that, and a check.",
        (
            "monitor.py",
            "            partial(every, settings.cleanup_interval, self.clean_up, clock),\n",
            "",
        ),
        tests="test_cleanup.py::test_from_time_to_time_it_cleans_up_unasked",
        says="nobody cleans up unasked",
    ),
    plant(
        "cleanup-again-in-a-second",
        "A client will find out when it may.",
        ("routes.py", "retry_after=error.retry_after)\n        content", "retry_after=1)\n        content"),
        tests="test_cleanup.py::test_many_who_ask_at_once_get_one_cleanup_and_the_next_has_to_wait",
        says="it says to come again after 1 s",
    ),
    plant(
        "cleanup-invents-what-it-freed",
        "About twelve, as in the log of that night.",
        ("cleanup.py", "round((freed.heap + freed.external) / MIB, 2)", "12.22"),
        tests="test_cleanup.py::test_many_who_ask_at_once_get_one_cleanup_and_the_next_has_to_wait",
        says="it claims to have freed 12.22 MB",
    ),
    plant(
        "cleanup-one-name-for-all",
        "A name that changes is hard to search for.",
        ("database.py", 'f"service:{boot_id}"', '"service:main"'),
        ("watch.py", 'f"service:{boot_id}"', '"service:main"'),
        tests="test_cleanup.py::test_each_process_gives_its_sessions_a_name_of_its_own",
        says="a cleanup takes one's for the other's",
    ),
    plant(
        "cleanup-every-six-hours-only",
        "There is an endpoint for that.",
        (
            "monitor.py",
            "            partial(every, settings.db_pool_check_interval, self._cleanup.sweep, clock),\n",
            "",
        ),
        tests=SWEPT,
        says="a zombie outlives the checks of the pool",
    ),
)

LIFE = (
    plant(
        "stop-at-once",
        "Clients try again.",
        (
            "__main__.py",
            "        await app.state.lifecycle.finish(within=settings.shutdown_grace / 2)\n",
            "        os._exit(0)\n",
        ),
        tests=STOP,
        says="told to stop",
    ),
    plant(
        "stop-drops-requests",
        "Be quick about it.",
        (
            "__main__.py",
            "        await app.state.lifecycle.finish(within=settings.shutdown_grace / 2)\n",
            "        await asyncio.sleep(0.3)\n        server.force_exit = True\n",
        ),
        tests=STOP,
        says="stopped while requests were under way",
    ),
    plant(
        "stop-ignored",
        "Nothing may interrupt us.",
        (
            "__main__.py",
            "        loop.add_signal_handler(each, on_signal)",
            "        loop.add_signal_handler(each, lambda: None)",
        ),
        tests=STOP,
        says="told to stop",
    ),
    plant(
        "stop-still-ready",
        "We still answer, so we are ready.",
        ("__main__.py", "        app.state.lifecycle.draining = True\n", ""),
        tests=STOP,
        says="it does not tell that it is no longer ready",
    ),
    plant(
        "stop-not-alive",
        "It is on its way out, so it is not alive.",
        (
            "routes.py",
            'return JSONResponse({"status": "alive"}, headers=NO_STORE)',
            'return JSONResponse({"status": "alive"}, 503 if self._health._lifecycle.draining else 200, headers=NO_STORE)',
        ),
        tests=STOP,
        says="an orchestrator would kill it now",
    ),
    plant(
        "stop-waits-for-ever",
        "Every request is sacred.",
        (
            "__main__.py",
            "        server.config.timeout_graceful_shutdown = left",
            "        server.config.timeout_graceful_shutdown = None and left",
        ),
        ("__main__.py", "finish(within=settings.shutdown_grace / 2)", "finish(within=3600)"),
        tests=STOP_TWICE,
        says="for longer than its SHUTDOWN_GRACE",
    ),
    plant(
        "stop-twice-ignored",
        "Once is enough.",
        (
            "__main__.py",
            "            loop.remove_signal_handler(each)\n            signal.signal(each, signal.SIG_DFL)  # a second one ends the process at once\n",
            "            loop.add_signal_handler(each, lambda: None)\n",
        ),
        tests=STOP_TWICE,
        says="told to stop twice",
    ),
    plant(
        "defaults-of-the-night",
        "20 connections were always enough.",
        ("settings.py", "db_pool_max: int = 100", "db_pool_max: int = 20"),
        tests=DEFAULTS,
        says="DB_POOL_MAX is 20 where nobody sets it",
    ),
    plant(
        "bodies-without-bound",
        "Marketing has long texts.",
        ("routes.py", "LARGEST_BODY = 1 << 20", "LARGEST_BODY = 1 << 30"),
        tests=TOO_LARGE,
        says="bodies have no bound",
    ),
    plant(
        "bodies-few-at-a-time",
        "Ten at once are enough; bodies take memory.",
        ("routes.py", "BODY_SECONDS = 10.0", "BODY_SECONDS = 10.0\nFEW = asyncio.Semaphore(10)"),
        ("routes.py", "async with asyncio.timeout(BODY_SECONDS)", "async with FEW, asyncio.timeout(BODY_SECONDS)"),
        tests=SLOW_CLIENTS,
        says="clients are slow, and others",
    ),
    plant(
        "secret-printed",
        "Just to see where it connects to.",
        (
            "__main__.py",
            "    memory.tune()\n",
            '    sys.stderr.write(f"connecting to {settings.database_url}\\n")\n    memory.tune()\n',
        ),
        tests=TOLD,
        says="tells a secret",
    ),
    plant(
        "secret-in-an-answer",
        "So that support can see it.",
        ("database.py", '("The database cannot answer now.")', '(f"{self._settings.database_url} cannot answer now.")'),
        tests=TOLD,
        says="tells a secret",
    ),
    plant(
        "secret-in-a-start-error",
        "Say what was wrong with it.",
        (
            "settings.py",
            "            raise SettingsError(name.upper(), expected)",
            '            raise SettingsError(name.upper(), f"{expected}, got {text}")',
        ),
        tests=WRONG_SETTING,
        says="tells a secret",
    ),
    plant(
        "secret-in-json-logs",
        "The console format is redacted, that will do.",
        ("logs.py", '"message": self._redact(record.getMessage())', '"message": record.getMessage()'),
        (
            "redis_store.py",
            'in-memory cache: %s", reason)',
            'in-memory cache: %s (%s)", reason, self._settings.redis_url)',
        ),
        tests=TOLD,
        says="the log (json) tells a secret",
    ),
    plant(
        "background-loop-fails-silently",
        "Let it fail.",
        (
            "monitor.py",
            "        percent = self._database.usage.percent()",
            '        percent = self._database.usage.percent("pool")  # type: ignore[call-arg]',
        ),
        tests=STARVED,
        says="no alert was raised",
    ),
)

PLANTS = (*REDIS, *CACHE, *POSTGRES, *MEMORY, *HEALTH_ROUTES, *CLEANUP, *LIFE)
