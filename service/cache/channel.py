"""Messages between the instances of the service, published in Redis. What is published while Redis is away is lost.

Rules: one connection listens, only while it is wanted and Redis is up. `RedisStore` decides whether Redis is up, so this file has
no probes. A connection that is silent for too long is replaced, because Redis answers a ping at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .redis_store import RedisStore, TimeBudget, failure_reason

if TYPE_CHECKING:
    from redis.asyncio.client import PubSub

log = logging.getLogger("service.channel")

POLL = 0.25  # seconds between two looks whether the connection is wanted and Redis is up
CONNECT_TIMEOUT = 2.0
PING_AFTER = 5.0  # seconds of silence, after which Redis is pinged
DEAD_AFTER = 8.0  # seconds of silence, after which the connection is replaced
MIN_DELAY, MAX_DELAY = 0.1, 5.0  # seconds between two attempts while Redis is up
OUTAGE_KNOWN_AFTER = 2.0  # seconds after which RedisStore has noticed an outage


class Channel:
    """One channel, by its name in Redis.

    Args:
        redis: decides which Redis is used, and whether it is up.
        name: of the channel.
        budget: seconds that a publication may take.
        on_message: called with each message, also with those of this instance.
        on_listening: called when a connection has begun to listen. Earlier messages may be lost.
    """

    def __init__(
        self,
        redis: RedisStore,
        name: str,
        *,
        budget: float,
        on_message: Callable[[str], None],
        on_listening: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._name = name
        self._budget = budget
        self._on_message = on_message
        self._on_listening = on_listening
        self._clock = clock
        self._wanted = asyncio.Event()
        self._failed = False
        self._failing = (-1, 0.0)  # the outages of Redis at the first failure in a row, and its time

    def listen(self) -> None:
        """Begin to listen. Without this call no connection is opened."""
        self._wanted.set()

    def stop_listening(self) -> None:
        """Close the connection, within a moment."""
        self._wanted.clear()

    async def publish(self, message: str) -> None:
        """Publish a message.

        Raises:
            RedisUnavailable: the message may or may not be published.
        """
        async with self._redis.client_within(TimeBudget(self._budget)) as client:
            await client.publish(self._name, message)

    async def run(self) -> None:
        """Listen while it is wanted and Redis is up, until cancelled."""
        delay = MIN_DELAY
        while True:
            await self._wanted.wait()
            await self._redis.wait_until(up=True)
            begun = self._clock()
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001  # Redis is optional, and whatever fails is tried again
                self._log_failure(error)
            delay = MIN_DELAY if self._clock() - begun > MAX_DELAY else min(2 * delay, MAX_DELAY)
            await asyncio.sleep(delay)

    async def _listen(self) -> None:
        """Listen on a new connection until it is lost, not wanted, or Redis is down."""
        client = await self._redis.open_client(max_connections=1)
        pubsub = client.pubsub()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await pubsub.subscribe(self._name)
                await pubsub.parse_response()
            self._log_success()
            self._on_listening()
            await self._receive(pubsub)
        finally:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    await pubsub.aclose()  # type: ignore[no-untyped-call]
                    await client.aclose()

    async def _receive(self, pubsub: PubSub) -> None:
        heard_at, pinged = self._clock(), False
        while self._wanted.is_set() and self._redis.up:
            message: dict[str, Any] | None = await pubsub.get_message(timeout=POLL)
            silence = self._clock() - heard_at
            if message is not None:
                heard_at, pinged = self._clock(), False
                if message["type"] == "message":
                    self._on_message(message["data"])
                    await asyncio.sleep(0)  # redis-py does not wait for what it has received already
            elif silence > DEAD_AFTER:
                raise TimeoutError
            elif silence > PING_AFTER and not pinged:
                pinged = True
                await pubsub.ping()

    def _log_failure(self, error: Exception) -> None:
        """Log once that messages of other instances are missed although Redis is up.

        A lost connection may be the beginning of an outage, so it is logged only if none is noticed.
        """
        now, outages = self._clock(), self._redis.outages
        if self._failing[0] != outages:
            self._failing = (outages, now)
        is_certain = _is_refusal(error) or now - self._failing[1] > OUTAGE_KNOWN_AFTER
        if self._redis.up and is_certain and not self._failed:
            self._failed = True
            log.warning("messages of other instances are not received: %s", failure_reason(error))

    def _log_success(self) -> None:
        self._failing = (-1, 0.0)
        if self._failed:
            self._failed = False
            log.info("RESOLVED: messages of other instances are received again")


def _is_refusal(error: Exception) -> bool:
    """True if an error is a reply of Redis. This imports nothing, because an import may fail."""
    return any(each.__name__ == "ResponseError" for each in type(error).__mro__)
