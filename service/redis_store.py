"""Redis as a store of cache entries that may vanish at any moment: every call is bounded, one prober brings it back.

Rules: a request spends at most its budget here, all calls together. The first real failure opens the breaker, and from
then on no request touches Redis. One task, `run`, probes with a fresh connection, first delivers what was written
meanwhile (`pending`), and only then lets requests in again. A version never replaces a newer one: Redis itself compares.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .circuit_breaker import CircuitBreaker
from .memory_cache import Entry, Stamp
from .pending_writes import PendingWrites

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from .settings import ServiceSettings

log = logging.getLogger("service.redis")

MAX_CONNECTIONS = 20
# All made before requests come: a handshake over the internet takes more than a request's budget.
MAX_TLS_CONNECTIONS = 8
PROBE_INTERVAL = 0.5  # while up
# A probe waits as long as a request would, REDIS_BUDGET, and at least this long: too slow for requests is away, and nothing else is.
PROBE_TIMEOUT = 0.25  # on a connection that stands
CONNECT_TIMEOUT, TLS_CONNECT_TIMEOUT = 0.4, 1.0  # for a probe that has to connect first; no request waits for it
TRIAL_INTERVAL = 0.1
BATCH_SIZE = 100
BATCH_TIMEOUT = 1.0
STALL_THRESHOLD = 0.1  # a timeout that fires this much late says that we were stopped, not Redis
DELETED_VERSION = 2**53 - 1  # the version of a row that is gone; Lua's numbers are exact up to here
KEY_PREFIX = "service:campaign:"

# Sets KEYS[1] to "<created> <version> <body>" for ARGV[4] ms unless a newer stamp is there; an empty body says only
# "nothing older than this".
COMPARE_AND_SET = """
local held = redis.call('GET', KEYS[1])
if held then
  local created, version, body = string.match(held, '^(%d+) (%d+) (.?)')
  created, version = tonumber(created), tonumber(version)
  local c, v = tonumber(ARGV[1]), tonumber(ARGV[2])
  if created and (created > c or (created == c and (version > v or (version == v and ARGV[3] == '' and body ~= '')))) then
    return 0
  end
end
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2] .. ' ' .. ARGV[3], 'PX', ARGV[4])
return 1
"""


class RedisUnavailable(Exception):
    """Redis cannot be used for this; use something else."""


@dataclass(frozen=True, slots=True)
class CachedValue:
    """An entry in Redis, and how many seconds ago it was true."""

    entry: Entry
    age: float


@dataclass(frozen=True, slots=True)
class PendingWrite:
    """What Redis is to hold for a key: an entry for `seconds`, or just its stamp; `stamp` None deletes the key."""

    key: int
    stamp: Stamp | None
    body: bytes
    seconds: float


class TimeBudget:
    """The time that one request may still spend on Redis."""

    def __init__(self, seconds: float) -> None:
        self.total = seconds
        self.remaining = seconds


class RedisStore:
    """One Redis (Upstash, then REDIS_URL, then localhost; decided at the start), up or away.

    Args:
        lifetime: seconds for which entries are kept in Redis.
        pending: what Redis has missed.
        next_writes: returns the next of it, as it is to be told to Redis.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        *,
        lifetime: float,
        pending: PendingWrites,
        next_writes: Callable[[], list[PendingWrite]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._lifetime = lifetime
        self._pending = pending
        self._next_writes = next_writes
        self._clock = clock
        self._breaker = CircuitBreaker(random.random)
        self._client: Redis | None = None
        self._tls = _uses_tls(settings)
        self._tls_context: Any = None
        budget = settings.redis_budget
        self._probe_timeout = max(budget, PROBE_TIMEOUT)
        self._connect_timeout = max(budget, TLS_CONNECT_TIMEOUT if self._tls else CONNECT_TIMEOUT)
        self._slots = asyncio.Semaphore(MAX_TLS_CONNECTIONS if self._tls else MAX_CONNECTIONS)
        self._wake = asyncio.Event()

    @property
    def up(self) -> bool:
        return self._breaker.up

    async def get(self, key: int, budget: TimeBudget) -> CachedValue | None:
        """The entry and its age. None when there is none.

        Raises:
            RedisUnavailable: Redis is away, too slow, or busy.
        """
        async with self._client_within(budget) as client:
            pipe = client.pipeline(transaction=False)
            pipe.get(f"{KEY_PREFIX}{key}")
            pipe.pttl(f"{KEY_PREFIX}{key}")
            value, ttl_ms = await pipe.execute(raise_on_error=False)
            for answer in (value, ttl_ms):
                if isinstance(answer, Exception):
                    raise answer
        return _decode(value, self._lifetime - ttl_ms / 1000) if value is not None and ttl_ms >= 0 else None

    async def write(self, write: PendingWrite, budget: TimeBudget) -> None:
        """Bring one write to Redis.

        Raises:
            RedisUnavailable: it may or may not have arrived.
        """
        async with self._client_within(budget) as client:
            await _send(client, write)

    async def run(self) -> None:
        """Probe for ever: the only task that does. Closes the connections when it is cancelled."""
        task = asyncio.current_task()
        assert task is not None, "a coroutine runs in a task"
        try:
            # Python 3.11's asyncio.wait_for, with which redis-py sends, returns an answer in place of a cancellation that comes
            # at the same moment (python/cpython#86296). The task would never end then.
            while not task.cancelling():
                if self._breaker.up:
                    await self._probe_once()
                elif not await self._reconnect():
                    await self._sleep(self._breaker.probe_delay())
        finally:
            await self._close()

    async def _probe_once(self) -> None:
        """One round while up: wait, probe, deliver what a request could not."""
        await self._sleep(PROBE_INTERVAL)
        client, epoch = self._client, self._breaker.epoch
        if client is None or not self._breaker.up:
            return
        started = self._clock()
        try:
            async with asyncio.timeout(self._probe_timeout):
                await _probe(client)
            if self._pending.overflowed:
                raise RedisUnavailable("it has missed more writes than can be remembered")
            await self._flush_pending(client)
        except Exception as error:  # noqa: BLE001  # Redis is optional: whatever went wrong, it is away
            if not self._stalled(error, started, self._probe_timeout):
                self._record_failure(error, epoch)

    async def _reconnect(self) -> bool:
        """One attempt while down. True when Redis is in use again."""
        await self._close()
        epoch = self._breaker.epoch
        try:
            client = self._client = self._connect()
            if self._tls:
                await self._share_tls(client)
            async with asyncio.timeout(self._connect_timeout):
                await asyncio.gather(*(_probe(client) for _ in range(MAX_TLS_CONNECTIONS if self._tls else 1)))
            trial_end = self._clock() + self._breaker.trial_period(self._clock())
            while self._clock() < trial_end:
                await asyncio.sleep(TRIAL_INTERVAL)
                async with asyncio.timeout(self._probe_timeout):
                    await _probe(client)
            if self._pending.overflowed:
                await self._delete_own_keys(client)
            await self._flush_pending(client)
        except Exception as error:  # noqa: BLE001  # the same
            self._record_failure(error, epoch)
            return False
        # No await between the last look at `pending` and this: nothing written in between can be missed.
        self._breaker.record_recovery(self._clock())
        log.info("Redis connected successfully")
        return True

    async def _flush_pending(self, client: Redis) -> None:
        """Bring all that is owed to Redis, in batches, until nothing is."""
        while batch := self._next_writes():
            pipe = client.pipeline(transaction=False)
            for write in batch:
                _send(pipe, write)
            async with asyncio.timeout(BATCH_TIMEOUT):
                for answer in await pipe.execute(raise_on_error=False):
                    if isinstance(answer, Exception) and not _is_wrong_type(answer):
                        raise answer
            self._pending.acknowledge((write.key, write.stamp) for write in batch)

    async def _delete_own_keys(self, client: Redis) -> None:
        """Delete all of ours, because we can't tell what of it is old."""
        self._pending.reset()
        try:
            cursor = 0
            while True:
                async with asyncio.timeout(BATCH_TIMEOUT):
                    cursor, names = await client.scan(cursor, match=f"{KEY_PREFIX}*", count=1000)
                    if names:
                        await client.unlink(*names)
                if cursor == 0:
                    return
        except BaseException:
            self._pending.overflowed = True
            raise

    @contextlib.asynccontextmanager
    async def _client_within(self, budget: TimeBudget) -> AsyncIterator[Redis]:
        """The client, for as long as the budget lasts. Whatever goes wrong becomes RedisUnavailable."""
        client, epoch = self._client, self._breaker.epoch
        if client is None or not self._breaker.up or budget.remaining <= 0:
            raise RedisUnavailable
        started = self._clock()
        limit, available = budget.remaining, 0.0
        try:
            async with asyncio.timeout(limit), self._slots:
                available = limit - (self._clock() - started)
                yield client
        except Exception as error:
            had_enough_time = available >= 0.8 * budget.total  # a late start or a crowd is no proof that Redis is away
            timed_out = _is_timeout(error)
            if not _is_wrong_type(error) and not (
                timed_out and (not had_enough_time or self._stalled(error, started, limit))
            ):
                self._record_failure(error, epoch)
            raise RedisUnavailable from error
        finally:
            budget.remaining -= self._clock() - started

    def _record_failure(self, error: Exception, epoch: int) -> None:
        reason = _reason(error)
        if self._breaker.record_failure(reason, epoch):
            log.warning("Redis connection failed, falling back to in-memory cache: %s", reason)
            self._wake.set()

    def _stalled(self, error: Exception, started: float, limit: float) -> bool:
        return _is_timeout(error) and self._clock() - started > limit + STALL_THRESHOLD

    async def _sleep(self, seconds: float) -> None:
        """Sleep, or less: a request that finds Redis away wakes the prober."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    async def _close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(PROBE_TIMEOUT):
                    await client.connection_pool.disconnect(inuse_connections=True)

    async def _share_tls(self, client: Redis) -> None:
        """Make one TLS context for all connections, in a thread: redis makes one for each, and each holds up the loop for 50 ms."""
        from redis.asyncio import SSLConnection

        store = self

        class SharedContextConnection(SSLConnection):
            def __init__(self, **options: Any) -> None:
                super().__init__(**options)
                store._tls_context = self.ssl_context = store._tls_context or self.ssl_context

        pool = client.connection_pool
        pool.connection_class = SharedContextConnection
        await asyncio.to_thread(SharedContextConnection(**pool.connection_kwargs).ssl_context.get)

    def _connect(self) -> Redis:
        """A client with no connection yet. Imported here: redis costs a third of the start, and is not needed for it."""
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        settings = self._settings
        options: dict[str, Any] = {
            # Every call is in an asyncio.timeout of this file. With a time-out of its own, redis-py sends in asyncio.wait_for, which on
            # Python 3.11 swallows a cancellation that comes as it ends, and a request then waits for twice its budget and more.
            "socket_timeout": None,
            "socket_connect_timeout": self._connect_timeout,
            "retry": Retry(NoBackoff(), 1),  # all that we send may be sent twice
            "max_connections": MAX_CONNECTIONS + 2,
            "health_check_interval": 0,
            "protocol": 2,
            "driver_info": None,
        }
        if settings.upstash_redis_rest_url and settings.upstash_redis_rest_token:
            return Redis(
                host=urlsplit(settings.upstash_redis_rest_url).hostname or "",
                port=settings.upstash_redis_port,
                username="default",
                password=settings.upstash_redis_rest_token,
                ssl=True,
                ssl_ca_certs=settings.upstash_redis_ca_file,
                **options,
            )
        return Redis.from_url(settings.redis_url or "redis://localhost:6379", **options)


def _uses_tls(settings: ServiceSettings) -> bool:
    return settings.upstash_redis_rest_url is not None or (settings.redis_url or "").startswith("rediss:")


def _send(client: Redis, write: PendingWrite) -> Awaitable[Any]:
    """Send one write, or queue it when `client` is a pipeline."""
    name = f"{KEY_PREFIX}{write.key}"
    if write.stamp is None:
        return client.delete(name)
    milliseconds = max(1, int(write.seconds * 1000))
    answer: Awaitable[Any] = client.eval(COMPARE_AND_SET, 1, name, *write.stamp, write.body, milliseconds)
    return answer


async def _probe(client: Redis) -> None:
    """Ask for just what requests need: a write by our script. Read-only, full, loading or locked Redis fails it."""
    await client.eval(COMPARE_AND_SET, 1, "service:probe", 0, 0, "", 5000)


def _decode(value: bytes, age: float) -> CachedValue | None:
    """An entry from "<created> <version> <body>". None for a bare stamp, and for what we did not write."""
    created, _, rest = bytes(value).partition(b" ")
    version, _, body = rest.partition(b" ")
    if not (created.isdigit() and version.isdigit() and body):
        return None
    return CachedValue(Entry((int(created), int(version)), body), max(0.0, age))


def _is_timeout(error: Exception) -> bool:
    return isinstance(error, TimeoutError) or type(error).__name__ == "TimeoutError"  # redis has one of its own


def _is_wrong_type(error: Exception) -> bool:
    """Somebody else's value under our name: no reason to give up on Redis."""
    return str(error).startswith("WRONGTYPE")


def _reason(error: Exception) -> str:
    """One line for the log."""
    if _is_timeout(error):
        return "no answer in time"
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
