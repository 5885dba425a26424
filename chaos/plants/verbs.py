"""Plants that break one verb and leave the other verbs intact."""

from __future__ import annotations

from plants.plant import plant

DOUBT = "test_every_verb.py::test_no_cache_is_trusted_after_a_put_or_delete_with_unknown_outcome"
DOUBTFUL_COPY = "test_every_verb.py::test_after_a_refused_write_the_cached_copy_is_served_as_stale"
ONCE = "test_every_verb.py::test_a_put_or_delete_whose_reply_was_lost_is_not_retried"
READ_AGAIN = "test_every_verb.py::test_every_read_is_retried_when_its_session_is_terminated"
SAFE = "test_every_verb.py::test_every_write_is_acknowledged_only_after_its_wal_is_flushed"
LIST = "test_every_verb.py::test_lists_are_never_cached"
NO_POSTGRES = "test_every_verb.py::test_without_postgres_every_verb_gets_a_timely_503_and_returns_its_connection"
EXHAUSTED = "test_every_verb.py::test_an_exhausted_pool_gives_every_verb_a_timely_503"
NO_REDIS = "test_every_verb.py::test_without_redis_every_verb_succeeds_within_the_redis_budget"
SLOW_REDIS = "test_every_verb.py::test_a_slow_redis_costs_every_write_at_most_one_budget"

PLANTS = (
    plant(
        "delete-in-doubt-forgotten",
        "It was an error, so nothing was deleted.",
        (
            "http/routes.py",
            "            self._cache.mark_uncertain(campaign_id)\n            raise\n        assert created",
            "            raise\n        assert created",
        ),
        tests=DOUBT,
        message="still serves the old value",
    ),
    plant(
        "doubt-not-in-memory",
        "Redis is updated, and memory follows.",
        (
            "cache/cache.py",
            "        self.memory.mark_uncertain(key)\n        self._pending.add(key, None)",
            "        self._pending.add(key, None)",
        ),
        tests=DOUBT,
        message="still serves the old value",
    ),
    plant(
        "doubt-not-in-redis",
        "Memory is marked, that is what we read.",
        (
            "cache/cache.py",
            "        self.memory.mark_uncertain(key)\n        self._pending.add(key, None)",
            "        self.memory.mark_uncertain(key)",
        ),
        tests=DOUBT,
        message="still serves the old value",
    ),
    plant(
        "doubt-drops-the-copy",
        "What is in doubt is of no use.",
        (
            "cache/cache.py",
            "        self.memory.mark_uncertain(key)\n        self._pending.add(key, None)",
            "        self.memory.drop(key)\n        self._pending.add(key, None)",
        ),
        tests=DOUBTFUL_COPY,
        message="the copy was lost with it",
    ),
    plant(
        "doubt-only-without-redis",
        "While Redis is up, memory is not used.",
        (
            "cache/cache.py",
            "        self.memory.mark_uncertain(key)\n        self._pending.add(key, None)",
            "        if not self.redis.up:\n            self.memory.mark_uncertain(key)\n        self._pending.add(key, None)",
        ),
        tests=DOUBTFUL_COPY,
        message="is served as a hit",
    ),
    plant(
        "delete-tried-again",
        "A DELETE may be repeated according to the RFC.",
        (
            "postgres/campaigns.py",
            "        row = await self._database.write(sql, campaign_id, versions)\n",
            "        rows = await self._database.read(sql, campaign_id, versions)\n        row = rows[0] if rows else None\n",
        ),
        tests=ONCE,
        message="it was retried",
    ),
    plant(
        "change-tried-again",
        "The same text twice is the same text.",
        (
            "postgres/campaigns.py",
            '        row = await self._database.write(\n            sql, campaign_id, versions, *(fields.get(n) for n in ("name", "message", "status"))\n        )\n',
            '        rows = await self._database.read(\n            sql, campaign_id, versions, *(fields.get(n) for n in ("name", "message", "status"))\n        )\n        row = rows[0] if rows else None\n',
        ),
        tests=ONCE,
        message="happened twice",
    ),
    plant(
        "get-one-given-up",
        "One row needs no list: fetchrow is enough.",
        (
            "postgres/campaigns.py",
            "        rows = await self._database.read(sql, campaign_id)\n        return _campaign(rows[0]) if rows else None",
            "        row = await self._database.write(sql, campaign_id)\n        return None if row is None else _campaign(row)",
        ),
        tests=READ_AGAIN,
        message="GET one",
    ),
    plant(
        "delete-not-flushed",
        "A lost delete can be repeated.",
        (
            "postgres/campaigns.py",
            "            DELETE FROM campaigns\n             WHERE id = $1 AND version = ANY(coalesce($2::bigint[], ARRAY[version::bigint]))\n         RETURNING created_at",
            "            WITH quick AS (SELECT set_config('synchronous_commit', 'off', true)) DELETE FROM campaigns\n             WHERE id = $1 AND version = ANY(coalesce($2::bigint[], ARRAY[version::bigint]))\n         RETURNING created_at, (SELECT * FROM quick)",
        ),
        tests=SAFE,
        message="acknowledged DELETEs",
    ),
    plant(
        "list-remembered",
        "An old page is better than none.",
        (
            "postgres/campaigns.py",
            "        return [_campaign(row) for row in await self._database.read(sql, after, limit)]",
            "        from ..errors import Unavailable\n\n        try:\n            self._last = [_campaign(row) for row in await self._database.read(sql, after, limit)]\n        except Unavailable:\n            pass\n        return self._last",
        ),
        tests=LIST,
        message="without Postgres the list is unknown",
    ),
    plant(
        "list-kept-for-a-second",
        "A second is not noticed.",
        (
            "postgres/campaigns.py",
            "        return [_campaign(row) for row in await self._database.read(sql, after, limit)]",
            '        import time\n\n        if time.monotonic() > getattr(self, "_until", 0.0):\n            self._page = [_campaign(row) for row in await self._database.read(sql, after, limit)]\n            self._until = time.monotonic() + 1\n        return self._page',
        ),
        tests=LIST,
        message="the list",
    ),
    plant(
        "list-empty-without-postgres",
        "No rows, no page.",
        (
            "postgres/campaigns.py",
            "        return [_campaign(row) for row in await self._database.read(sql, after, limit)]",
            "        from ..errors import Unavailable\n\n        try:\n            rows = await self._database.read(sql, after, limit)\n        except Unavailable:\n            rows = []\n        return [_campaign(row) for row in rows]",
        ),
        tests=NO_POSTGRES,
        message="GET list gets 200",
    ),
    plant(
        "reads-wait-longer",
        "Reads do no harm; let them take their time.",
        (
            "postgres/pool.py",
            "asyncio.timeout(min(self._settings.db_command_timeout, deadline - self._clock()))",
            "asyncio.timeout(30)",
        ),
        (
            "postgres/pool.py",
            "await getattr(connection, method)(sql, *args)",
            'await getattr(connection, method)(sql, *args, timeout=30 if method == "fetch" else None)',
        ),
        tests=NO_POSTGRES,
        message="GET",
    ),
    plant(
        "reads-wait-for-their-turn",
        "Writes first; a read can wait until there is room.",
        (
            "postgres/pool.py",
            '            rows: Sequence[Mapping[str, Any]] = await self._run("fetch", sql, args, deadline, worker=worker)\n        except ConnectionLost:',
            '            while self._slots.locked():\n                await asyncio.sleep(0.05)\n            rows: Sequence[Mapping[str, Any]] = await self._run("fetch", sql, args, deadline, worker=worker)\n        except ConnectionLost:',
        ),
        tests=EXHAUSTED,
        message="GET",
    ),
    plant(
        "reads-lose-their-connection",
        "After a time-out the connection is not to be trusted.",
        (
            "postgres/pool.py",
            '            rows = await self._run("fetch", sql, args, deadline, worker=worker)\n        return rows',
            '            rows = await self._run("fetch", sql, args, deadline, worker=worker)\n        except Unavailable as error:\n            if isinstance(error.__cause__, TimeoutError):\n                await self._acquire_slot(1.0)\n            raise\n        return rows',
        ),
        tests=NO_POSTGRES,
        message="connections of the pool are lost",
    ),
    plant(
        "cleanup-waits-for-the-pool",
        "One statement more or less.",
        (
            "postgres/cleanup.py",
            "        leaked = self._database.sweep_leaked()\n        idle_closed, terminated",
            '        await self._database.read("SELECT 1")\n        leaked = self._database.sweep_leaked()\n        idle_closed, terminated',
        ),
        tests=EXHAUSTED,
        message="all connections are in use, and a cleanup gets",
    ),
    plant(
        "delete-waits-for-redis",
        "Deleted must be deleted everywhere.",
        (
            "cache/cache.py",
            "            await self.redis.write(write, TimeBudget(self._budget))\n        except RedisUnavailable:\n            return\n",
            "            await self.redis.write(write, TimeBudget(2 if stamp[1] == DELETED_VERSION else self._budget))\n        except RedisUnavailable:\n            return\n",
        ),
        tests=NO_REDIS,
        message="DELETE takes",
    ),
    plant(
        "writes-wait-for-redis",
        "A write is worth a second.",
        (
            "cache/cache.py",
            "            await self.redis.write(write, TimeBudget(self._budget))\n        except RedisUnavailable:\n            return\n",
            "            await self.redis.write(write, TimeBudget(10 * self._budget))\n        except RedisUnavailable:\n            return\n",
        ),
        tests=NO_REDIS,
        message="takes",
    ),
    plant(
        "writes-need-redis",
        "What cannot be cached must not be written.",
        (
            "cache/cache.py",
            "            await self.redis.write(write, TimeBudget(self._budget))\n        except RedisUnavailable:\n            return\n",
            '            await self.redis.write(write, TimeBudget(self._budget))\n        except RedisUnavailable as error:\n            raise Unavailable("The cache cannot be updated.") from error\n',
        ),
        tests=NO_REDIS,
        message="gets 503",
    ),
    plant(
        "writes-read-redis-first",
        "See what is there before it is replaced.",
        (
            "cache/cache.py",
            "            await self.redis.write(write, TimeBudget(self._budget))\n        except RedisUnavailable:\n            return\n",
            "            await self.redis.get(key, TimeBudget(self._budget))\n            await self.redis.write(write, TimeBudget(self._budget))\n        except RedisUnavailable:\n            return\n",
        ),
        tests=SLOW_REDIS,
        message="its budget",
    ),
)
