"""Redis as an optional store of cache entries. Every call has a time limit, and one prober restores the connection.

Rules: all Redis calls of a request together take at most its budget. The first real failure opens the circuit breaker,
and from then on no request uses Redis. One task, `run`, probes on a new connection, delivers the pending writes, and
only then closes the breaker. An older version never replaces a newer one: a script in Redis compares them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from ..waiting import ends_within
from .circuit_breaker import CircuitBreaker
from .memory_cache import Entry, Stamp
from .pending_writes import PendingWrites

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from ..settings import ServiceSettings

log = logging.getLogger("service.redis")

MAX_CONNECTIONS = 20
# All are opened before requests use them: a TLS handshake over the internet takes longer than a request's budget.
MAX_TLS_CONNECTIONS = 8
PROBE_INTERVAL = 0.5  # while up
# A probe waits for REDIS_BUDGET, and at least this long. Redis counts as down exactly when it is too slow for requests.
PROBE_TIMEOUT = 0.25  # on an open connection
CONNECT_TIMEOUT, TLS_CONNECT_TIMEOUT = 0.4, 1.0  # for a probe that must connect first, which no request waits for
TRIAL_INTERVAL = 0.1
BATCH_SIZE = 100
BATCH_TIMEOUT = 1.0
STALL_THRESHOLD = 0.1  # seconds; a timeout that fires this late means that this process was stopped, not Redis
DELETED_VERSION = 2**53 - 1  # of a tombstone; Lua's numbers are exact up to here
KEY_PREFIX = "service:campaign:"

# Sets KEYS[1] to "<created> <version> <body>" for ARGV[4] ms unless Redis holds a newer stamp. An empty body only keeps
# older versions out.
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


RedisSource = Literal["upstash", "redis", "localhost"]
"""Upstash, the Redis of REDIS_URL, or the one that is tried without either."""


class RedisUnavailable(Exception):
    """Redis cannot serve this call, so the caller has to do without."""


@dataclass(frozen=True, slots=True)
class CachedValue:
    """An entry from Redis and the seconds since Postgres returned it."""

    entry: Entry
    age: float


@dataclass(frozen=True, slots=True)
class PendingWrite:
    """A write that Redis should have.

    Args:
        key: number of the row.
        stamp: of the version to store. None deletes the key.
        body: of the entry. Empty stores the stamp only.
        seconds: until the key expires.
    """

    key: int
    stamp: Stamp | None
    body: bytes
    seconds: float


class TimeBudget:
    """The time in seconds that one request may still spend on Redis."""

    def __init__(self, seconds: float) -> None:
        self.total = seconds
        self.remaining = seconds


class RedisStore:
    """One Redis (Upstash if configured, else REDIS_URL, else localhost), up or down.

    Args:
        lifetime: seconds for which entries are kept in Redis.
        pending: the writes that Redis has missed.
        next_writes: returns the next batch of pending writes.
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
        self._changed = asyncio.Event()

    @property
    def up(self) -> bool:
        return self._breaker.up

    @property
    def outages(self) -> int:
        """The number of outages so far. A Redis that is down at the start counts as one."""
        return self._breaker.outages

    @property
    def source(self) -> RedisSource:
        """The setting that this Redis comes from."""
        if self._settings.upstash_redis_rest_url:
            return "upstash"
        return "redis" if self._settings.redis_url else "localhost"

    async def wait_until(self, *, up: bool) -> None:
        """Wait until Redis is up, or until it is down."""
        while self._breaker.up is not up:
            await self._changed.wait()

    async def open_client(self, *, max_connections: int) -> Redis:
        """Return another client of the same Redis. It returns text, sends no command twice, and connects at first use.

        Args:
            max_connections: largest number of connections.
        """
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        client = self._connect(retry=Retry(NoBackoff(), 0), max_connections=max_connections, decode_responses=True)
        if self._tls:
            await self._share_tls(client)
        return client

    async def get(self, key: int, budget: TimeBudget) -> CachedValue | None:
        """Return the entry and its age. None if Redis has none.

        Raises:
            RedisUnavailable: Redis is down, too slow, or busy.
        """
        async with self.client_within(budget) as client:
            pipe = client.pipeline(transaction=False)
            pipe.get(f"{KEY_PREFIX}{key}")
            pipe.pttl(f"{KEY_PREFIX}{key}")
            value, ttl_ms = await pipe.execute(raise_on_error=False)
            for answer in (value, ttl_ms):
                if isinstance(answer, Exception):
                    raise answer
        return _decode(value, self._lifetime - ttl_ms / 1000) if value is not None and ttl_ms >= 0 else None

    async def write(self, write: PendingWrite, budget: TimeBudget) -> None:
        """Send one write to Redis.

        Raises:
            RedisUnavailable: Redis may or may not have the write.
        """
        async with self.client_within(budget) as client:
            await _send(client, write)

    async def run(self) -> None:
        """Probe until cancelled, then close the connections. No other task probes."""
        task = asyncio.current_task()
        assert task is not None, "a coroutine runs in a task"
        try:
            # redis-py sends in asyncio.wait_for, which on Python 3.11 returns an answer in place of a cancellation that
            # comes at the same moment (python/cpython#86296). Without this condition the task would then never end.
            while not task.cancelling():
                if self._breaker.up:
                    await self._probe_once()
                elif not await self._reconnect():
                    await self._sleep(self._breaker.probe_delay())
        finally:
            await self._close()

    async def _probe_once(self) -> None:
        """Wait, probe, and deliver the writes that requests could not, while Redis is up."""
        await self._sleep(PROBE_INTERVAL)
        client, epoch = self._client, self._breaker.epoch
        if client is None or not self._breaker.up:
            return
        started = self._clock()
        try:
            async with asyncio.timeout(self._probe_timeout):
                await _probe(client)
            if self._pending.overflowed:
                raise RedisUnavailable("Redis has missed more writes than can be remembered")
            await self._flush_pending(client)
        except Exception as error:  # noqa: BLE001  # Redis is optional, so every error means that it is down
            if not self._stalled(error, started, self._probe_timeout):
                self._record_failure(error, epoch)

    async def _reconnect(self) -> bool:
        """Try once to reconnect while down. Return True if Redis is in use again."""
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
        except Exception as error:  # noqa: BLE001  # every error means that Redis is still down
            self._record_failure(error, epoch)
            return False
        # No await stands between the last check of `pending` and this line, so no write in between is missed.
        self._breaker.record_recovery(self._clock())
        self._notify()
        log.info("Redis connected successfully")
        return True

    async def _flush_pending(self, client: Redis) -> None:
        """Deliver all pending writes in batches."""
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
        """Delete every key of the service, because outdated entries cannot be recognized."""
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
    async def client_within(self, budget: TimeBudget) -> AsyncIterator[Redis]:
        """Lend the client for as long as the budget lasts. Every command may be sent twice.

        Args:
            budget: reduced by the time that the block took.

        Raises:
            RedisUnavailable: Redis is down, or any error was raised in the block.
        """
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
            had_enough_time = (
                available >= 0.8 * budget.total
            )  # a late start or a busy pool does not prove that Redis is down
            timed_out = _is_timeout(error)
            if not _is_wrong_type(error) and not (
                timed_out and (not had_enough_time or self._stalled(error, started, limit))
            ):
                self._record_failure(error, epoch)
            raise RedisUnavailable from error
        finally:
            budget.remaining -= self._clock() - started

    def _record_failure(self, error: Exception, epoch: int) -> None:
        reason = failure_reason(error)
        if self._breaker.record_failure(reason, epoch):
            log.warning("Redis connection failed, falling back to in-memory cache: %s", reason)
            self._wake.set()
            self._notify()

    def _notify(self) -> None:
        """Wake the tasks that wait for a change of state."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _stalled(self, error: Exception, started: float, limit: float) -> bool:
        return _is_timeout(error) and self._clock() - started > limit + STALL_THRESHOLD

    async def _sleep(self, seconds: float) -> None:
        """Sleep until a request detects an outage, for at most `seconds`."""
        await ends_within(seconds, self._wake.wait())
        self._wake.clear()

    async def _close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(PROBE_TIMEOUT):
                    await client.connection_pool.disconnect(inuse_connections=True)

    async def _share_tls(self, client: Redis) -> None:
        """Create one TLS context for all connections, in a thread.

        redis-py creates one per connection, and each blocks the event loop for 50 ms.
        """
        from redis.asyncio import SSLConnection

        store = self

        class SharedContextConnection(SSLConnection):
            def __init__(self, **options: Any) -> None:
                super().__init__(**options)
                store._tls_context = self.ssl_context = store._tls_context or self.ssl_context

        pool = client.connection_pool
        pool.connection_class = SharedContextConnection
        await asyncio.to_thread(SharedContextConnection(**pool.connection_kwargs).ssl_context.get)

    def _connect(self, **changed: Any) -> Redis:
        """Return a client that has no connection yet.

        redis is imported here, because its import takes a third of the start and the start does not need it.

        Args:
            changed: options of redis-py that differ from those of the cache's client.
        """
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        settings = self._settings
        options: dict[str, Any] = {
            # Every call runs in an asyncio.timeout of this file. With a socket_timeout, redis-py sends in asyncio.wait_for,
            # which on Python 3.11 swallows a cancellation that comes as it ends. A request then takes over twice its budget.
            "socket_timeout": None,
            "socket_connect_timeout": self._connect_timeout,
            "retry": Retry(NoBackoff(), 1),  # every command of the service may be sent twice
            "max_connections": MAX_CONNECTIONS + 2,
            "health_check_interval": 0,
            "protocol": 2,
            "driver_info": None,
        } | changed
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
    """Write by the service's script, as requests do. A read-only, full, loading or locked Redis fails this."""
    await client.eval(COMPARE_AND_SET, 1, "service:probe", 0, 0, "", 5000)


def _decode(value: bytes, age: float) -> CachedValue | None:
    """Parse "<created> <version> <body>". None for a stamp without a body, and for any other value."""
    created, _, rest = bytes(value).partition(b" ")
    version, _, body = rest.partition(b" ")
    if not (created.isdigit() and version.isdigit() and body):
        return None
    return CachedValue(Entry((int(created), int(version)), body), max(0.0, age))


def _is_timeout(error: Exception) -> bool:
    return (
        isinstance(error, TimeoutError) or type(error).__name__ == "TimeoutError"
    )  # redis-py has its own TimeoutError


def _is_wrong_type(error: Exception) -> bool:
    """Return True if another program keeps a value of another type under the key, which is no outage."""
    return str(error).startswith("WRONGTYPE")


def failure_reason(error: Exception) -> str:
    """Return one line for the log."""
    if _is_timeout(error):
        return "no answer in time"
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
