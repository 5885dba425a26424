"""A read-through cache of Redis (memory while Redis is down) before Postgres. Each result names its source.

Rules: this instance never serves anything older than its own last write, whatever happens to Redis. While a write has
not reached Redis (it is pending), its key is not read from Redis. A write detaches loads in flight for its key: their
result is neither cached nor shared with later readers. Errors are not cached.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..errors import Unavailable
from .memory_cache import Entry, MemoryCache, Stamp
from .pending_writes import PendingWrites
from .redis_store import (
    BATCH_SIZE,
    DELETED_VERSION,
    CachedValue,
    PendingWrite,
    RedisStore,
    RedisUnavailable,
    TimeBudget,
)

if TYPE_CHECKING:
    from ..settings import ServiceSettings

log = logging.getLogger("service.cache")

Load = Callable[[], Awaitable[Entry | None]]
Flight = asyncio.Future["CacheResult"]
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class CacheResult:
    """An entry (None if there is no such row) and its source."""

    entry: Entry | None
    state: Literal["hit", "miss", "stale"]
    source: Literal["redis", "memory", "postgres"]


class Cache:
    """The Redis store, the memory cache, and the writes that Redis has missed.

    Args:
        source_is_up: returns True if Postgres is expected to answer. Otherwise a stale copy is served without trying.
        tasks: runs the loads, which outlive the request that began them.

    Attributes:
        reads: number of reads by source and state of their result. A read that failed has neither.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        *,
        source_is_up: Callable[[], bool],
        tasks: asyncio.TaskGroup,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        lifetime = max(settings.cache_ttl, settings.cache_stale_ttl)
        self._budget = settings.redis_budget
        self._fresh_for = settings.cache_ttl
        self._lifetime = lifetime
        self._source_is_up = source_is_up
        self._tasks = tasks
        self._flights: dict[int, Flight] = {}
        self.reads: Counter[tuple[str, str]] = Counter()
        self._pending = PendingWrites(settings.cache_max_pending_writes, max_taken=settings.cache_max_entries)
        self.memory = MemoryCache(
            max_entries=settings.cache_max_entries,
            max_bytes=int(settings.cache_max_mb * MIB),
            fresh_for=settings.cache_ttl,
            lifetime=lifetime,
            clock=clock,
        )
        self.redis = RedisStore(
            settings, lifetime=lifetime, pending=self._pending, next_writes=self._next_writes, clock=clock
        )

    async def read(self, key: int, load: Load) -> CacheResult:
        """Return the newest available entry of `key`. Concurrent readers of one key share one load.

        Args:
            key: number of the row.
            load: reads the row from Postgres.

        Raises:
            Unavailable: Postgres is down and there is no copy.
        """
        result = await self._read(key, load)
        self.reads[result.source, result.state] += 1
        return result

    async def _read(self, key: int, load: Load) -> CacheResult:
        if not self._redis_is_current(key):
            entry = self.memory.get_fresh(key)
            if entry is not None:
                return CacheResult(entry, "hit", "memory")
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.get_running_loop().create_future()
            self._tasks.create_task(self._run_flight(key, load, flight))
        return await asyncio.shield(flight)

    async def after_write(self, key: int, entry: Entry) -> None:
        """Record that a row was written. From now on this instance serves no older version."""
        self._flights.pop(key, None)
        self.memory.put(key, entry)
        await self._write_through(key, entry.stamp)

    async def after_delete(self, key: int, created: int) -> None:
        """Record that a row was deleted. A load that began before does not bring it back."""
        self._flights.pop(key, None)
        self.memory.drop(key)
        await self._write_through(key, (created, DELETED_VERSION))

    def mark_uncertain(self, key: int) -> None:
        """Record that a write may or may not have happened. The next read goes to Postgres."""
        self._flights.pop(key, None)
        self.memory.mark_uncertain(key)
        self._pending.add(key, None)

    @property
    def pending_writes(self) -> int:
        """The number of rows with a write that Redis has missed."""
        return len(self._pending)

    def evict_half(self) -> int:
        """Evict half of the memory cache. Return the number of entries evicted."""
        return self.memory.evict_half()

    def _redis_is_current(self, key: int) -> bool:
        """Return True if Redis is up and has every write of this instance to `key`."""
        return self.redis.up and key not in self._pending

    async def _run_flight(self, key: int, load: Load, flight: Flight) -> None:
        """Complete one flight. Never raise an Exception, which would end the task group of the whole service."""
        try:
            result = await self._lookup(key, load, flight)
        except asyncio.CancelledError:
            flight.cancel()
            raise
        except BaseException as error:
            flight.set_exception(error)
            flight.exception()  # marks the exception as retrieved, even if no reader is left
            if not isinstance(error, Exception):
                raise
        else:
            flight.set_result(result)
        finally:
            if self._flights.get(key) is flight:
                del self._flights[key]

    async def _lookup(self, key: int, load: Load, flight: Flight) -> CacheResult:
        budget = TimeBudget(self._budget)
        found = await self._read_redis(key, budget)
        if self._flights.get(key) is not flight:
            found = None  # a write came between
        if found is not None and self._pending.add_lost(key, found.entry.stamp):
            found = None  # Redis has restarted from an older snapshot
        if found is not None:
            self.memory.put(key, found.entry, found.age)
            if found.age < self._fresh_for:
                return CacheResult(found.entry, "hit", "redis")
        elif not self._redis_is_current(key):
            entry = self.memory.get_fresh(key)
            if entry is not None:
                return CacheResult(entry, "hit", "memory")
        return await self._read_source(key, load, flight, found, budget)

    async def _read_redis(self, key: int, budget: TimeBudget) -> CachedValue | None:
        if not self._redis_is_current(key):
            return None
        try:
            return await self.redis.get(key, budget)
        except RedisUnavailable:
            return None

    async def _read_source(
        self, key: int, load: Load, flight: Flight, found: CachedValue | None, budget: TimeBudget
    ) -> CacheResult:
        if not self._source_is_up():
            stale = self._stale_copy(key, found)
            if stale is not None:
                return stale
        try:
            entry = await load()
        except Unavailable:
            stale = self._stale_copy(key, found)
            if stale is None:
                raise
            return stale
        if self._flights.get(key) is flight:
            await self._fill(key, entry, found, budget)
        return CacheResult(entry, "miss", "postgres")

    def _stale_copy(self, key: int, found: CachedValue | None) -> CacheResult | None:
        """Return the newer of the two copies, to serve while Postgres is down."""
        entry = self.memory.get(key)
        if found is not None and (entry is None or found.entry.stamp >= entry.stamp):
            return CacheResult(found.entry, "stale", "redis")
        return None if entry is None else CacheResult(entry, "stale", "memory")

    async def _fill(self, key: int, entry: Entry | None, found: CachedValue | None, budget: TimeBudget) -> None:
        """Cache the row that Postgres returned, in memory and, if Redis is up, in Redis."""
        if entry is None:
            self.memory.drop(key)
            if found is not None:
                self._pending.add(key, None)  # deleted in Postgres, still in Redis
            return
        self.memory.put(key, entry)
        if self._redis_is_current(key):
            try:
                await self.redis.write(PendingWrite(key, entry.stamp, entry.body, self._lifetime), budget)
            except RedisUnavailable:
                log.debug("not cached in Redis: %s", key)

    async def _write_through(self, key: int, stamp: Stamp) -> None:
        """Add a pending write and try to deliver it at once. If that fails, the prober delivers it later."""
        pending = self._pending.add(key, stamp)
        if not self.redis.up:
            return
        write = self._pending_write(key, pending)
        try:
            await self.redis.write(write, TimeBudget(self._budget))
        except RedisUnavailable:
            return
        self._pending.acknowledge([(write.key, write.stamp)])

    def _next_writes(self) -> list[PendingWrite]:
        """Return the next batch of writes that Redis has missed."""
        return [self._pending_write(key, stamp) for key, stamp in self._pending.next_batch(BATCH_SIZE)]

    def _pending_write(self, key: int, stamp: Stamp | None) -> PendingWrite:
        """Return a write of the whole entry if memory still holds that version, else of its stamp only."""
        entry, age = self.memory.get(key), self.memory.age(key)
        if stamp is None or entry is None or age is None or entry.stamp != stamp:
            return PendingWrite(key, stamp, b"", self._lifetime)
        return PendingWrite(key, stamp, entry.body, self._lifetime - age)
