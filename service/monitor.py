"""The periodic checks that measure and alert beside the requests."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Literal

from .cache.cache import Cache
from .errors import Unavailable
from .memory.collector import GarbageCollector, read_memory_stats
from .memory.guard import CALM_BELOW, MemoryGuard
from .memory.usage import MemoryReader, MemoryUsage
from .postgres.cleanup import Cleanup
from .postgres.pool import Database
from .shortages import lacking

if TYPE_CHECKING:
    from .settings import ServiceSettings

pool_log = logging.getLogger("service.pool")
memory_log = logging.getLogger("service.memory")

CALM_PERCENT = 75.0
CALM_CHECKS = 2

Clock = Callable[[], float]


class PoolAlert:
    """An alert that is raised once per episode.

    An episode begins above the threshold and ends after two consecutive checks below 75 %.

    Attributes:
        raised: True during an episode.
        episodes: number of episodes so far.
        percent: average use at the last check.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self.raised = False
        self.episodes = 0
        self.percent = 0.0
        self._calm_checks = 0

    def check(self, percent: float) -> Literal["raised", "resolved"] | None:
        """Return the change that this check brings, if any."""
        self.percent = percent
        if percent > self._threshold:
            is_first, self.raised, self._calm_checks = not self.raised, True, 0
            self.episodes += is_first
            return "raised" if is_first else None
        self._calm_checks = self._calm_checks + 1 if percent < min(CALM_PERCENT, self._threshold) else 0
        if self._calm_checks >= CALM_CHECKS and self.raised:
            self.raised = False
            return "resolved"
        return None

    def alert_lines(self, percent: float) -> tuple[str, str]:
        above = f"Database connection pool usage has exceeded {self._threshold:g}%."
        return (
            "ALERT: CRITICAL - database_pool_exhausted",
            f"{above} Current value: {percent:.2f}, Threshold: {self._threshold:g}",
        )

    def resolved_line(self, percent: float) -> str:
        calm = f"{CALM_CHECKS} checks below {min(CALM_PERCENT, self._threshold):g}%"
        return f"RESOLVED: database_pool_exhausted - Current value: {percent:.2f}, {calm}"


class Monitor:
    """The periodic checks."""

    def __init__(
        self,
        settings: ServiceSettings,
        database: Database,
        cache: Cache,
        guard: MemoryGuard,
        memory_reader: MemoryReader,
        collector: GarbageCollector,
        cleanup: Cleanup,
        clock: Clock = time.monotonic,
    ) -> None:
        self._settings = settings
        self._database = database
        self._cache = cache
        self._guard = guard
        self._memory_reader = memory_reader
        self._collector = collector
        self._cleanup = cleanup
        self._clock = clock
        self.pool_alert = PoolAlert(settings.db_pool_alert_percent)
        self._refusal_logged = False

    def loops(self) -> list[Callable[[], Awaitable[None]]]:
        """Return the loops, one per check. Each runs until cancelled."""
        settings, clock = self._settings, self._clock
        return [
            partial(run_every, settings.db_pool_check_interval, self.check_pool, clock),
            partial(run_every, settings.db_pool_check_interval, self._cleanup.sweep, clock),
            partial(run_every, settings.memory_check_interval, self.check_memory, clock),
            partial(run_every, settings.memory_stats_interval, self.log_memory, clock),
            partial(run_every, settings.gc_interval, self.collect, clock),
            partial(run_every, settings.cleanup_interval, self.clean_up, clock),
        ]

    async def check_pool(self) -> None:
        percent = self._database.usage.percent()
        # Rounded as it is logged, because "90.00, Threshold: 90" is no alert.
        change = self.pool_alert.check(round(percent, 2))
        if change == "raised":
            for line in self.pool_alert.alert_lines(percent):
                pool_log.critical(line)
        elif change == "resolved":
            pool_log.info(self.pool_alert.resolved_line(percent))

    async def check_memory(self) -> None:
        usage = self._memory_reader.worst()
        was_in_episode = self._guard.in_episode
        action = self._guard.sample(usage, self._clock())
        if was_in_episode and not self._guard.in_episode:
            memory_log.info(
                "[Memory] RESOLVED: usage is back to normal: %.2f%% of %s", 100 * usage.needed_ratio, usage.resource
            )
        self._log_refusal(usage)
        if self._guard.refusing or action is not None:
            self._collector.release_reserve()
        elif usage.needed_ratio < CALM_BELOW:
            self._collector.hold_reserve()
        if action is None:
            return
        if action == "announce":
            memory_log.warning("[Memory] High heap usage: %.2f%%, forcing GC", 100 * usage.ratio)
        entries = len(self._cache.memory)
        freed = await self._collector.collect(evict=self._cache.evict_half)
        memory_log.log(logging.WARNING if action == "announce" else logging.DEBUG, freed.log_line())
        memory_log.info("[Memory] %s: %d of %d cache entries left", usage.resource, len(self._cache.memory), entries)
        share = (freed.heap + freed.external) / max(1, usage.used)
        self._guard.record_collection(self._clock(), seconds=freed.seconds, freed_share=share)
        usage = self._memory_reader.worst()
        self._guard.update(usage)
        self._log_refusal(usage)

    def _log_refusal(self, usage: MemoryUsage) -> None:
        """Log once that work is refused, and once that it is served again."""
        if self._guard.refusing == self._refusal_logged:
            return
        self._refusal_logged = self._guard.refusing
        share = 100 * usage.needed_ratio
        if self._refusal_logged:
            memory_log.warning(
                "[Memory] refusing work that is not essential: %.2f%% of %s is needed", share, usage.resource
            )
        else:
            memory_log.info("[Memory] RESOLVED: work is served again: %.2f%% of %s is needed", share, usage.resource)

    async def log_memory(self) -> None:
        memory_log.info(read_memory_stats().log_line(self._memory_reader.worst()))

    async def collect(self) -> None:
        self._cache.memory.remove_expired()
        if self._collector.is_worthwhile():
            memory_log.info((await self._collector.collect()).log_line())

    async def clean_up(self) -> None:
        try:
            await self._cleanup.run(min_interval=0)
        except Unavailable as error:
            pool_log.warning("Scheduled cleanup failed: %s", error)


async def run_every(seconds: float, check: Callable[[], Awaitable[None]], clock: Clock) -> None:
    """Run `check` every `seconds` seconds until cancelled. Skip missed runs, and log a check that fails.

    Raises:
        Exception: a check failed for lack of a resource of the process, so it may be repeated later.
    """
    due = clock() + seconds
    while True:
        await asyncio.sleep(max(0.0, due - clock()))
        while due <= clock():
            due += seconds
        try:
            await check()
        except Exception as error:
            if lacking(error) is not None:
                raise
            logging.getLogger("service.monitor").exception("Periodic check failed")
