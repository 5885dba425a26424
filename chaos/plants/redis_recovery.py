"""Plants in the recovery of Redis and in the delivery of pending writes."""

from __future__ import annotations

from plants.plant import plant

SECOND_OUTAGE = "test_redis_recovery.py::test_an_outage_during_the_delivery_of_pending_writes_loses_none_of_them"
MEANWHILE = "test_redis_recovery.py::test_a_write_during_the_delivery_of_pending_writes_is_delivered_too"
TIME_LEFT = "test_redis_recovery.py::test_a_delivered_copy_expires_as_if_redis_had_been_up"
DELETED_ELSEWHERE = "test_redis_recovery.py::test_pending_writes_of_one_instance_do_not_undo_deletes_of_another"
LET_GO = "test_redis_recovery.py::test_pending_writes_evicted_from_memory_invalidate_the_old_copies_in_redis"
IDLE = "test_redis_recovery.py::test_redis_connections_closed_while_idle_are_not_an_outage"
ENDED = "test_redis_recovery.py::test_pending_writes_lost_at_shutdown_leave_old_copies_for_at_most_cache_ttl"
OVERFLOW = "test_redis_recovery.py::test_overflowing_pending_writes_invalidate_every_copy_in_redis"
FOREIGN = "test_redis_recovery.py::test_a_foreign_value_under_a_campaign_key_disables_caching_of_that_campaign_only"

PLANTS = (
    plant(
        "delivered-before-it-is-sent",
        "It is as good as sent.",
        (
            "cache/redis_store.py",
            "            pipe = client.pipeline(transaction=False)\n            for write in batch:\n",
            "            self._pending.acknowledge((write.key, write.stamp) for write in batch)\n            pipe = client.pipeline(transaction=False)\n            for write in batch:\n",
        ),
        tests=SECOND_OUTAGE,
        message="the write was lost",
    ),
    plant(
        "delivered-once-and-no-more",
        "What could not be delivered is old by now.",
        (
            "cache/redis_store.py",
            "            await self._flush_pending(client)\n        except Exception as error:  # noqa: BLE001  # every error means that Redis is still down\n",
            "            await self._flush_pending(client)\n        except Exception as error:  # noqa: BLE001  # every error means that Redis is still down\n            self._pending.reset()\n",
        ),
        tests=SECOND_OUTAGE,
        message="the write was lost",
    ),
    plant(
        "newer-pending-write-dropped",
        "The key was delivered.",
        (
            "cache/pending_writes.py",
            "            if key in self._stamps and self._stamps[key] == stamp:\n                del",
            "            if key in self._stamps:\n                del",
        ),
        tests=MEANWHILE,
        message="taken for delivered",
    ),
    plant(
        "delivered-as-new",
        "It is new to Redis.",
        (
            "cache/cache.py",
            "return PendingWrite(key, stamp, entry.body, self._lifetime - age)",
            "return PendingWrite(key, stamp, entry.body, self._lifetime)",
        ),
        tests=TIME_LEFT,
        message="it counts as new again",
    ),
    plant(
        "redis-keeps-for-ever",
        "Redis has an eviction policy.",
        ("cache/redis_store.py", "ARGV[3], 'PX', ARGV[4])", "ARGV[3])"),
        tests=TIME_LEFT,
        message="without expiry",
    ),
    plant(
        "deleted-mark-for-a-second",
        "A mark of a deleted row need not live long.",
        (
            "cache/cache.py",
            '            return PendingWrite(key, stamp, b"", self._lifetime)',
            '            return PendingWrite(key, stamp, b"", 1.0)',
        ),
        tests=TIME_LEFT,
        message="the tombstone of a deleted campaign",
    ),
    plant(
        "deleted-without-a-mark",
        "DEL deletes a key.",
        (
            "cache/redis_store.py",
            "    if write.stamp is None:\n        return client.delete(name)",
            "    if write.stamp is None or write.stamp[1] == DELETED_VERSION:\n        return client.delete(name)",
        ),
        tests=DELETED_ELSEWHERE,
        message="serves it",
    ),
    plant(
        "deleted-mark-is-nothing",
        "An empty body is no entry.",
        ("cache/redis_store.py", "(.?)')", "(.)')"),
        tests=DELETED_ELSEWHERE,
        message="serves it",
    ),
    plant(
        "delivered-from-memory-only",
        "Without a body there is nothing to deliver.",
        (
            "cache/cache.py",
            "        return [self._pending_write(key, stamp) for key, stamp in self._pending.next_batch(BATCH_SIZE)]",
            "        pending = self._pending.next_batch(BATCH_SIZE)\n        self._pending.acknowledge([(key, stamp) for key, stamp in pending if stamp and self.memory.get(key) is None])\n        return [self._pending_write(key, stamp) for key, stamp in self._pending.next_batch(BATCH_SIZE)]",
        ),
        tests=LET_GO,
        message="never invalidated its copy in Redis",
    ),
    plant(
        "delivered-one-batch",
        "A hundred at once will do.",
        (
            "cache/redis_store.py",
            "            self._pending.acknowledge((write.key, write.stamp) for write in batch)\n",
            "            self._pending.reset()\n",
        ),
        tests=LET_GO,
        message="never invalidated its copy in Redis",
    ),
    plant(
        "redis-idle-cut-is-an-outage",
        "Nothing is to be sent twice.",
        ("cache/redis_store.py", '"retry": Retry(NoBackoff(), 1),', '"retry": Retry(NoBackoff(), 0),'),
        tests=IDLE,
        message="treats that as an outage",
    ),
    plant(
        "no-pending-writes-at-the-start",
        "Redis was never there, so it has nothing old.",
        (
            "cache/cache.py",
            "        pending = self._pending.add(key, stamp)\n        if not self.redis.up:",
            "        if not self.redis.up and self.redis._breaker.outages == 1 and self.redis._breaker.epoch == 1:\n            return\n        pending = self._pending.add(key, stamp)\n        if not self.redis.up:",
        ),
        tests=ENDED,
        message="was not delivered to it",
    ),
    plant(
        "overflow-forgets-the-newest",
        "The list is full, so be it.",
        (
            "cache/pending_writes.py",
            "            self.overflowed = True\n            return stamp",
            "            return stamp",
        ),
        tests=OVERFLOW,
        message="came back",
    ),
    plant(
        "overflow-forgets-the-oldest",
        "A ring buffer never overflows.",
        (
            "cache/pending_writes.py",
            "            self.overflowed = True\n            return stamp",
            "            del self._stamps[next(iter(self._stamps))]",
        ),
        tests=OVERFLOW,
        message="came back",
    ),
    plant(
        "overflow-empties-redis",
        "FLUSHDB is one command.",
        (
            "cache/redis_store.py",
            "        self._pending.reset()\n        try:\n            cursor = 0\n",
            "        self._pending.reset()\n        await client.flushdb()\n        try:\n            cursor = 0\n",
        ),
        tests=OVERFLOW,
        message="keys of other applications",
    ),
    plant(
        "overflow-distrusts-only-once",
        "It will not fail.",
        (
            "cache/redis_store.py",
            "        except BaseException:\n            self._pending.overflowed = True\n            raise",
            "        except BaseException:\n            raise",
        ),
        tests=OVERFLOW,
        message="came back",
    ),
    plant(
        "overflow-looks-at-one-page",
        "SCAN with a count of 1000 finds them all.",
        (
            "cache/redis_store.py",
            "                if cursor == 0:\n                    return",
            "                return",
        ),
        tests=OVERFLOW,
        message="came back",
    ),
    plant(
        "foreign-value-is-an-outage",
        "An error is an error.",
        ("cache/redis_store.py", '    return str(error).startswith("WRONGTYPE")', "    return False"),
        tests=FOREIGN,
        message="outage",
    ),
    plant(
        "foreign-value-stops-the-delivery",
        "All of it must arrive.",
        (
            "cache/redis_store.py",
            "if isinstance(answer, Exception) and not _is_wrong_type(answer):",
            "if isinstance(answer, Exception):",
        ),
        tests=FOREIGN,
        message="still does not use it",
    ),
    plant(
        "redis-values-not-validated",
        "No other program uses these keys.",
        (
            "cache/redis_store.py",
            "    if not (created.isdigit() and version.isdigit() and body):\n        return None\n",
            "",
        ),
        tests=FOREIGN,
        message="a read gets",
    ),
    plant(
        "redis-copies-have-no-age",
        "What is in Redis is fresh.",
        ("cache/redis_store.py", "self._lifetime - ttl_ms / 1000)", "0.0)"),
        tests=ENDED,
        message="for longer",
    ),
    plant(
        "redis-trusted-after-a-loss",
        "Redis has acknowledged it.",
        (
            "cache/cache.py",
            "        if found is not None and self._pending.add_lost(key, found.entry.stamp):\n",
            "        if False:\n",
        ),
        tests="test_redis_recovery.py::test_a_redis_that_restarts_from_an_older_snapshot_undoes_no_write",
        message="Redis has lost an acknowledged write",
    ),
    plant(
        "overflow-one-early",
        "Full is full.",
        (
            "cache/pending_writes.py",
            "elif len(self._stamps) >= self._max_keys:",
            "elif len(self._stamps) >= self._max_keys - 1:",
        ),
        tests=OVERFLOW,
        message="the copy of another one was deleted",
    ),
)
