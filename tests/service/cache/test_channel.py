"""Messages between instances, by a Redis that comes and goes."""

import asyncio
import contextlib
import logging

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError

from service.cache import channel as module
from service.cache.channel import Channel
from service.cache.redis_store import RedisUnavailable

from .fake_redis import FakeRedis


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    for name in ("POLL", "MIN_DELAY", "MAX_DELAY"):
        monkeypatch.setattr(module, name, 0.002)


class Instance:
    """A channel of one instance, with what it receives."""

    def __init__(self, redis, clock=None):
        self.store = redis.store()
        self.received = []
        self.listening = 0
        options = {} if clock is None else {"clock": clock}
        self.channel = Channel(
            self.store, "a", budget=0.1, on_message=self.received.append, on_listening=self._count, **options
        )

    def _count(self):
        self.listening += 1


def run(instances, scenario):
    """Run the channels of instances beside a scenario until the scenario ends."""

    async def main():
        tasks = [asyncio.create_task(each.channel.run()) for each in instances]
        try:
            async with asyncio.timeout(5):
                await scenario()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())


async def until(condition):
    while not condition():  # noqa: ASYNC110  # the fakes have no events
        await asyncio.sleep(0.001)


def test_an_instance_that_listens_receives_the_messages_of_all():
    redis = FakeRedis()
    one, other = Instance(redis), Instance(redis)

    async def scenario():
        one.channel.listen()
        await until(lambda: one.listening)
        await other.channel.publish("x")
        await until(lambda: one.received == ["x"])

    run([one, other], scenario)
    assert other.store.connects == 0, "an instance that does not listen opens no connection"


def test_an_instance_listens_again_after_an_outage_and_connects_once_for_that():
    redis = FakeRedis()
    one = Instance(redis)

    async def scenario():
        one.channel.listen()
        await until(lambda: one.listening)
        one.store.set_up(False)
        await until(lambda: not redis.listeners)
        await asyncio.sleep(0.02)
        assert one.store.connects == 1, "nothing connects while Redis is down"
        one.store.set_up(True)
        await until(lambda: one.listening == 2)

    run([one], scenario)
    assert one.store.connects == 2


def test_the_connection_is_closed_when_nobody_listens():
    redis = FakeRedis()
    one = Instance(redis)

    async def scenario():
        one.channel.listen()
        await until(lambda: redis.listeners)
        one.channel.stop_listening()
        await until(lambda: not redis.listeners)

    run([one], scenario)


def test_a_refused_subscription_is_tried_again_and_logged_once(caplog):
    redis = FakeRedis()
    one = Instance(redis)
    one.store.error = NoPermissionError("No permissions to access a channel")
    with caplog.at_level(logging.INFO):

        async def scenario():
            one.channel.listen()
            await until(lambda: one.store.connects >= 5)
            one.store.error = None
            await until(lambda: one.listening)

        run([one], scenario)
    assert [record.message for record in caplog.records] == [
        "messages of other instances are not received: NoPermissionError: No permissions to access a channel",
        "RESOLVED: messages of other instances are received again",
    ]


def test_a_lost_connection_is_logged_only_if_redis_stays_up(caplog):
    now = 0.0
    redis = FakeRedis()
    one = Instance(redis, clock=lambda: now)
    one.store.error = RedisConnectionError("Connection closed by server.")

    async def fails(times):
        connects = one.store.connects
        await until(lambda: one.store.connects >= connects + times)

    async def scenario():
        nonlocal now
        one.channel.listen()
        for _ in range(3):  # outages, which are noticed a moment later
            now += module.OUTAGE_KNOWN_AFTER - 0.1
            await fails(3)
            one.store.outages += 1
        await fails(3)
        assert not caplog.records
        now += module.OUTAGE_KNOWN_AFTER + 0.1
        await fails(3)

    run([one], scenario)
    assert caplog.messages == [
        "messages of other instances are not received: ConnectionError: Connection closed by server."
    ]


def test_a_silent_connection_is_pinged_and_then_replaced(monkeypatch):
    now = 0.0
    redis = FakeRedis()
    one = Instance(redis, clock=lambda: now)
    pings = []
    monkeypatch.setattr("tests.service.cache.fake_redis.FakePubSub.ping", _record(pings), raising=True)

    async def scenario():
        nonlocal now
        one.channel.listen()
        await until(lambda: one.listening)
        now += module.PING_AFTER + 0.1
        await until(lambda: pings)
        now += module.DEAD_AFTER
        await until(lambda: one.listening == 2)

    run([one], scenario)
    assert len(pings) == 1


def _record(calls):
    async def ping(self):
        calls.append(self)

    return ping


def test_a_publication_without_redis_is_an_error():
    one = Instance(FakeRedis())
    one.store.up = False

    async def scenario():
        with pytest.raises(RedisUnavailable):
            await one.channel.publish("x")

    with contextlib.suppress(asyncio.CancelledError):
        run([], scenario)
