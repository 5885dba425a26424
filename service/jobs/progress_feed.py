"""The progress of campaigns, from the processor that sends to the clients of all instances.

Rules: the clients of this instance get each change at once, whatever happens to Redis. For the other instances the newest change
of each campaign is kept until it is published. An instance that begins to listen requests the recent changes of the others,
because it may have missed them. Nothing here waits for a client, and the processor does not wait for Redis.
"""

from __future__ import annotations

import asyncio
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
RECENT = 60.0  # seconds for which a change is repeated to an instance that begins to listen
FRESH = 2.0  # seconds for which the newest change is the state, without a query
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

    def drop(self, campaign_id: int) -> None:
        self._changes.pop(campaign_id, None)

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
        self._own = NewestByCampaign(clock)
        self._known = NewestByCampaign(clock)
        self._unpublished: OrderedDict[int, CampaignProgress] = OrderedDict()
        self._to_publish = asyncio.Event()
        self._request_changes = False
        self._deliver: Callable[[CampaignProgress], None] | None = None
        self._channel = Channel(
            redis, CHANNEL, budget=budget, on_message=self._receive, on_listening=self._request_missed, clock=clock
        )

    async def announce(self, progress: CampaignProgress) -> None:
        """Deliver a change to the clients of this instance, and have it published for those of the others."""
        self._own.put(progress)
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
            found = await self._deliveries.progress(campaign_id)
        except Unavailable:
            known = self._known.get(campaign_id, seconds=math.inf)
            if known is None:
                raise
            return known
        return None if found is None else CampaignProgress(campaign_id, *found)

    def loops(self) -> tuple[Callable[[], Awaitable[None]], ...]:
        """Return the loops, each of which runs until cancelled."""
        return self._channel.run, self._publish

    async def _publish(self) -> None:
        """Publish the newest changes whenever there are some and Redis is up."""
        while True:
            await self._to_publish.wait()
            await self._redis.wait_until(up=True)
            changes, request = list(islice(self._unpublished.values(), BATCH_SIZE)), self._request_changes
            try:
                await self._channel.publish(self._encode(changes, request))
            except RedisUnavailable:
                await asyncio.sleep(RETRY_DELAY)
                continue
            self._request_changes = self._request_changes and not request
            for progress in changes:
                if self._unpublished.get(progress.id) is progress:
                    del self._unpublished[progress.id]
            if not self._unpublished and not self._request_changes:
                self._to_publish.clear()

    def _publish_later(self, progress: CampaignProgress) -> None:
        self._unpublished[progress.id] = progress
        if len(self._unpublished) > MAX_CAMPAIGNS:
            self._unpublished.popitem(last=False)
        self._to_publish.set()

    def _request_missed(self) -> None:
        """Request the recent changes of the other instances."""
        self._request_changes = True
        self._to_publish.set()

    def _encode(self, changes: list[CampaignProgress], request: bool) -> str:
        return json.dumps({"from": self._instance, "changes": [asdict(each) for each in changes], "request": request})

    def _receive(self, message: str) -> None:
        """Handle a message of any instance."""
        try:
            content = json.loads(message)
            sender, request = content["from"], bool(content["request"])
            changes = [CampaignProgress(**each) for each in content["changes"]]
        except (ValueError, TypeError, KeyError):
            log.debug("a message in %s is of another form", CHANNEL)
            return
        if sender == self._instance:
            return
        for progress in changes:
            self._own.drop(progress.id)  # another instance sends this campaign now
            self._spread(progress)
        if request:
            for progress in self._own.recent(seconds=RECENT):
                self._publish_later(progress)

    def _spread(self, progress: CampaignProgress) -> None:
        self._known.put(progress)
        if self._deliver is not None:
            self._deliver(progress)
