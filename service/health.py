"""Alive and ready, from what is known already: nothing here waits for anything."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from .cache import Cache
from .memory import MemoryGuard
from .postgres_status import PostgresStatus


class Lifecycle:
    """Starting, running, draining; and how many requests are being worked on."""

    def __init__(self) -> None:
        self.draining = False
        self._in_flight: set[asyncio.Future[None]] = set()

    @contextlib.contextmanager
    def track_request(self) -> Iterator[None]:
        """Count one request as being worked on."""
        done = asyncio.get_running_loop().create_future()
        self._in_flight.add(done)
        try:
            yield
        finally:
            self._in_flight.discard(done)
            done.set_result(None)

    async def wait_until_idle(self, *, within: float) -> None:
        """Wait, not for ever, until the requests that are being worked on now have been answered."""
        if self._in_flight:
            await asyncio.wait(set(self._in_flight), timeout=within)


class Health:
    """What the three health routes answer."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        postgres_status: PostgresStatus,
        cache: Cache,
        guard: MemoryGuard,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lifecycle = lifecycle
        self._postgres_status = postgres_status
        self._cache = cache
        self._guard = guard
        self._clock = clock
        self._started_at = clock()
        self._was_ready = False

    def health_body(self) -> dict[str, object]:
        """The process answers. Its form is fixed."""
        return {
            "status": "healthy",
            "nextReady": not self._lifecycle.draining,
            "timestamp": utc_timestamp(),
            "uptime": round(self._clock() - self._started_at, 9),
        }

    def readiness(self) -> tuple[bool, dict[str, object]]:
        """Whether to send requests here, and why not. Without Redis we serve from memory: degraded, but ready."""
        postgres, redis, refusing = self._postgres_status.state, self._cache.redis.up, self._guard.refusing
        ready = postgres == "up" and not refusing and not self._lifecycle.draining
        if self._lifecycle.draining:
            status = "draining"
        elif ready:
            status = "ready" if redis else "degraded"
        elif postgres == "down" and not refusing and not self._was_ready:
            status = "starting"  # it waits for Postgres, and nothing else is wrong
        else:
            status = "unavailable"
        self._was_ready = self._was_ready or ready
        checks = {
            "postgres": postgres,
            "redis": "up" if redis else "down",
            "memory": "refusing" if refusing else "ok",
        }
        return ready, {"status": status, "checks": checks}


def utc_timestamp() -> str:
    """The time of day, as all answers write it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
