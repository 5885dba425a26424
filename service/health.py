"""Liveness and readiness, from state in memory. Nothing here waits."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from .cache.cache import Cache
from .jobs.queue import JobQueue
from .jobs.scheduler import CadenceScheduler
from .memory.guard import MemoryGuard
from .postgres.status import PostgresStatus


class Lifecycle:
    """The phase of the process and the requests under way.

    Attributes:
        draining: True from the signal that ends the process.
        stopping: set at the end of the drain, when connections are closed.
    """

    def __init__(self) -> None:
        self.draining = False
        self.stopping = asyncio.Event()
        self._in_flight: set[asyncio.Future[None]] = set()

    @contextlib.contextmanager
    def track_request(self) -> Iterator[None]:
        """Count one request as under way."""
        done = asyncio.get_running_loop().create_future()
        self._in_flight.add(done)
        try:
            yield
        finally:
            self._in_flight.discard(done)
            done.set_result(None)

    @property
    def in_flight(self) -> int:
        """The number of requests under way."""
        return len(self._in_flight)

    async def wait_until_idle(self, *, within: float) -> None:
        """Wait until the requests now under way are answered, for at most `within` seconds."""
        if self._in_flight:
            await asyncio.wait(set(self._in_flight), timeout=within)


class Health:
    """The bodies of the three health routes."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        postgres_status: PostgresStatus,
        cache: Cache,
        guard: MemoryGuard,
        jobs: JobQueue,
        scheduler: CadenceScheduler,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lifecycle = lifecycle
        self._postgres_status = postgres_status
        self._cache = cache
        self._guard = guard
        self._jobs = jobs
        self._scheduler = scheduler
        self._clock = clock
        self._started_at = clock()
        self._was_ready = False

    def health_body(self) -> dict[str, object]:
        """Return the body of /health, which has a fixed form."""
        return {
            "status": "healthy",
            "nextReady": not self._lifecycle.draining,
            "timestamp": utc_timestamp(),
            "uptime": round(self._clock() - self._started_at, 9),
        }

    def readiness(self) -> tuple[bool, dict[str, object]]:
        """Return True if the service can serve requests, and the body of /readyz.

        Without Redis the service reads from memory, which is "degraded" and still ready. Jobs and cadences never make it unready.
        """
        postgres, redis, refusing = self._postgres_status.state, self._cache.redis.up, self._guard.refusing
        ready = postgres == "up" and not refusing and not self._lifecycle.draining
        if self._lifecycle.draining:
            status = "draining"
        elif ready:
            status = "ready" if redis else "degraded"
        elif postgres == "down" and not refusing and not self._was_ready:
            status = "starting"  # the first connection to Postgres is all that is missing
        else:
            status = "unavailable"
        self._was_ready = self._was_ready or ready
        checks = {
            "postgres": postgres,
            "redis": "up" if redis else "down",
            "memory": "refusing" if refusing else "ok",
            "jobs": self._jobs.taken_by,
            "cadence": self._scheduler.state,
        }
        return ready, {"status": status, "checks": checks}


def utc_timestamp() -> str:
    """Return the time of day in the form that all responses use."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
