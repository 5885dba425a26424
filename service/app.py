"""The application, with its parts created, started and stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from starlette.applications import Starlette
from starlette.middleware import Middleware

from .cache.cache import Cache
from .health import Health, Lifecycle
from .http.cadence_routes import CadenceRoutes
from .http.contact_routes import ContactRoutes
from .http.document_route import document_routes
from .http.job_routes import JobRoutes
from .http.live_updates import LiveUpdates
from .http.load_shedding import LoadSheddingMiddleware
from .http.problems import EXCEPTION_HANDLERS
from .http.request_timing import RequestTimingMiddleware
from .http.routes import CampaignRoutes, ServiceRoutes
from .jobs.gateway import create_gateway
from .jobs.processor import CampaignProcessor
from .jobs.progress_feed import ProgressFeed
from .jobs.queue import JobQueue
from .jobs.scheduler import CadenceScheduler
from .jobs.worker import Worker
from .memory.collector import GarbageCollector
from .memory.guard import MemoryGuard
from .memory.malloc import MIB
from .memory.usage import MemoryReader
from .metrics import Metrics, Sources
from .monitor import Monitor
from .postgres.cadences import CADENCES, Cadences
from .postgres.campaigns import CAMPAIGNS, Campaigns
from .postgres.cleanup import Cleanup
from .postgres.contacts import CONTACTS, Contacts
from .postgres.deliveries import DELIVERIES, Deliveries
from .postgres.monitor import PostgresMonitor
from .postgres.pool import Database
from .postgres.status import PostgresStatus
from .request_counts import RequestCounts
from .settings import ServiceSettings
from .shortages import Shortages

RESTART_DELAY = 1.0  # seconds from the failure of a loop until it runs again


class _Stopped(Exception):
    """An exception that ends the task group and all its tasks."""


def create_app(settings: ServiceSettings) -> Starlette:
    """Return the service as an ASGI application. It starts without Postgres and Redis, and connects when they are up."""
    boot_id = secrets.token_hex(4)
    tasks = asyncio.TaskGroup()  # owns every task of the service
    lifecycle = Lifecycle()

    postgres_status = PostgresStatus()
    database = Database(settings, boot_id, postgres_status)
    cache = Cache(settings, source_is_up=lambda: postgres_status.up, tasks=tasks)

    campaigns, cadences, queue = Campaigns(database), Cadences(database), JobQueue(settings, cache.redis)
    scheduler = CadenceScheduler(cadences, queue, clean_every=settings.cleanup_interval)
    postgres_monitor = PostgresMonitor(
        settings,
        boot_id,
        postgres_status,
        tables=(CAMPAIGNS, CONTACTS, DELIVERIES, CADENCES),
        pool_pids=database.server_pids,
        read_more=scheduler.read_next,
    )
    feed = ProgressFeed(cache.redis, Deliveries(database), budget=settings.redis_budget)
    processor = CampaignProcessor(
        settings,
        database.for_workers,
        cache,
        create_gateway(settings),
        announce=feed.announce,
        is_stopping=lambda: lifecycle.draining,
        tasks=tasks,
    )

    guard, collector = MemoryGuard(), GarbageCollector()
    memory_reader = MemoryReader(int(settings.memory_limit_mb * MIB), reserve_spent=collector.reserve_spent)
    cleanup = Cleanup(settings, database, postgres_monitor, collector, tasks)
    monitor = Monitor(settings, database, cache, guard, memory_reader, collector, cleanup)
    live_updates = LiveUpdates(settings, feed, lifecycle, tasks)
    requests, shortages = RequestCounts(), Shortages()
    metrics = Metrics(
        Sources(
            *(requests, lifecycle, database, postgres_status, cache, queue, scheduler),
            *(guard, memory_reader, collector, monitor.pool_alert, live_updates),
        )
    )
    health = Health(lifecycle, postgres_status, cache, guard, queue, scheduler)

    def may_take_job() -> bool:
        return postgres_status.up and not guard.refusing and not lifecycle.draining

    worker = Worker(settings, queue, processor, may_take=may_take_job)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_default_executor(_start_threads(2))
        await database.start()
        await queue.start()
        collector.start()
        try:
            async with tasks:
                for loop in (
                    *(postgres_monitor.run, cache.redis.run, queue.run, worker.run, scheduler.run, scheduler.clean),
                    *(live_updates.run, *feed.loops(), metrics.run, processor.run, *monitor.loops()),
                ):
                    tasks.create_task(_supervised(loop, shortages))
                yield
                raise _Stopped
        except* _Stopped:
            pass
        finally:
            await queue.close()
            await database.close()
            collector.close()

    app = Starlette(
        routes=[
            *CampaignRoutes(campaigns, cache, body_timeout=settings.body_timeout).routes(),
            *JobRoutes(campaigns, queue).routes(),
            *CadenceRoutes(cadences, scheduler, body_timeout=settings.body_timeout).routes(),
            *live_updates.routes(),
            *ContactRoutes(Contacts(database), body_timeout=settings.body_timeout).routes(),
            *ServiceRoutes(settings, health, metrics, cleanup).routes(),
            *document_routes(),
        ],
        middleware=[
            Middleware(RequestTimingMiddleware, counts=requests),
            Middleware(
                LoadSheddingMiddleware, lifecycle=lifecycle, guard=guard, collector=collector, shortages=shortages
            ),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.lifecycle, app.state.requests, app.state.shortages = lifecycle, requests, shortages
    return app


def _start_threads(count: int) -> ThreadPoolExecutor:
    """Return running threads for name lookups. A thread takes memory, which may be short later."""
    executor = ThreadPoolExecutor(count, thread_name_prefix="resolver")
    all_started = threading.Barrier(count + 1)
    for _ in range(count):
        executor.submit(all_started.wait)
    all_started.wait()
    return executor


async def _supervised(run: Callable[[], Awaitable[None]], shortages: Shortages) -> None:
    """Run a loop until it returns. If the loop fails, log the error and restart it. The lack of a resource is logged once."""
    while True:
        try:
            return await run()
        except Exception as error:
            if shortages.report(error, "for a background task, which is restarted") is None:
                logging.getLogger("service").exception("Background task failed; restarting")
            await asyncio.sleep(RESTART_DELAY)
