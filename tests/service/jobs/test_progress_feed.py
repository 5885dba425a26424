"""The progress of campaigns between instances, and the state of one campaign."""

import asyncio
import json

import pytest

from service.cache import channel
from service.errors import Unavailable
from service.jobs import progress_feed as module
from service.jobs.job import CampaignProgress
from service.jobs.progress_feed import NewestByCampaign, ProgressFeed

from ..cache.fake_redis import FakeRedis


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    for name in ("POLL", "MIN_DELAY", "MAX_DELAY"):
        monkeypatch.setattr(channel, name, 0.002)
    monkeypatch.setattr(module, "RETRY_DELAY", 0.002)


class FakeDeliveries:
    """The table, with one campaign."""

    def __init__(self):
        self.queries = 0
        self.error = None

    async def progress(self, campaign_id):
        self.queries += 1
        if self.error is not None:
            raise self.error
        return (5, 9, "sending") if campaign_id == 7 else None


class Instance:
    """The feed of one instance, and what its clients receive."""

    def __init__(self, redis, clock=None):
        self.store = redis.store()
        self.deliveries = FakeDeliveries()
        options = {} if clock is None else {"clock": clock}
        self.feed = ProgressFeed(self.store, self.deliveries, budget=0.1, **options)
        self.received = []

    def follow(self):
        self.feed.follow(self.received.append)


def progress(campaign_id, sent=1, status="sending"):
    return CampaignProgress(campaign_id, sent, 9, status)


def run(instances, scenario):
    """Run the feeds of instances beside a scenario until the scenario ends."""

    async def main():
        tasks = [asyncio.create_task(loop()) for each in instances for loop in each.feed.loops()]
        try:
            async with asyncio.timeout(5):
                return await scenario()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(main())


async def until(condition):
    while not condition():  # noqa: ASYNC110  # the fakes have no events
        await asyncio.sleep(0.001)


def test_each_client_receives_a_change_once():
    redis = FakeRedis()
    one, other = Instance(redis), Instance(redis)

    async def scenario():
        one.follow()
        other.follow()
        await until(lambda: len(redis.listeners) == 2)
        await one.feed.announce(progress(7))
        assert one.received == [progress(7)], "clients of the same instance wait for Redis"
        await until(lambda: other.received)
        await asyncio.sleep(0.01)

    run([one, other], scenario)
    assert (one.received, other.received) == ([progress(7)], [progress(7)])


def test_without_redis_own_clients_are_served_and_the_newest_changes_are_published_later():
    redis = FakeRedis()
    one, other = Instance(redis), Instance(redis)
    one.store.up = False

    async def scenario():
        one.follow()
        other.follow()
        await until(lambda: redis.listeners)
        for sent in range(1, 10):
            await one.feed.announce(progress(7, sent))
        await one.feed.announce(progress(8))
        assert len(one.received) == 10
        one.store.set_up(True)
        await until(lambda: len(other.received) == 2)

    run([one, other], scenario)
    assert other.received == [progress(7, 9), progress(8)], "of each campaign the newest change is published"


def test_a_publication_that_fails_is_repeated():
    redis = FakeRedis()
    one, other = Instance(redis), Instance(redis)

    async def scenario():
        other.follow()
        await until(lambda: redis.listeners)
        one.store.error = OSError()
        await one.feed.announce(progress(7))
        await asyncio.sleep(0.01)
        one.store.error = None
        await until(lambda: other.received)

    run([one, other], scenario)


def test_an_instance_that_begins_to_listen_reads_the_campaigns_under_way():
    redis = FakeRedis()
    one, other = Instance(redis), Instance(redis)

    async def scenario():
        one.follow()
        await until(lambda: redis.listeners)
        await other.feed.announce(progress(7, 3))
        await other.feed.announce(progress(8, 9, "sent"))
        await until(lambda: len(one.received) == 2)
        one.store.set_up(False)
        await until(lambda: not redis.listeners)
        one.store.set_up(True)  # the changes in between are lost
        await until(lambda: len(one.received) == 3)

    run([one, other], scenario)
    assert one.received[2] == progress(7, 5)
    assert one.deliveries.queries == 1, "a campaign that is sent does not change"


def test_a_state_that_is_read_late_does_not_replace_a_newer_change():
    one = Instance(FakeRedis())

    async def scenario():
        one.follow()
        await one.feed.announce(progress(7, 3))
        old = one.feed._known.get(7, seconds=60)
        await one.feed.announce(progress(7, 8))
        await one.feed._deliver_if_changed(old)
        one.deliveries.error = Unavailable("The database cannot answer now.")
        await one.feed._deliver_if_changed(one.feed._known.get(7, seconds=60))

    asyncio.run(scenario())
    assert one.received == [progress(7, 3), progress(7, 8)]


def test_many_changes_are_published_in_parts_and_bounded(monkeypatch):
    monkeypatch.setattr(module, "MAX_CAMPAIGNS", 120)
    redis = FakeRedis()
    one, other = Instance(redis), Instance(redis)
    one.store.up = False

    async def scenario():
        other.follow()
        await until(lambda: redis.listeners)
        for number in range(500):
            await one.feed.announce(progress(number))
        one.store.set_up(True)
        await until(lambda: len(other.received) == 120)

    run([one, other], scenario)
    assert redis.published == 3
    assert other.received == [progress(number) for number in range(380, 500)]


def test_a_client_that_follows_nothing_costs_no_connection():
    redis = FakeRedis()
    one = Instance(redis)

    async def scenario():
        one.follow()
        await until(lambda: redis.listeners)
        one.feed.unfollow()
        await until(lambda: not redis.listeners)
        await one.feed.announce(progress(7))

    run([one], scenario)
    assert one.received == []


@pytest.mark.parametrize("text", ["", "{", "[]", "5", '{"from": "x"}', '{"from": 1, "changes": [{"a": 1}]}'])
def test_a_message_of_another_program_is_ignored(text):
    redis = FakeRedis()
    one = Instance(redis)

    async def scenario():
        one.follow()
        await until(lambda: redis.listeners)
        redis.publish(text)
        change = {"id": 7, "sent": 1, "total": 9, "status": "sending"}
        redis.publish(json.dumps({"from": "x", "changes": [change]}))
        await until(lambda: one.received)

    run([one], scenario)
    assert one.received == [progress(7)]


def test_the_state_is_the_newest_change_and_then_that_of_postgres():
    now = 0.0
    one = Instance(FakeRedis(), clock=lambda: now)

    async def scenario():
        nonlocal now
        await one.feed.announce(progress(7, 3))
        fresh = await one.feed.state(7)
        assert one.deliveries.queries == 0
        now += module.FRESH + 0.1
        return fresh, await one.feed.state(7), await one.feed.state(8)

    assert asyncio.run(scenario()) == (progress(7, 3), progress(7, 5), None)


def test_without_postgres_the_state_is_the_last_known_one():
    now = 0.0
    one = Instance(FakeRedis(), clock=lambda: now)
    one.deliveries.error = Unavailable("The database cannot answer now.")

    async def scenario():
        nonlocal now
        await one.feed.announce(progress(7, 3))
        now += 3600.0
        assert await one.feed.state(7) == progress(7, 3)
        with pytest.raises(Unavailable):
            await one.feed.state(8)

    asyncio.run(scenario())


def test_the_state_takes_few_queries_at_the_same_time_and_bounded_time(monkeypatch):
    monkeypatch.setattr(module, "QUERY_TIMEOUT", 0.05)
    one = Instance(FakeRedis())
    running, most = 0, 0

    async def hang(campaign_id):
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await asyncio.Event().wait()
        finally:
            running -= 1

    one.deliveries.progress = hang

    async def scenario():
        async with asyncio.timeout(5):
            return await asyncio.gather(*(one.feed.state(number) for number in range(20)), return_exceptions=True)

    assert {type(answer) for answer in asyncio.run(scenario())} == {Unavailable}
    assert most == module.MAX_QUERIES


def test_the_newest_changes_are_bounded_and_age():
    now = 0.0
    newest = NewestByCampaign(lambda: now)
    for number in range(module.MAX_CAMPAIGNS + 1):
        newest.put(progress(number))
    assert newest.get(0, seconds=1.0) is None
    assert len(newest.recent(seconds=1.0)) == module.MAX_CAMPAIGNS
    now = 2.0
    newest.put(progress(5, 2))
    assert newest.recent(seconds=1.0) == [progress(5, 2)]
    assert newest.get(6, seconds=1.0) is None
    assert newest.get(6, seconds=2.0) == progress(6)
