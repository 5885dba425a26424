"""Measure, compare, alert: the loops that run beside the requests."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Literal

from .cache import Cache
from .cleanup import Cleanup
from .database import Database
from .errors import Unavailable
from .memory import CLEAR, GarbageCollector, MemoryGuard, MemoryReader, MemoryUsage, figures

if TYPE_CHECKING:
    from .settings import ServiceSettings

pool_log = logging.getLogger("service.pool")
memory_log = logging.getLogger("service.memory")

CLEAR_PERCENT = 75.0
CLEAR_CHECKS = 2

Clock = Callable[[], float]


class PoolAlert:
    """Once per episode: raised above the threshold, resolved after two checks in a row below 75 %."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._raised = False
        self._calm_checks = 0

    def check(self, percent: float) -> Literal["raised", "resolved"] | None:
        """Return what to tell now, if anything."""
        if percent > self._threshold:
            first, self._raised, self._calm_checks = not self._raised, True, 0
            return "raised" if first else None
        self._calm_checks = self._calm_checks + 1 if percent < min(CLEAR_PERCENT, self._threshold) else 0
        if self._calm_checks >= CLEAR_CHECKS and self._raised:
            self._raised = False
            return "resolved"
        return None

    def lines(self, percent: float) -> tuple[str, str]:
        above = f"Database connection pool usage has exceeded {self._threshold:g}%."
        return (
            "ALERT: CRITICAL - database_pool_exhausted",
            f"{above} Current value: {percent:.2f}, Threshold: {self._threshold:g}",
        )

    def resolved_line(self, percent: float) -> str:
        calm = f"{CLEAR_CHECKS} checks below {min(CLEAR_PERCENT, self._threshold):g}%"
        return f"RESOLVED: database_pool_exhausted - Current value: {percent:.2f}, {calm}"


class Monitor:
    """The checks, each of which one loop repeats."""

    def __init__(
        self,
        settings: ServiceSettings,
        database: Database,
        cache: Cache,
        guard: MemoryGuard,
        gauge: MemoryReader,
        collector: GarbageCollector,
        cleanup: Cleanup,
        clock: Clock = time.monotonic,
    ) -> None:
        self._settings = settings
        self._database = database
        self._cache = cache
        self._guard = guard
        self._gauge = gauge
        self._collector = collector
        self._cleanup = cleanup
        self._clock = clock
        self._alert = PoolAlert(settings.db_pool_alert_percent)
        self._refusal_told = False

    def loops(self) -> list[Callable[[], Awaitable[None]]]:
        """All of them, to be run for ever."""
        settings, clock = self._settings, self._clock
        return [
            partial(every, settings.db_pool_check_interval, self.check_pool, clock),
            partial(every, settings.db_pool_check_interval, self._cleanup.sweep, clock),
            partial(every, settings.memory_check_interval, self.check_memory, clock),
            partial(every, settings.memory_stats_interval, self.tell_memory, clock),
            partial(every, settings.gc_interval, self.collect, clock),
            partial(every, settings.cleanup_interval, self.clean_up, clock),
        ]

    async def check_pool(self) -> None:
        percent = self._database.usage.percent()
        change = self._alert.check(round(percent, 2))  # as it is told: "90.00, Threshold: 90" is no alert
        if change == "raised":
            for line in self._alert.lines(percent):
                pool_log.critical(line)
        elif change == "resolved":
            pool_log.info(self._alert.resolved_line(percent))

    async def check_memory(self) -> None:
        use = self._gauge.worst()
        short = self._guard.in_episode
        action = self._guard.sample(use, self._clock())
        if short and not self._guard.in_episode:
            memory_log.info("[Memory] RESOLVED: usage is back to normal: %.2f%% of %s", 100 * use.needed, use.what)
        self._tell_refusal(use)
        if self._guard.refusing or action is not None:
            self._collector.drop_reserve()
        elif use.needed < CLEAR:
            self._collector.hold_reserve()
        if action is None:
            return
        if action == "announce":
            memory_log.warning("[Memory] High heap usage: %.2f%%, forcing GC", 100 * use.ratio)
        entries = len(self._cache.fallback)
        freed = await self._collector.collect(give_up=self._cache.halve)
        memory_log.log(logging.WARNING if action == "announce" else logging.DEBUG, freed.line())
        memory_log.info("[Memory] %s: %d of %d cache entries left", use.what, len(self._cache.fallback), entries)
        share = (freed.heap + freed.external) / max(1, use.used)
        self._guard.collected(self._clock(), seconds=freed.seconds, freed_share=share)
        use = self._gauge.worst()
        self._guard.look(use)
        self._tell_refusal(use)

    def _tell_refusal(self, use: MemoryUsage) -> None:
        """Say once that work is refused, and once that it is served again."""
        if self._guard.refusing == self._refusal_told:
            return
        self._refusal_told = self._guard.refusing
        share = 100 * use.needed
        if self._refusal_told:
            memory_log.warning("[Memory] refusing work that is not essential: %.2f%% of %s is needed", share, use.what)
        else:
            memory_log.info("[Memory] RESOLVED: work is served again: %.2f%% of %s is needed", share, use.what)

    async def tell_memory(self) -> None:
        memory_log.info(figures().line(self._gauge.worst()))

    async def collect(self) -> None:
        self._cache.fallback.purge()
        if self._collector.worthwhile():
            memory_log.info((await self._collector.collect()).line())

    async def clean_up(self) -> None:
        try:
            await self._cleanup.run(least_interval=0)
        except Unavailable as error:
            pool_log.warning("cleanup: %s", error)


async def every(seconds: float, check: Callable[[], Awaitable[None]], clock: Clock) -> None:
    """Run `check` every so many seconds, for ever. One that is late is not made up for; one that fails is logged."""
    due = clock() + seconds
    while True:
        await asyncio.sleep(max(0.0, due - clock()))
        while due <= clock():
            due += seconds
        try:
            await check()
        except Exception:
            logging.getLogger("service.monitor").exception("a check failed")
