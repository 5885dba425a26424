"""A Redis in memory that can publish, and that can be taken away."""

import asyncio
import contextlib

from service.cache.redis_store import RedisUnavailable


class FakeRedis:
    """Stands for the Redis of several instances. `store()` returns what one instance uses in place of RedisStore."""

    def __init__(self):
        self.stores = []
        self.listeners = set()
        self.published = 0

    def store(self):
        self.stores.append(FakeStore(self))
        return self.stores[-1]

    def publish(self, message):
        self.published += 1
        for each in list(self.listeners):
            each.put_nowait({"type": "message", "data": message})


class FakeStore:
    """The Redis of one instance, up or down."""

    def __init__(self, redis):
        self.redis = redis
        self.up = True
        self.outages = 0
        self.connects = 0
        self.error = None
        self._changed = asyncio.Event()

    def set_up(self, up):
        self.up = up
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_until(self, *, up):
        while self.up is not up:
            await self._changed.wait()

    @contextlib.asynccontextmanager
    async def client_within(self, budget):
        if not self.up or self.error is not None:
            raise RedisUnavailable
        yield self

    async def open_client(self, *, max_connections):
        self.connects += 1
        if self.error is not None:
            raise self.error
        return self

    def pubsub(self):
        return FakePubSub(self)

    async def publish(self, name, message):
        self.redis.publish(message)

    async def aclose(self):
        pass


class FakePubSub:
    """A connection that listens."""

    def __init__(self, store):
        self._store = store
        self._messages = asyncio.Queue()

    async def subscribe(self, name):
        self._store.redis.listeners.add(self._messages)

    async def parse_response(self):
        return []

    async def get_message(self, timeout):  # noqa: ASYNC109  # as in redis-py
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                return await self._messages.get()
        return None

    async def ping(self):
        await self._messages.put({"type": "pong", "data": ""})

    async def aclose(self):
        self._store.redis.listeners.discard(self._messages)
