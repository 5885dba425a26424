"""The progress of campaigns, from the processor that sends to the clients of all instances.

Rules: the clients of this instance get each change at once, whatever happens to Redis. For the other instances the newest change
of each campaign is kept until it is published. An instance that begins to listen may have missed changes, so it reads the state of
the campaigns that are under way from Postgres. Nothing here waits for a client, and the processor does not wait for Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from itertools import islice

from ..cache.channel import Channel
from ..cache.redis_store import RedisStore, RedisUnavailable
from ..errors import Unavailable
from ..postgres.deliveries import Deliveries
from .job import CampaignProgress

log = logging.getLogger("service.progress")

CHANNEL = "service:campaign-progress"
MAX_CAMPAIGNS = 1000  # of which the newest change is kept
BATCH_SIZE = 50  # changes of one message, so that the clients get them before the next message
UNDER_WAY = 600.0  # seconds without a change, after which a campaign is not read again
FRESH = 2.0  # seconds for which the newest change is the state, without a query
MAX_QUERIES = 2  # at the same time, so that clients leave the pool to requests
QUERY_TIMEOUT = 5.0  # seconds, for the wait before a query too
RETRY_DELAY = 0.1


class NewestByCampaign:
    """The newest change of each campaign, of the last MAX_CAMPAIGNS campaigns, with the time of the change."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._changes: OrderedDict[int, tuple[CampaignProgress, float]] = OrderedDict()

    def put(self, progress: CampaignProgress) -> None:
        self._changes[progress.id] = progress, self._clock()
        self._changes.move_to_end(progress.id)
        if len(self._changes) > MAX_CAMPAIGNS:
            self._changes.popitem(last=False)

    def get(self, campaign_id: int, *, seconds: float) -> CampaignProgress | None:
        """Return the newest change of a campaign, if it is not older than `seconds`."""
        progress, changed_at = self._changes.get(campaign_id, (None, 0.0))
        return progress if progress is not None and self._clock() - changed_at <= seconds else None

    def recent(self, *, seconds: float) -> list[CampaignProgress]:
        """Return the changes that are not older than `seconds`, oldest first."""
        return [progress for progress, changed_at in self._changes.values() if self._clock() - changed_at <= seconds]


class ProgressFeed:
    """The changes that this instance makes, and those that it receives.

    Args:
        redis: carries changes between the instances.
        deliveries: the table, which has the state of each campaign.
        budget: seconds that one publication may take.
    """

    def __init__(
        self,
        redis: RedisStore,
        deliveries: Deliveries,
        *,
        budget: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._deliveries = deliveries
        self._instance = secrets.token_hex(8)
        self._known = NewestByCampaign(clock)
        self._unpublished: OrderedDict[int, CampaignProgress] = OrderedDict()
        self._to_publish = asyncio.Event()
        self._queries = asyncio.Semaphore(MAX_QUERIES)
        self._may_have_missed = asyncio.Event()
        self._deliver: Callable[[CampaignProgress], None] | None = None
        self._channel = Channel(
            redis, CHANNEL, budget=budget, on_message=self._receive, on_listening=self._may_have_missed.set, clock=clock
        )

    async def announce(self, progress: CampaignProgress) -> None:
        """Deliver a change to the clients of this instance, and have it published for those of the others."""
        self._publish_later(progress)
        self._spread(progress)

    def follow(self, deliver: Callable[[CampaignProgress], None]) -> None:
        """Receive the changes of all instances. Until this call, Redis is used for own changes only.

        Args:
            deliver: called with each change. It must not wait.
        """
        self._deliver = deliver
        self._channel.listen()

    def unfollow(self) -> None:
        """Receive no more changes of other instances."""
        self._deliver = None
        self._channel.stop_listening()

    async def state(self, campaign_id: int) -> CampaignProgress | None:
        """Return the present progress of a campaign. None if there is no such campaign.

        Raises:
            Unavailable: Postgres is down, and no change of the campaign is known.
        """
        known = self._known.get(campaign_id, seconds=FRESH)
        if known is not None:
            return known
        try:
            return await self._read(campaign_id)
        except Unavailable:
            known = self._known.get(campaign_id, seconds=math.inf)
            if known is None:
                raise
            return known

    def loops(self) -> tuple[Callable[[], Awaitable[None]], ...]:
        """Return the loops, each of which runs until cancelled."""
        return self._channel.run, self._publish, self._read_missed

    async def _publish(self) -> None:
        """Publish the newest changes whenever there are some and Redis is up."""
        while True:
            await self._to_publish.wait()
            await self._redis.wait_until(up=True)
            changes = list(islice(self._unpublished.values(), BATCH_SIZE))
            message = {"from": self._instance, "changes": [asdict(each) for each in changes]}
            try:
                await self._channel.publish(json.dumps(message))
            except RedisUnavailable:
                await asyncio.sleep(RETRY_DELAY)
                continue
            for progress in changes:
                if self._unpublished.get(progress.id) is progress:
                    del self._unpublished[progress.id]
            if not self._unpublished:
                self._to_publish.clear()

    async def _read_missed(self) -> None:
        """Deliver the state of each campaign under way whenever changes may have been missed."""
        while True:
            await self._may_have_missed.wait()
            self._may_have_missed.clear()
            for known in self._known.recent(seconds=UNDER_WAY):
                if known.status == "sending":
                    await self._deliver_if_changed(known)

    async def _deliver_if_changed(self, known: CampaignProgress) -> None:
        with contextlib.suppress(Unavailable):  # clients can still request the state
            state = await self._read(known.id)
            if state not in (None, known) and self._known.get(known.id, seconds=math.inf) is known:
                assert state is not None
                self._spread(state)

    async def _read(self, campaign_id: int) -> CampaignProgress | None:
        try:
            async with asyncio.timeout(QUERY_TIMEOUT), self._queries:
                found = await self._deliveries.progress(campaign_id)
        except TimeoutError:
            raise Unavailable("The state cannot be read now.") from None
        return None if found is None else CampaignProgress(campaign_id, *found)

    def _publish_later(self, progress: CampaignProgress) -> None:
        self._unpublished[progress.id] = progress
        if len(self._unpublished) > MAX_CAMPAIGNS:
            self._unpublished.popitem(last=False)
        self._to_publish.set()

    def _receive(self, message: str) -> None:
        """Handle a message of any instance."""
        try:
            content = json.loads(message)
            changes = [CampaignProgress(**each) for each in content["changes"]]
            is_own = content["from"] == self._instance
        except (ValueError, TypeError, KeyError):
            log.debug("a message in %s is of another form", CHANNEL)
            return
        if not is_own:
            for progress in changes:
                self._spread(progress)

    def _spread(self, progress: CampaignProgress) -> None:
        self._known.put(progress)
        if self._deliver is not None:
            self._deliver(progress)
