"""The campaign processor, which delivers a step of a campaign to every contact, exactly once.

Rules: a batch is one transaction, which holds the lock of the step. It selects contacts without a delivery, sends the
batch to the gateway, inserts the deliveries and commits. So two instances never deliver twice, and a job that runs again
continues where the last commit was. Only a crash between the gateway and the commit makes the gateway get a batch twice,
with the same ids. Progress is reported beside the batches and never delays or fails one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

from ..cache.cache import Cache
from ..errors import Unavailable
from ..postgres.campaigns import Campaigns
from ..postgres.deliveries import Deliveries, lock_step, next_recipients, record_deliveries
from ..postgres.pool import NoConnectionForWorker, WorkerDatabase
from .gateway import Batch, Gateway, TimedGateway
from .job import Announce, CampaignProgress, Job, JobReturned, Progress
from .orphans import remove_at_intervals

if TYPE_CHECKING:
    from ..settings import ServiceSettings

log = logging.getLogger("service.processor")
T = TypeVar("T")

STARTABLE = ("draft", "scheduled")  # statuses from which a campaign begins to be sent
BEFORE_ALL = -(2**63)  # below every id of a contact
BUSY_DELAY = 0.2  # seconds until the lock of a step is tried again, which another instance holds
REPORT_TIMEOUT = 1.0  # seconds for reporting progress once


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The result of one batch.

    Args:
        state: "sent", "busy" if another instance sends this step now, or "deleted" if the campaign no longer exists.
        size: recipients of the batch, 0 if none was left.
        last: the highest id of a recipient.
    """

    state: Literal["sent", "busy", "deleted"]
    size: int = 0
    last: int = 0


class CampaignProcessor:
    """The processor of jobs.

    Args:
        settings: of the service.
        database: the pool as workers use it.
        cache: gets each change of a campaign's status.
        gateway: takes the messages.
        announce: reports progress to clients.
        is_stopping: returns True once the service stops.
        tasks: runs the reports of progress.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        database: WorkerDatabase,
        cache: Cache,
        gateway: Gateway,
        *,
        announce: Announce,
        is_stopping: Callable[[], bool],
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._settings = settings
        self._database = database
        self._campaigns = Campaigns(database)
        self._deliveries = Deliveries(database)
        self._cache = cache
        self._gateway = TimedGateway(gateway, settings.gateway_timeout)
        self._announce = announce
        self._is_stopping = is_stopping
        self._tasks = tasks
        self._is_ready = False

    async def run(self) -> None:
        """Remove the deliveries of deleted campaigns every CLEANUP_INTERVAL, until cancelled."""
        if not self._is_ready:
            self._is_ready = True
            log.info("Campaign Processor ready")
        await remove_at_intervals(self._settings.cleanup_interval, self._deliveries.remove_orphans)

    async def process(self, job: Job, progress: Progress) -> None:
        """Send a step to all contacts that have no delivery of it yet. See `Processor`."""
        report = ProgressReport(job, progress, self._announce)
        reporting = self._tasks.create_task(report.run())
        try:
            await self._process(job, report)
        finally:
            report.close()
            await asyncio.wait({reporting}, timeout=REPORT_TIMEOUT)
            reporting.cancel()

    async def _process(self, job: Job, report: ProgressReport) -> None:
        sent, total = await self._run(lambda: self._deliveries.count(job.campaign_id, job.step))
        # Another step may have sent the campaign. A job that runs again after its end leaves it as it is.
        startable = (*STARTABLE, "sent") if sent < total else STARTABLE
        await self._run(lambda: self._change_status(job, startable, "sending"))
        if not await self._send_all(job, report):
            log.info("%s ends, because its campaign has been deleted", job.id)
            return
        await self._run(lambda: self._change_status(job, ("sending",), "sent"))
        sent, total = await self._run(lambda: self._deliveries.count(job.campaign_id, job.step))
        report.update(sent, total, "sent")
        log.info("%s is complete: %d contacts have a delivery", job.id, sent)

    async def _send_all(self, job: Job, report: ProgressReport) -> bool:
        """Send batches until every contact has a delivery. Return False if the campaign is deleted before that."""
        sent, total = await self._run(lambda: self._deliveries.count(job.campaign_id, job.step))
        report.update(sent, total, "sending")
        after = BEFORE_ALL
        while True:
            batch = await self._run(partial(self._send_batch, job, after))
            if batch.state == "busy":
                await asyncio.sleep(BUSY_DELAY)
            elif batch.state == "deleted":
                return False
            elif batch.size:
                after, sent = batch.last, sent + batch.size
                report.update(sent, max(sent, total), "sending")
            elif after == BEFORE_ALL:
                return True
            else:
                after = BEFORE_ALL  # contacts with lower ids may have been committed since, so all are looked through once more

    async def _send_batch(self, job: Job, after: int) -> BatchResult:
        """Send the next batch, of contacts whose id is above `after`."""
        size = self._settings.send_batch
        async with self._database.transaction() as transaction:
            step = await lock_step(transaction, job.campaign_id, job.step)
            if step is None or not step.locked:
                return BatchResult("deleted" if step is None else "busy")
            recipients = await next_recipients(transaction, job.campaign_id, job.step, after=after, limit=size)
            if recipients:
                await self._gateway.send(Batch(job, step.name, step.message, recipients))
                await record_deliveries(transaction, job.campaign_id, job.step, [each.id for each in recipients])
        return BatchResult("sent", len(recipients), recipients[-1].id if recipients else after)

    async def _change_status(self, job: Job, old: Sequence[str], new: str) -> None:
        """Set the status of the campaign if it is one of `old`. No reader of this instance sees an older copy from then on."""
        try:
            campaign = await self._campaigns.change_status(job.campaign_id, old, new)
        except NoConnectionForWorker:
            raise
        except Unavailable:
            self._cache.mark_uncertain(job.campaign_id)
            raise
        if campaign is not None:
            await self._cache.after_write(campaign.id, campaign.cache_entry())
        else:  # perhaps a process that was killed has set it, and did not reach the cache
            self._cache.mark_uncertain(job.campaign_id)

    async def _run(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Run an operation on Postgres, once a connection is free.

        Raises:
            JobReturned: the service stops.
        """
        while True:
            if self._is_stopping():
                raise JobReturned
            with contextlib.suppress(NoConnectionForWorker):
                return await operation()


class ProgressReport:
    """The newest progress of one run of a job, on its way to the queue and to clients. A slow report skips older progress."""

    def __init__(self, job: Job, progress: Progress, announce: Announce) -> None:
        self._job = job
        self._progress = progress
        self._announce = announce
        self._news: CampaignProgress | None = None
        self._closed = False
        self._wake = asyncio.Event()

    def update(self, sent: int, total: int, status: str) -> None:
        """Report a progress soon."""
        self._news = CampaignProgress(self._job.campaign_id, sent, total, status)
        self._wake.set()

    def close(self) -> None:
        """Let `run` end once the newest progress is reported."""
        self._closed = True
        self._wake.set()

    async def run(self) -> None:
        """Report until closed."""
        while not self._closed or self._news is not None:
            await self._wake.wait()
            self._wake.clear()
            news, self._news = self._news, None
            if news is not None:
                await self._report(partial(self._progress, news.sent, news.total))
                await self._report(partial(self._announce, news))

    async def _report(self, send: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(REPORT_TIMEOUT):
                await send()
        except Exception as error:  # noqa: BLE001  # progress is optional, and any error must leave the job alone
            log.debug("The progress of %s was not reported: %s", self._job.id, type(error).__name__)
