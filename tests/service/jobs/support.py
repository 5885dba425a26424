"""A campaign processor in the process of the test, with a gateway that the test scripts, and the tables of its jobs."""

import asyncio
import contextlib
from dataclasses import dataclass, field

from service.cache.cache import Cache
from service.jobs.job import GatewayFailed, Job
from service.jobs.processor import CampaignProcessor
from service.postgres.campaigns import CAMPAIGNS, Campaigns
from service.postgres.contacts import CONTACTS
from service.postgres.deliveries import DELIVERIES
from service.postgres.pool import Database
from service.postgres.status import PostgresStatus
from service.settings import ServiceSettings

from ..support import sql


class ScriptedGateway:
    """A gateway that records batches.

    Args:
        before: called with each batch before it is taken. It may fail or hang.
    """

    def __init__(self, before=None):
        self.batches = []
        self._before = before

    async def send(self, batch):
        if self._before is not None:
            await self._before(batch)
        self.batches.append(batch)

    @property
    def recipients(self):
        return [each.id for batch in self.batches for each in batch.recipients]


async def refuse(_):
    raise GatewayFailed("The gateway answered with status 500.")


async def hang(_):
    await asyncio.Event().wait()


@dataclass
class Scene:
    """A processor and what it works with."""

    database: Database
    cache: Cache
    processor: CampaignProcessor
    gateway: ScriptedGateway
    job: Job
    stopping: bool = False
    progress: list = field(default_factory=list)
    announced: list = field(default_factory=list)

    async def record_progress(self, sent, total):
        self.progress.append((sent, total))

    async def process(self):
        await self.processor.process(self.job, self.record_progress)

    async def campaign(self):
        return await Campaigns(self.database).get(self.job.campaign_id)


def create_tables(resilience):
    for table in (CAMPAIGNS, CONTACTS, DELIVERIES):
        sql(resilience, table.definition)


def create_campaign(resilience, *, contacts, status="draft"):
    """Create the tables, a campaign and contacts. Return the id of the campaign."""
    create_tables(resilience)
    add_contacts(resilience, contacts)
    insert = "INSERT INTO campaigns (name, message, status) VALUES ('Spring', 'Hello', $1) RETURNING id"
    return sql(resilience, insert, status)[0]["id"]


def add_contacts(resilience, count, prefix="c"):
    insert = (
        "INSERT INTO contacts (name, email) SELECT 'n', $2 || i || '@example.com' FROM generate_series(1, $1::int) i"
    )
    sql(resilience, insert, count, prefix)


def deliveries(resilience):
    """Return the contacts that have a delivery, one for each row."""
    return [row["contact_id"] for row in sql(resilience, "SELECT contact_id FROM deliveries ORDER BY contact_id")]


@contextlib.asynccontextmanager
async def processing(resilience, campaign_id, *, before=None, step=0, **settings):
    """Yield a Scene of the campaign."""
    values = {"db_pool_max": 3, "db_pool_acquire_timeout": 0.3, "db_command_timeout": 3.0, "send_batch": 10, **settings}
    settings = ServiceSettings(database_url=resilience.postgres.url, redis_url=resilience.redis.url, **values)
    database = Database(settings, "t3st", PostgresStatus())
    await database.start()
    gateway = ScriptedGateway(before)

    async def announce(progress):
        scene.announced.append(progress)

    try:
        async with asyncio.TaskGroup() as tasks:
            cache = Cache(settings, source_is_up=lambda: True, tasks=tasks)
            processor = CampaignProcessor(
                settings,
                database.for_workers,
                cache,
                gateway,
                announce=announce,
                is_stopping=lambda: scene.stopping,
                tasks=tasks,
            )
            scene = Scene(database, cache, processor, gateway, Job(campaign_id, step))
            yield scene
    finally:
        await database.close()
