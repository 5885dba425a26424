"""Messages arrive again after each outage of Redis."""

from __future__ import annotations

import asyncio

from hypothesis import given
from redis.asyncio import Redis
from redis.exceptions import RedisError
from subscriber import CHANNEL, Subscriber

from pytest_resilience import Resilience, Schedule
from pytest_resilience.checkers import recovered
from pytest_resilience.history import Client
from pytest_resilience.strategies import schedules


class Publishing:
    """Publish a message around the proxy, and wait until the subscriber has received it."""

    kinds = ("publish",)

    async def begin(self, resilience: Resilience) -> None:
        self._publisher = Redis.from_url(resilience.redis.direct_url)
        self._subscriber = Subscriber(resilience.redis.url)
        await self._subscriber.start()

    def kind(self, n: int) -> str:
        return "publish"

    async def perform(self, client: Client, kind: str, n: int) -> None:
        message = f"{client.process}.{n}.{client.history.now()}"
        call = client.invoke(kind, value=message)
        try:
            async with asyncio.timeout(1.0):
                await self._publisher.publish(CHANNEL, message)
                await self._subscriber.wait_for(message)
        except (RedisError, OSError, TimeoutError) as error:
            call.fail(error)
        else:
            call.ok()

    async def read_all(self, client: Client) -> None:
        """Nothing is stored."""

    async def end(self) -> None:
        await self._subscriber.stop()
        await self._publisher.aclose()


@given(schedule=schedules("redis", faults=("reset", "refuse", "latency", "bandwidth"), operations=8))
def test_messages_arrive_after_each_outage(resilience: Resilience, schedule: Schedule) -> None:
    resilience.play(schedule, Publishing()).check(recovered(within=5))
