"""The cadence scheduler, which enqueues each due step of a campaign once.

Rules: all instances run one, and Postgres decides which of them gets a step. A step is claimed, enqueued and confirmed, in this
order. If an instance stops in between, another one enqueues the step again, under the same job id. So the queue has one job. A
monotonic clock decides when to query, and nothing is queried before a step is due: the monitor of Postgres reads the next due
moment about once a second, on its own connection.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from ..errors import Unavailable
from ..postgres.cadences import Cadences, NextStep, read_next_step
from ..waiting import ends_within
from .job import Job, Queue
from .orphans import remove_at_intervals

log = logging.getLogger("service.cadence")

# Seconds without a reading of the monitor, after which the scheduler queries by the pool. A slow Postgres has no readings.
LONGEST_WAIT = 10.0
LATE_AFTER = 1.0  # seconds; a step that is due for longer is late


class CadenceScheduler:
    """The scheduler of one instance.

    Args:
        cadences: the table, which has the clock of all instances.
        queue: receives a job for each due step.
        clean_every: seconds between two removals of what deleted campaigns have left.
        clock: a monotonic clock.
    """

    def __init__(
        self, cadences: Cadences, queue: Queue, *, clean_every: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cadences = cadences
        self._queue = queue
        self._clean_every = clean_every
        self._clock = clock
        self._due_at: float | None = None
        self._overdue_since: float | None = None
        self._reading = asyncio.Event()
        self._ready_logged = False
        self._refused = False

    @property
    def lag(self) -> float:
        """The seconds since the oldest due step became due, 0 if none is due. A step that the queue refuses is due."""
        since = [moment for moment in (self._due_at, self._overdue_since) if moment is not None]
        return max(0.0, self._clock() - min(since)) if since else 0.0

    @property
    def state(self) -> str:
        """The state for /readyz: "ok", or "late" if a due step waits. The service is ready in both."""
        return "late" if self.lag > LATE_AFTER else "ok"

    async def read_next(self, connection: Any) -> None:
        """Read when the next step is due, on a connection of the caller."""
        self._record(await read_next_step(connection))

    def plan(self, seconds: float) -> None:
        """Record that a step is due in `seconds`, because its cadence has just begun."""
        moment = self._clock() + seconds
        self._due_at = moment if self._due_at is None else min(moment, self._due_at)
        self._reading.set()

    async def run(self) -> None:
        """Enqueue steps as they become due, until cancelled."""
        if not self._ready_logged:
            self._ready_logged = True
            log.info("Cadence Scheduler ready")
        while True:
            await self._wait_until_due()
            try:
                await self.enqueue_due()
            except Unavailable:  # the monitor of Postgres logs the outage, and reads again when it is over
                await self._wait_for_reading(LONGEST_WAIT)

    async def clean(self) -> None:
        """Remove the cadences of deleted campaigns at intervals, until cancelled."""
        await remove_at_intervals(self._clean_every, self._cadences.remove_orphans)

    async def enqueue_due(self) -> None:
        """Enqueue every step that is due and that no other instance has claimed.

        Raises:
            Unavailable: Postgres is down. Steps that are claimed are claimed again later.
        """
        while claims := await self._cadences.claim():
            enqueued = [claim for claim in claims if await self._enqueue(Job(*claim))]
            if enqueued:
                await self._cadences.confirm(enqueued)
        self._record(await self._cadences.next_step())

    async def _enqueue(self, job: Job) -> bool:
        """Enqueue one step. Return False if the queue takes no job. Then the claim expires, and the step is due again."""
        try:
            await self._queue.enqueue(job)
        except Unavailable as error:
            if not self._refused:
                self._refused = True
                log.warning("The queue takes no jobs, so due steps wait: %s", error)
            return False
        if self._refused:
            self._refused = False
            log.info("RESOLVED: the queue takes jobs again")
        return True

    def _record(self, step: NextStep) -> None:
        now = self._clock()
        self._due_at = None if step.seconds is None else now + step.seconds
        self._overdue_since = now - step.overdue if step.overdue else None
        self._reading.set()

    async def _wait_until_due(self) -> None:
        """Wait until a step is due by the last reading, or until there was no reading for LONGEST_WAIT."""
        while True:
            seconds = LONGEST_WAIT if self._due_at is None else min(self._due_at - self._clock(), LONGEST_WAIT)
            if seconds <= 0 or not await self._wait_for_reading(seconds):
                return

    async def _wait_for_reading(self, seconds: float) -> bool:
        """Wait for the next reading, at most `seconds`. Return True if there was one."""
        self._reading.clear()
        await ends_within(seconds, self._reading.wait())
        return self._reading.is_set()
