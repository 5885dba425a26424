"""Plants in the service's behaviour while Redis is down."""

from __future__ import annotations

from plants.plant import BOOT, SLOW_REDIS, TWICE, plant

LONG = "test_redis_gone.py::test_a_long_outage_of_redis_costs_one_log_line_and_one_prober"
KINDS = "test_redis_gone.py::test_successive_outages_of_redis_of_every_kind_are_survived_without_leaks"
COMES_AND_GOES = "test_redis_gone.py::test_flapping_redis_is_used_again_only_after_a_trial"
UNDONE = "test_redis_gone.py::test_writes_during_an_outage_are_not_undone_by_old_values_in_redis"
REDIS_ERRORS = "test_redis_errors.py::test_a_redis_that_replies_with_errors_is_treated_as_down"
NEWER = "test_cache.py::test_pending_writes_do_not_overwrite_a_newer_version_in_redis"
UPSTASH = "test_secrets.py::test_upstash_has_priority_and_is_reached_only_over_tls"

PLANTS = (
    plant(
        "redis-no-fallback",
        "Redis is part of the service; if it is down, so are we.",
        (
            "cache/cache.py",
            "        except RedisUnavailable:\n            return None\n",
            "        except RedisUnavailable as error:\n            raise Unavailable('The cache is down.') from error\n",
        ),
        tests=f"{TWICE}[refusing]",
        message="reads failed while Redis was down",
    ),
    plant(
        "redis-no-breaker",
        "Every request may try Redis on its own.",
        (
            "cache/redis_store.py",
            "        return self._breaker.up\n",
            "        return True\n",
        ),
        (
            "cache/redis_store.py",
            "if client is None or not self._breaker.up or budget.remaining <= 0:",
            "if client is None or budget.remaining <= 0:",
        ),
        tests=f"{TWICE}[hanging]",
        message="reads still wait for Redis long after it went down",
    ),
    plant(
        "redis-no-budget",
        "The client has its own time-outs.",
        ("cache/redis_store.py", "async with asyncio.timeout(limit), self._slots:", "async with self._slots:"),
        ("cache/redis_store.py", '"socket_timeout": None,', '"socket_timeout": 1.0,'),
        tests=f"{TWICE}[hanging]",
        message="a read took",
    ),
    plant(
        "redis-budget-per-command",
        "Each command gets its own time.",
        ("cache/redis_store.py", "            budget.remaining -= self._clock() - started", "            pass"),
        tests=SLOW_REDIS,
        message="more than its budget",
    ),
    plant(
        "redis-never-back",
        "After an outage an operator should look at it.",
        (
            "cache/redis_store.py",
            "        await self._close()\n        epoch",
            "        await self._close()\n        if self._breaker.outages:\n            return False\n        epoch",
        ),
        tests=f"{TWICE}[refusing]",
        message="the service still does not use it",
    ),
    plant(
        "redis-back-only-once",
        "Twice is no accident; give up on it then.",
        (
            "cache/redis_store.py",
            "        await self._close()\n        epoch",
            "        await self._close()\n        if self._breaker.outages > 1:\n            return False\n        epoch",
        ),
        tests=f"{TWICE}[refusing]",
        message="the service still does not use it",
    ),
    plant(
        "redis-back-after-ten-seconds",
        "No need to hammer it.",
        ("cache/circuit_breaker.py", "MIN_DELAY = 0.1\nMAX_DELAY = 0.5", "MIN_DELAY = 10.0\nMAX_DELAY = 10.0"),
        tests=f"{TWICE}[refusing]",
        message="the service still does not use it",
    ),
    plant(
        "redis-trusted-each-time",
        "It answers, so it is back.",
        ("cache/circuit_breaker.py", "return TRIAL_SECONDS if flapping else 0.0", "return 0.0"),
        tests=COMES_AND_GOES,
        message="the service flaps with it",
    ),
    plant(
        "redis-prober-dies-of-another-error",
        "Only network errors can happen here.",
        (
            "cache/redis_store.py",
            "            await self._flush_pending(client)\n        except Exception as error:  # noqa: BLE001  # every error means that Redis is still down",
            "            await self._flush_pending(client)\n        except (OSError, TimeoutError) as error:",
        ),
        tests=LONG,
        message="an unhandled error reached the log",
    ),
    plant(
        "redis-every-request-connects",
        "A request that needs Redis can reconnect.",
        (
            "cache/redis_store.py",
            "        async with self.client_within(budget) as client:\n            pipe",
            "        if not self._breaker.up:\n            await self._reconnect()\n        async with self.client_within(budget) as client:\n            pipe",
        ),
        (
            "cache/cache.py",
            '        if not self._redis_is_current(key):\n            entry = self.memory.get_fresh(key)\n            if entry is not None:\n                return CacheResult(entry, "hit", "memory")\n        flight',
            "        flight",
        ),
        (
            "cache/cache.py",
            "        if not self._redis_is_current(key):\n            return None\n",
            "        if key in self._pending:\n            return None\n",
        ),
        tests=LONG,
        message="requests retry themselves",
    ),
    plant(
        "redis-line-per-probe",
        "Then the log shows that Redis is well.",
        (
            "cache/redis_store.py",
            "            await self._flush_pending(client)\n        except Exception as error:  # noqa: BLE001  # Redis is optional",
            '            await self._flush_pending(client)\n            log.info("Redis connected successfully")\n        except Exception as error:  # noqa: BLE001  # Redis is optional',
        ),
        tests=LONG,
        message="one line for each change of state",
    ),
    plant(
        "redis-line-per-error",
        "There is never too much in a log.",
        (
            "cache/redis_store.py",
            "        if self._breaker.record_failure(reason, epoch):\n            log",
            "        opened = self._breaker.record_failure(reason, epoch)\n        log",
        ),
        (
            "cache/redis_store.py",
            'in-memory cache: %s", reason)\n            self._wake.set()',
            'in-memory cache: %s", reason)\n        if opened:\n            self._wake.set()',
        ),
        tests=LONG,
        message="not one for each error",
    ),
    plant(
        "redis-no-line-on-recovery",
        "Good news needs no line.",
        ("cache/redis_store.py", '        log.info("Redis connected successfully")\n', ""),
        tests=f"{TWICE}[refusing]",
        message="one line at the start and one for each recovery",
    ),
    plant(
        "redis-outage-writes-forgotten",
        "Redis is down, so there is nothing to write to it.",
        (
            "cache/cache.py",
            "        pending = self._pending.add(key, stamp)\n        if not self.redis.up:\n            return\n",
            "        if not self.redis.up:\n            return\n        pending = self._pending.add(key, stamp)\n",
        ),
        tests=UNDONE,
        message="came back out of Redis",
    ),
    plant(
        "redis-deleted-comes-back",
        "A deleted row will expire from Redis.",
        (
            "cache/cache.py",
            "        await self._write_through(key, (created, DELETED_VERSION))",
            "        if self.redis.up:\n            await self._write_through(key, (created, DELETED_VERSION))",
        ),
        tests=UNDONE,
        message="a deleted campaign came back out of Redis",
    ),
    plant(
        "redis-own-write-not-read",
        "The next reader fills the cache anyway.",
        (
            "cache/cache.py",
            "        self.memory.put(key, entry)\n        await self._write_through(key, entry.stamp)",
            "        await self._write_through(key, entry.stamp)",
        ),
        tests=UNDONE,
        message="a read missed the write before it",
    ),
    plant(
        "redis-older-overwrites-newer",
        "A plain SET is easier to read.",
        ("cache/redis_store.py", "    return 0\n", ""),
        tests=NEWER,
        message="has overwritten the newer one of another instance",
    ),
    plant(
        "redis-ping-is-healthy",
        "PING is the usual health check.",
        (
            "cache/redis_store.py",
            '    await client.eval(COMPARE_AND_SET, 1, "service:probe", 0, 0, "", 5000)',
            "    await client.ping()",
        ),
        tests=(f"{REDIS_ERRORS}[READONLY]", f"{REDIS_ERRORS}[OOM]"),
        message="the service treats it as healthy",
    ),
    plant(
        "redis-error-replies-crash",
        "Only connections fail.",
        (
            "cache/redis_store.py",
            "        except Exception as error:\n            had_enough_time",
            "        except (OSError, TimeoutError) as error:\n            had_enough_time",
        ),
        tests=f"{REDIS_ERRORS}[OOM]",
        message="a write fails because Redis replies OOM",
    ),
    plant(
        "redis-connections-left-behind",
        "They will be collected.",
        (
            "cache/redis_store.py",
            "                    await client.connection_pool.disconnect(inuse_connections=True)",
            "                    _KEPT.append(client)",
        ),
        (
            "cache/redis_store.py",
            "class RedisUnavailable(Exception):",
            "_KEPT: list[Any] = []\n\n\nclass RedisUnavailable(Exception):",
        ),
        tests=KINDS,
        message="connections are left open",
    ),
    plant(
        "redis-loss-is-not-ready",
        "Without Redis we are slow, so send the traffic elsewhere.",
        (
            "health.py",
            '        ready = postgres == "up" and not refusing',
            '        ready = postgres == "up" and redis and not refusing',
        ),
        tests=f"{TWICE}[refusing]",
        message="the service can serve without Redis, and /readyz denies that",
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
        message="the service exited",
    ),
    plant(
        "redis-upstash-second",
        "REDIS_URL is set, so use it.",
        (
            "cache/redis_store.py",
            "        if settings.upstash_redis_rest_url and settings.upstash_redis_rest_token:\n            return Redis(",
            "        if not settings.redis_url and settings.upstash_redis_rest_url and settings.upstash_redis_rest_token:\n            return Redis(",
        ),
        tests=UPSTASH,
        message="timed out",
    ),
    plant(
        "redis-upstash-in-clear",
        "TLS gives trouble with certificates.",
        (
            "cache/redis_store.py",
            "                ssl=True,\n                ssl_ca_certs=settings.upstash_redis_ca_file,\n",
            "",
        ),
        ("cache/redis_store.py", "            if self._tls:\n", "            if False:\n"),
        tests=UPSTASH,
        message="Upstash must be reached over TLS",
    ),
    plant(
        "metrics-outages-counted-once",
        "There was one.",
        ("cache/redis_store.py", "return self._breaker.outages", "return min(1, self._breaker.outages)"),
        tests=f"{TWICE}[refusing]",
        message="outages of Redis, and the metrics count 1",
    ),
    plant(
        "redis-down-without-a-reason",
        "Redis is down, that is the reason.",
        ("cache/redis_store.py", 'cache: %s", reason)', 'cache: %s", "it is down")'),
        tests=f"{TWICE}[refusing]",
        message="and the log names the reason 'it is down'",
    ),
)
