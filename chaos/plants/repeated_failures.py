"""Plants that show only after an earlier failure."""

from __future__ import annotations

from plants.plant import plant

CLEANUP = "test_repeated_failures.py::test_a_cleanup_works_after_two_that_failed"
UNASKED = "test_repeated_failures.py::test_the_periodic_cleanup_continues_after_failed_runs"
CHECKS = "test_repeated_failures.py::test_memory_checks_resume_after_they_could_not_measure"
MEMORY = "test_repeated_failures.py::test_a_second_memory_shortage_is_logged_sheds_load_and_restores_the_reserve_like_the_first"
LACK = "test_repeated_failures.py::test_each_lack_of_memory_is_logged_at_its_begin_and_at_its_end"
SILENT = "test_repeated_failures.py::test_silent_connections_cost_one_statement_timeout_each_time_they_occur"
POSTGRES = "test_repeated_failures.py::test_every_outage_of_postgres_is_logged_once_and_ends_when_postgres_is_back"
UPSTASH = "test_repeated_failures.py::test_upstash_is_used_again_after_each_outage_and_never_replaced"
STOP = "test_repeated_failures.py::test_sigterm_ends_the_service_cleanly_during_and_after_outages"

PLANTS = (
    plant(
        "cleanup-stuck-after-a-failure",
        "A cleanup always comes to an end.",
        (
            "postgres/cleanup.py",
            "            self._last_run = self._clock()\n            result.set_result(cleaned)\n        finally:\n            self._running = None",
            "            self._last_run = self._clock()\n            result.set_result(cleaned)\n            self._running = None",
        ),
        tests=CLEANUP,
        message="the next one gets 503",
    ),
    plant(
        "cleanup-that-failed-counts",
        "It ran, did it not?",
        (
            "postgres/cleanup.py",
            "        finally:\n            self._running = None",
            "        finally:\n            self._last_run = self._clock()\n            self._running = None",
        ),
        tests=CLEANUP,
        message="429",
    ),
    plant(
        "periodic-cleanup-gives-up",
        "It fails each time; leave it.",
        (
            "monitor.py",
            '        except Unavailable as error:\n            pool_log.warning("Scheduled cleanup failed: %s", error)',
            '        except Unavailable as error:\n            pool_log.warning("Scheduled cleanup failed: %s", error)\n            self._failed = getattr(self, "_failed", 0) + 1\n            if self._failed > 1:\n                await asyncio.Event().wait()',
        ),
        tests=UNASKED,
        message="no periodic cleanup runs",
    ),
    plant(
        "check-ends-without-descriptors",
        "Without descriptors there is nothing to measure any more.",
        (
            "memory/usage.py",
            "            return _last_reading[0]\n",
            "            raise SystemError('nothing to read')\n",
        ),
        (
            "monitor.py",
            "        try:\n            await check()\n        except Exception as error:",
            "        try:\n            await check()\n        except SystemError:\n            await asyncio.Event().wait()\n        except Exception as error:",
        ),
        tests=CHECKS,
        message="do not resume",
    ),
    plant(
        "guard-once-in-a-life",
        "Operators know by now.",
        (
            "memory/guard.py",
            "                self.in_episode = False\n        if usage.ratio",
            "                pass\n        if usage.ratio",
        ),
        tests=MEMORY,
        message="episodes",
    ),
    plant(
        "reserve-once-in-a-life",
        "It was for an emergency, and that was it.",
        (
            "monitor.py",
            "        elif usage.needed_ratio < CALM_BELOW:\n            self._collector.hold_reserve()\n",
            "",
        ),
        tests=MEMORY,
        message="the reserve is not held again",
    ),
    plant(
        "guard-refuses-once",
        "Refusing did not help the first time.",
        (
            "memory/guard.py",
            "        self.refusing = usage.needed_ratio >= REFUSE_FROM or (self.refusing and usage.needed_ratio >= SERVE_BELOW)",
            '        was = self.refusing\n        self.refusing = not getattr(self, "_done", False) and (usage.needed_ratio >= REFUSE_FROM or (self.refusing and usage.needed_ratio >= SERVE_BELOW))\n        self._done = getattr(self, "_done", False) or (was and not self.refusing)',
        ),
        tests=MEMORY,
        message="load is not shed",
    ),
    plant(
        "guard-refuses-writes-only",
        "Reads take no memory.",
        (
            "http/load_shedding.py",
            '        if self._guard.refusing and scope["path"] not in ESSENTIAL_PATHS:',
            '        if self._guard.refusing and scope["method"] != "GET" and scope["path"] not in ESSENTIAL_PATHS:',
        ),
        tests=MEMORY,
        message="GET one gets 200",
    ),
    plant(
        "pool-distrusts-once",
        "It was the network, and that is mended.",
        (
            "postgres/pool.py",
            "        if generation == self._generation:\n",
            "        if generation == self._generation == 0:\n",
        ),
        tests=SILENT,
        message="its neighbours were trusted",
    ),
    plant(
        "postgres-recovery-logged-once",
        "Good news is logged once.",
        (
            "postgres/monitor.py",
            '            if state == "up":\n                log.info("Postgres connected',
            '            if state == "up" and not getattr(self, "_well", False):\n                self._well = True\n                log.info("Postgres connected',
        ),
        tests=POSTGRES,
        message="one line for each change of state, alternating",
    ),
    plant(
        "postgres-probed-less-and-less",
        "Do not hammer it.",
        (
            "postgres/monitor.py",
            "INTERVAL if self._status.up else INTERVAL_DOWN\n",
            "INTERVAL if self._status.up else self._longer()\n",
        ),
        (
            "postgres/monitor.py",
            "    def _set_state(self,",
            '    def _longer(self) -> float:\n        self._wait = 3 * getattr(self, "_wait", INTERVAL_DOWN)\n        return self._wait\n\n    def _set_state(self,',
        ),
        (
            "postgres/monitor.py",
            "                        await self._status.wake.wait()\n",
            "                        await (self._status.wake.wait() if self._status.up else asyncio.Event().wait())\n",
        ),
        tests=POSTGRES,
        message="the service is not ready",
    ),
    plant(
        "upstash-replaced-after-the-second-outage",
        "REDIS_URL is set for that case.",
        (
            "cache/redis_store.py",
            "        if settings.upstash_redis_rest_url and settings.upstash_redis_rest_token:\n            return Redis(",
            "        if settings.upstash_redis_rest_url and settings.upstash_redis_rest_token and self._breaker.outages < 2:\n            return Redis(",
        ),
        (
            "cache/redis_store.py",
            "            if self._tls:\n                await self._share_tls(client)",
            "            if self._tls and self._breaker.outages < 2:\n                await self._share_tls(client)",
        ),
        tests=UPSTASH,
        message="in its place",
    ),
    plant(
        "upstash-back-only-once",
        "Each handshake costs money.",
        (
            "cache/redis_store.py",
            "            if self._tls:\n                await self._share_tls(client)",
            '            if self._tls:\n                if self._breaker.outages > 1:\n                    raise ConnectionError("once is enough")\n                await self._share_tls(client)',
        ),
        tests=UPSTASH,
        message="is not used",
    ),
    plant(
        "stop-waits-for-redis",
        "Close in order.",
        (
            "cache/redis_store.py",
            "            with contextlib.suppress(Exception):\n                async with asyncio.timeout(PROBE_TIMEOUT):\n                    await client.connection_pool.disconnect(inuse_connections=True)",
            "            await client.ping()\n            await client.connection_pool.disconnect(inuse_connections=True)",
        ),
        tests=STOP,
        message="SIGTERM during outages",
    ),
    plant(
        "guard-refuses-in-silence-later",
        "An operator knows by then.",
        (
            "monitor.py",
            "        if self._refusal_logged:\n            memory_log.warning(",
            (
                "        if self._refusal_logged and self._guard.episodes > 1:\n            return\n"
                "        if self._refusal_logged:\n            memory_log.warning("
            ),
        ),
        tests=MEMORY,
        message="refusing work that is not essential:' 1 times",
    ),
    plant(
        "guard-resolved-once-in-a-life",
        "An operator knows by then.",
        (
            "monitor.py",
            "        if was_in_episode and not self._guard.in_episode:",
            "        if was_in_episode and not self._guard.in_episode and self._guard.episodes == 1:",
        ),
        tests=MEMORY,
        message="usage is back to normal:' 1 times",
    ),
    plant(
        "guard-serves-again-in-silence-later",
        "An operator knows by then.",
        (
            "monitor.py",
            '        else:\n            memory_log.info("[Memory] RESOLVED: work is served again:',
            '        elif self._guard.episodes == 1:\n            memory_log.info("[Memory] RESOLVED: work is served again:',
        ),
        tests=MEMORY,
        message="RESOLVED: work is served again:' 1 times",
    ),
    plant(
        "no-memory-over-in-silence",
        "Only descriptors have to be freed.",
        (
            "shortages.py",
            '                log.info("resolved: %s", END[resource])',
            '                if resource != "memory":\n                    log.info("resolved: %s", END[resource])',
        ),
        tests=LACK,
        message="there is memory again after shortage 1, and no line",
    ),
    plant(
        "no-memory-logged-once-in-a-life",
        "An operator knows by then.",
        (
            "shortages.py",
            "        if resource not in self._failed_at:\n            log.error(",
            "        if resource not in self._failed_at and resource in BEGIN:\n            log.error(",
        ),
        (
            "shortages.py",
            '                log.info("resolved: %s", END[resource])',
            '                log.info("resolved: %s", END[resource])\n                BEGIN.pop(resource, None)',
        ),
        tests=LACK,
        message="requests find no memory (shortage 2), and no line",
    ),
    plant(
        "no-memory-over-logged-once-in-a-life",
        "An operator knows by then.",
        (
            "shortages.py",
            '                log.info("resolved: %s", END[resource])',
            '                if resource in END:\n                    log.info("resolved: %s", END.pop(resource))',
        ),
        tests=LACK,
        message="there is memory again after shortage 2, and no line",
    ),
    plant(
        "postgres-down-without-a-reason",
        "The reason is in /readyz.",
        (
            "postgres/monitor.py",
            'log.warning("Postgres connection failed: %s", detail)',
            'log.warning("Postgres connection failed: %s", state)',
        ),
        tests=POSTGRES,
        message="as the reasons of outages of Postgres",
    ),
)
