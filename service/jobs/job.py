"""A job, which sends one step of a campaign to all contacts, and the interfaces between the parts that handle it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from ..errors import Unavailable

JobStatus = Literal["waiting", "active", "completed", "failed"]
Progress = Callable[[int, int], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Job:
    """One step of a campaign. Equal jobs are the same job, so enqueuing one twice makes one job.

    Args:
        campaign_id: number of the campaign.
        step: 0 for a send by request; 1 and more for the periods of a cadence.
    """

    campaign_id: int
    step: int = 0

    @property
    def id(self) -> str:
        """The id in the queue, such as "campaign-7-0". BullMQ takes neither a bare number nor a colon."""
        return f"campaign-{self.campaign_id}-{self.step}"

    @classmethod
    def from_id(cls, job_id: str) -> Job | None:
        """Return the job of an id, or None if no job has such an id."""
        name, _, rest = job_id.partition("-")
        campaign_id, _, step = rest.partition("-")
        numbers_ok = all(each.isascii() and each.isdigit() and len(each) <= 19 for each in (campaign_id, step))
        job = cls(int(campaign_id), int(step)) if name == "campaign" and numbers_ok else None
        return job if job is not None and job.id == job_id else None


@dataclass(frozen=True, slots=True)
class JobState:
    """The state of a job, as `GET /api/jobs/{id}` shows it.

    Args:
        job: the job.
        status: "waiting" in the queue or the journal, "active", "completed", or "failed" in the dead-letter queue.
        attempts: runs so far.
        sent: recipients that have a delivery.
        total: recipients in all, 0 before the first run.
        error: of the last failed run.
    """

    job: Job
    status: JobStatus
    attempts: int = 0
    sent: int = 0
    total: int = 0
    error: str | None = None


class JobReturned(Exception):
    """The service stops in the middle of a job, so the job goes back to the queue. The run is no failed attempt."""


class Processor(Protocol):
    """The campaign processor, which runs jobs."""

    async def process(self, job: Job, progress: Progress) -> None:
        """Send a step to all contacts that have no delivery of it yet. A job may run again after any interruption.

        Args:
            job: the job.
            progress: called after each batch with the recipients that have a delivery, and all recipients.

        Raises:
            JobReturned: the service stops.
            Unavailable: Postgres cannot answer now.
            GatewayFailed: the gateway failed.
        """


class Queue(Protocol):
    """The queue of jobs, shared by all instances of the service."""

    async def enqueue(self, job: Job) -> bool:
        """Accept a job, in Redis or in the journal. Return True if an instance that is killed now does not lose it.

        Raises:
            Unavailable: neither can take the job.
        """

    async def state(self, job_id: str) -> JobState | None:
        """Return the state of a job. None if there is no such job.

        Raises:
            Unavailable: Redis is down and the journal does not have the job.
        """

    async def retry(self, job_id: str) -> bool:
        """Move a job from the dead-letter queue back to the queue. False if it is not in the dead-letter queue.

        Raises:
            Unavailable: Redis is down.
        """


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """The queue in numbers, as the last background check saw it. `/metrics` reads them and waits for nothing.

    Args:
        waiting: jobs in Redis that wait for a worker, those included that wait for another try.
        active: jobs that a worker of any instance runs.
        failed: runs that failed, of this instance since its start.
        journal: jobs in the journal of this instance.
        dead: jobs in the dead-letter queue.
    """

    waiting: int = 0
    active: int = 0
    failed: int = 0
    journal: int = 0
    dead: int = 0


@dataclass(frozen=True, slots=True)
class CampaignProgress:
    """The data of a `campaign:progress` event.

    Args:
        id: number of the campaign.
        sent: recipients that have a delivery of the present step.
        total: recipients in all.
        status: of the campaign.
    """

    id: int
    sent: int
    total: int
    status: str


Announce = Callable[[CampaignProgress], Awaitable[None]]


class GatewayFailed(Unavailable):
    """The gateway did not take a message in time, or refused it."""
