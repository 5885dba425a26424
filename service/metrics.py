"""The metrics for Prometheus, from numbers in memory. Nothing here waits.

Rules: a scrape reads numbers that requests and background checks have left, and the kernel's counts for this process. It
never queries a dependency. The values of labels are fixed sets, so neither clients nor failures add time series. No label
holds a name or an address from the settings.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

from .cache.cache import Cache
from .health import Lifecycle
from .http.live_updates import LiveUpdates
from .jobs.queue import JobQueue
from .jobs.scheduler import CadenceScheduler
from .memory.collector import GarbageCollector, MemoryStats, read_memory_stats
from .memory.guard import MemoryGuard
from .memory.usage import MemoryReader
from .monitor import PoolAlert
from .postgres.pool import Database
from .postgres.status import STATES, PostgresStatus
from .request_counts import BUCKETS, RequestCounts

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family

Value = tuple[tuple[str, ...], float]
"""The values of the labels, and the value of the metric."""

IMPORT_AFTER = 5.0  # seconds from the start until prometheus_client is imported, unless a scrape needs it first
STATS_MAX_AGE = 1.0  # seconds; with a large heap its statistics take milliseconds


@dataclass(frozen=True)
class Sources:
    """The parts of the service whose numbers the metrics show."""

    requests: RequestCounts
    lifecycle: Lifecycle
    database: Database
    postgres_status: PostgresStatus
    cache: Cache
    queue: JobQueue
    scheduler: CadenceScheduler
    guard: MemoryGuard
    memory_reader: MemoryReader
    collector: GarbageCollector
    pool_alert: PoolAlert
    live_updates: LiveUpdates
    memory_stats: Callable[[], MemoryStats] = field(default_factory=lambda: reread_after(STATS_MAX_AGE))


@dataclass(frozen=True)
class Metric:
    """One metric.

    Args:
        name: the name of a counter ends in `_total`.
        kind: as Prometheus calls it.
        help: one sentence.
        read: returns the values.
        labels: names of the labels.
    """

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    read: Callable[[Sources], Iterator[Value]]
    labels: tuple[str, ...] = ()


def _one(read: Callable[[Sources], float]) -> Callable[[Sources], Iterator[Value]]:
    """Return the reader of a metric without labels."""

    def read_one(sources: Sources) -> Iterator[Value]:
        yield (), float(read(sources))

    return read_one


def _one_of(names: tuple[str, ...], read: Callable[[Sources], str]) -> Callable[[Sources], Iterator[Value]]:
    """Return the reader of a metric that is 1 for the present state and 0 for all others."""

    def read_states(sources: Sources) -> Iterator[Value]:
        present = read(sources)
        for name in names:
            yield (name,), float(name == present)

    return read_states


def _requests(sources: Sources) -> Iterator[Value]:
    for kind, times in sources.requests.by_kind.items():
        yield (kind.method, kind.route, kind.status), times.count


def _cache_reads(sources: Sources) -> Iterator[Value]:
    for source in ("redis", "memory", "postgres"):
        for state in ("hit", "miss", "stale"):
            if (state == "miss") == (source == "postgres"):
                yield (source, state), sources.cache.reads[source, state]


def _alerts(sources: Sources) -> Iterator[tuple[str, bool, int]]:
    """Yield the name of each alert, True if it is active, and the number of its episodes."""
    yield "database_pool_exhausted", sources.pool_alert.raised, sources.pool_alert.episodes
    yield "memory_high", sources.guard.in_episode, sources.guard.episodes


def _active_alerts(sources: Sources) -> Iterator[Value]:
    for name, active, _ in _alerts(sources):
        yield (name,), float(active)


def _raised_alerts(sources: Sources) -> Iterator[Value]:
    for name, _, episodes in _alerts(sources):
        yield (name,), episodes


def _jobs(sources: Sources) -> Iterator[Value]:
    counts = sources.queue.counts
    for state in ("waiting", "active", "journal", "dead"):
        yield (state,), getattr(counts, state)


def _memory_in_use(sources: Sources) -> Iterator[Value]:
    stats = sources.memory_stats()
    kinds = {"rss": stats.rss, "heap": stats.heap_used, "heap_reserved": stats.heap_total, "external": stats.external}
    for kind, size in kinds.items():
        if size is not None:
            yield (kind,), size


CACHE_SOURCES = ("upstash", "redis", "localhost", "memory")
REQUEST_SECONDS = "service_http_request_duration_seconds"
REQUEST_SECONDS_HELP = "Time from the head of a request to the end of its response."
REQUEST_LABELS = ("method", "route", "status")

METRICS = (
    Metric(
        "service_http_requests_total",
        "counter",
        "Requests that were answered, refused ones included.",
        _requests,
        REQUEST_LABELS,
    ),
    Metric("service_http_requests_in_progress", "gauge", "Requests under way.", _one(lambda s: s.lifecycle.in_flight)),
    Metric(
        "service_live_update_clients",
        "gauge",
        "Clients of live updates that are connected.",
        _one(lambda s: s.live_updates.clients),
    ),
    Metric("service_draining", "gauge", "1 while the service shuts down.", _one(lambda s: s.lifecycle.draining)),
    Metric(
        "service_db_state",
        "gauge",
        "1 for the state of Postgres.",
        _one_of(STATES, lambda s: s.postgres_status.state),
        ("state",),
    ),
    Metric("service_db_pool_size", "gauge", "Open connections of the pool.", _one(lambda s: s.database.size())),
    Metric(
        "service_db_pool_in_use", "gauge", "Connections that requests use.", _one(lambda s: s.database.usage.in_use)
    ),
    Metric("service_db_pool_max", "gauge", "Largest number of connections.", _one(lambda s: s.database.usage.size)),
    Metric(
        "service_db_pool_utilisation_ratio",
        "gauge",
        "Share of the pool that is in use now.",
        _one(lambda s: s.database.usage.in_use / s.database.usage.size),
    ),
    Metric(
        "service_db_pool_average_ratio",
        "gauge",
        "Average share in use between the last two checks of the pool, which decides about the alert.",
        _one(lambda s: s.pool_alert.percent / 100),
    ),
    Metric(
        "service_db_pool_waiting",
        "gauge",
        "Requests that wait for a connection.",
        _one(lambda s: s.database.usage.waiting),
    ),
    Metric(
        "service_db_pool_busy_seconds_total",
        "counter",
        "Time for which connections were in use, all together.",
        _one(lambda s: s.database.usage.total_busy_seconds()),
    ),
    Metric(
        "service_cache_source",
        "gauge",
        "1 for the cache that reads use first: one of the three possible Redis, or memory while it is down.",
        _one_of(CACHE_SOURCES, lambda s: s.cache.redis.source if s.cache.redis.up else "memory"),
        ("source",),
    ),
    Metric(
        "service_cache_reads_total",
        "counter",
        "Reads of one campaign, by the layer that answered.",
        _cache_reads,
        ("source", "state"),
    ),
    Metric("service_cache_entries", "gauge", "Entries of the in-memory cache.", _one(lambda s: len(s.cache.memory))),
    Metric("service_cache_bytes", "gauge", "Size of the in-memory cache.", _one(lambda s: s.cache.memory.bytes)),
    Metric(
        "service_cache_pending_writes", "gauge", "Writes that Redis has missed.", _one(lambda s: s.cache.pending_writes)
    ),
    Metric("service_redis_up", "gauge", "1 while requests use Redis.", _one(lambda s: s.cache.redis.up)),
    Metric(
        "service_redis_breaker_open",
        "gauge",
        "1 while the circuit breaker keeps requests from Redis.",
        _one(lambda s: not s.cache.redis.up),
    ),
    Metric("service_redis_outages_total", "counter", "Outages of Redis.", _one(lambda s: s.cache.redis.outages)),
    Metric("service_memory_bytes", "gauge", "Memory in use.", _memory_in_use, ("kind",)),
    Metric(
        "service_memory_limit_bytes",
        "gauge",
        "The limit that is closest.",
        _one(lambda s: s.memory_reader.worst().limit),
    ),
    Metric(
        "service_memory_used_ratio",
        "gauge",
        "Share of that limit that is in use.",
        _one(lambda s: s.memory_reader.worst().ratio),
    ),
    Metric(
        "service_memory_refusing",
        "gauge",
        "1 while requests are refused for lack of memory.",
        _one(lambda s: s.guard.refusing),
    ),
    Metric(
        "service_gc_collections_total",
        "counter",
        "Collections that the service has forced.",
        _one(lambda s: s.collector.totals.collections),
    ),
    Metric(
        "service_gc_seconds_total",
        "counter",
        "Time for which these collections blocked all requests.",
        _one(lambda s: s.collector.totals.seconds),
    ),
    Metric(
        "service_gc_freed_bytes_total",
        "counter",
        "Heap and external memory that these collections freed.",
        _one(lambda s: s.collector.totals.freed),
    ),
    Metric("service_jobs", "gauge", "Jobs by state; `dead` is the dead-letter queue.", _jobs, ("state",)),
    Metric(
        "service_job_failures_total",
        "counter",
        "Failed runs of jobs in this instance. A run that an outage or a shutdown interrupts is none.",
        _one(lambda s: s.queue.counts.failed),
    ),
    Metric(
        "service_cadence_lag_seconds",
        "gauge",
        "Time by which the most overdue step of a cadence is late.",
        _one(lambda s: s.scheduler.lag),
    ),
    Metric("service_alert_active", "gauge", "1 during an episode of the alert.", _active_alerts, ("alert",)),
    Metric("service_alerts_raised_total", "counter", "Episodes of the alert.", _raised_alerts, ("alert",)),
)


class Metrics:
    """The metrics of one service, as text for Prometheus."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    async def run(self) -> None:
        """Import prometheus_client once the start is over, and wait until cancelled.

        The import takes memory, which may be short at the first scrape.
        """
        await asyncio.sleep(IMPORT_AFTER)
        await asyncio.to_thread(importlib.import_module, "prometheus_client")
        await asyncio.Event().wait()

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the text and its media type.

        Args:
            accept: the header of that name, which may request OpenMetrics or a version. A malformed one requests nothing.
        """
        from prometheus_client.exposition import choose_encoder
        from prometheus_client.registry import CollectorRegistry

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        try:
            encode, media_type = choose_encoder(accept)
        except (TypeError, ValueError):  # choose_encoder compares a version that it could not parse
            encode, media_type = choose_encoder("")
        return encode(registry), media_type

    def collect(self) -> Iterator[Family]:
        """Yield all metrics, as a Collector of prometheus_client."""
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

        families = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
        for metric in METRICS:
            family = families[metric.kind](metric.name, metric.help, labels=metric.labels)
            for labels, value in metric.read(self._sources):
                family.add_metric(labels, value)
            yield family
        yield self._request_seconds()

    def _request_seconds(self) -> Family:
        from prometheus_client.metrics_core import HistogramMetricFamily

        family = HistogramMetricFamily(REQUEST_SECONDS, REQUEST_SECONDS_HELP, labels=REQUEST_LABELS)
        bounds = [*map(str, BUCKETS), "+Inf"]
        for kind, times in self._sources.requests.by_kind.items():
            counts = list(zip(bounds, accumulate(times.buckets), strict=True))
            family.add_metric((kind.method, kind.route, kind.status), counts, times.seconds)
        return family


def reread_after(seconds: float, clock: Callable[[], float] = time.monotonic) -> Callable[[], MemoryStats]:
    """Return a function that reads the memory statistics, at most once in `seconds` seconds."""
    latest: list[tuple[float, MemoryStats]] = []

    def read() -> MemoryStats:
        now = clock()
        if not latest or now - latest[0][0] >= seconds:
            latest[:] = [(now, read_memory_stats())]
        return latest[0][1]

    return read
