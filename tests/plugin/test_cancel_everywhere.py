"""`cancel_everywhere` names the one point at which a cancellation damages a pool, and passes pools that have no such point."""

from __future__ import annotations

import pytest

POOL = '''
"""A pool of two connections to Redis. Its operation sends three messages. `damage` is called when an operation is cancelled."""
import asyncio

class Connection:
    async def open(self, host, port):
        self.reader, self.writer = await asyncio.open_connection(host, port)
        return self

    async def get(self, key):
        self.writer.write(f"GET {key}\\r\\n".encode())
        head = await self.reader.readuntil(b"\\r\\n")
        return (await self.reader.readuntil(b"\\r\\n")).strip()

class Pool:
    def __init__(self, target, damage=None):
        self.address = target.host, target.port
        self.damage = damage
        self.idle, self.opened, self.free = [], [], asyncio.Semaphore(2)

    async def three(self):
        return await self.run("a", "b", "c")

    async def last(self):
        return await self.run("d")

    async def run(self, *keys):
        await self.free.acquire()
        connection, message = None, 0
        try:
            connection = self.idle.pop() if self.idle else await self.connect()
            for message, key in enumerate(keys, 1):
                answer = await connection.get(key)
        except BaseException:
            if self.damage is None or not self.damage(self, connection, message, len(keys)):
                self.give_back(connection, usable=False)
            raise
        self.give_back(connection)
        return answer

    async def connect(self):
        self.opened.append(await Connection().open(*self.address))
        return self.opened[-1]

    def give_back(self, connection, usable=True):
        if usable:
            self.idle.append(connection)
        elif connection is not None:
            connection.writer.close()
        self.free.release()

    async def close(self):
        for connection in self.opened:
            connection.writer.close()
            await connection.writer.wait_closed()
'''

TEST = """
import asyncio, redis
from pool import Pool

def cancelled(resilience, damage=None, size=2, **settings):
    with redis.Redis.from_url(resilience.redis.direct_url) as client:
        client.mset({each: f"answer {each}" for each in "abcd"})

    async def body():
        pool = Pool(resilience.redis, damage)
        try:
            return await resilience.redis.cancel_everywhere(
                pool.three, then=settings.pop("then", pool.last), size=size, **settings
            )
        finally:
            await pool.close()

    return asyncio.run(body())

"""


@pytest.fixture
def pool(project: pytest.Pytester) -> pytest.Pytester:
    """A project with a pool."""
    project.makepyfile(pool=POOL)
    return project


def run(pool: pytest.Pytester, test: str) -> pytest.RunResult:
    pool.makepyfile(TEST + test)
    return pool.runpytest_inprocess(
        "-p", "no:asyncio", "-p", "no:anyio", "--resilience-strict", "--resilience-leaks=error"
    )


def test_a_sound_pool_passes_and_each_point_is_struck(pool: pytest.Pytester) -> None:
    result = run(
        pool,
        """
def test_pool(resilience):
    done = cancelled(resilience, whole=lambda: True)
    assert done.messages == 3 and done.cancellations == len(done.points) == 21
    assert done.points[:3] == (
        "cancelled after message 1 of 3, heal before the next operation",
        "cancelled after message 1 of 3, heal during the next operation",
        "cancelled after message 1 of 3, heal after the next operation",
    )
    assert "cancelled before answer 2 of 3, heal during the next operation" in done.points
    assert done.points[-1] == "cancelled as answer 3 of 3 arrives"
    (strike,) = resilience.strikes
    assert str(strike.receipt).startswith("affected 21 operations, first after ")
""",
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines("redis.cancel_everywhere: 1 strike, all hit (21 operations)")


DAMAGES = r"""
import pytest
from pytest_resilience import NotCancellationSafe

def mixes_up_answers(pool, connection, message, messages):
    if message == 2:
        pool.give_back(connection)  # with an answer that was not read
        return True

def loses_a_connection(pool, connection, message, messages):
    return message == 3

def loses_one_when_the_next_caller_gives_up(pool, connection, message, messages):
    return messages == 1 and message == 1

def takes_an_arrived_answer_for_a_read_one(pool, connection, message, messages):
    if message == 2 and connection.reader._buffer:
        pool.give_back(connection)
        return True

def keeps_a_connection_open(pool, connection, message, messages):
    if message == 1:
        pool.free.release()
        return True

def leaks_a_task(pool, connection, message, messages):
    if message == 2:
        pool.cleaner = asyncio.create_task(asyncio.sleep(60), name="cleaner")

def hides_its_cancellation(pool, connection, message, messages):
    if message == 3 and messages == 3:
        pool.give_back(connection, usable=False)
        raise OSError("cancelled, in other words")

@pytest.mark.parametrize(("damage", "message"), [
    (mixes_up_answers, "after message 2 of 3, heal before the next operation: "
                       "the next operation returned b'answer b' instead of b'answer d'"),
    (loses_a_connection, "after message 3 of 3, heal before the next operation: 1 of 2 connections can be used"),
    (loses_one_when_the_next_caller_gives_up,
     "after message 1 of 3, heal after the next operation: 1 of 2 connections can be used"),
    (takes_an_arrived_answer_for_a_read_one,
     "as answer 2 of 3 arrives: the next operation returned b'answer b' instead of b'answer d'"),
    (keeps_a_connection_open,
     "after message 1 of 3, heal before the next operation: leaked 3 connections open instead of 2; "),
    (leaks_a_task, "after message 2 of 3, heal before the next operation: leaked task:cleaner"),
    (hides_its_cancellation, "after message 3 of 3, heal before the next operation: "
                             "the operation raised OSError('cancelled, in other words') instead of CancelledError"),
])
def test_the_one_point_is_named(resilience, damage, message):
    with pytest.raises(NotCancellationSafe) as raised:
        cancelled(resilience, damage)
    assert str(raised.value).startswith(f"redis.cancel_everywhere: cancelled {message}")
    assert "pool.py:" in str(raised.value), "the line at which the operation waited"
"""


def test_the_one_point_is_named(pool: pytest.Pytester) -> None:
    run(pool, DAMAGES).assert_outcomes(passed=7)


def test_an_answer_that_is_late_is_found_by_the_heal_during_the_next_operation(pool: pytest.Pytester) -> None:
    """The pool discards the old answer if it has arrived, so only an answer that is still under way reaches the next caller."""
    result = run(
        pool,
        """
class Discarding(Pool):
    async def run(self, *keys):
        for connection in self.idle:
            if getattr(connection, "unread", False):
                try:
                    await asyncio.wait_for(connection.reader.readuntil(b"\\r\\n"), 0.05)
                    await connection.reader.readuntil(b"\\r\\n")
                    connection.unread = False
                except asyncio.TimeoutError:
                    pass
        return await super().run(*keys)

def damage(pool, connection, message, messages):
    if message == 2 and not connection.reader._buffer:
        connection.unread = True
        pool.give_back(connection)
        return True

def test_pool(resilience, monkeypatch):
    monkeypatch.setitem(globals(), "Pool", Discarding)
    cancelled(resilience, damage, size=None)
""",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        "E*after message 2 of 3, heal during the next operation: the next operation returned b'answer b' *"
    )


WRONG = r"""
import itertools, pytest
from pytest_resilience import SetupError

@pytest.mark.parametrize(("settings", "message"), [
    ({"size": 3}, "before any cancellation, 2 of 3 connections can be used"),
    ({"size": 0}, "size is a number of connections from 1 on, got 0"),
    ({"whole": lambda: False}, "before any cancellation, whole= was not true within 0.5 s, the last answer was False"),
    ({"then": lambda count=itertools.count(): asyncio.sleep(0, next(count))},
     "then= returned 0 and 1 before any cancellation, so no answer is known to be right"),
    ({"answer": b"answer c"}, "before any cancellation, then= returned b'answer d', which is not answer="),
    ({"then": lambda: asyncio.sleep(9)}, "before any cancellation, then= raised TimeoutError()"),
    ({"within": 0}, "within is in seconds above 0, got 0"),
])
def test_a_wrong_experiment(resilience, settings, message):
    with pytest.raises(SetupError) as raised:
        cancelled(resilience, **{"within": 0.5, **settings})
    assert message in str(raised.value)

def test_nothing_sent(resilience):
    async def body():
        await resilience.redis.cancel_everywhere(lambda: asyncio.sleep(0))
    with pytest.raises(SetupError, match="the operation has sent nothing: does its client go through the proxy"):
        asyncio.run(body())
"""


def test_a_wrong_experiment_is_no_finding(pool: pytest.Pytester) -> None:
    pool.makepyfile(TEST + WRONG)
    result = pool.runpytest_inprocess("-p", "no:asyncio", "-p", "no:anyio")
    result.stdout.fnmatch_lines("*= 1 passed, *7 vacuous in *")


def test_pools_of_real_clients_pass(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
import asyncio, asyncpg, redis.asyncio

def test_redis(resilience):
    async def body():
        pool = redis.asyncio.BlockingConnectionPool.from_url(resilience.redis.url, max_connections=2, timeout=5)
        async with redis.asyncio.Redis(connection_pool=pool) as client:
            await client.mset({"one": "first", "two": "second"})
            done = await resilience.redis.cancel_everywhere(lambda: client.get("one"), then=lambda: client.get("two"), size=2)
            assert done.messages == 1
        await pool.aclose()

    asyncio.run(body())

def test_postgres(resilience):
    async def body():
        async with asyncpg.create_pool(resilience.postgres.url, min_size=1, max_size=2) as pool:
            async def select():
                async with pool.acquire() as connection, connection.transaction():
                    return await connection.fetchval("select 1")

            done = await resilience.postgres.cancel_everywhere(
                select, then=lambda: pool.fetchval("select 2"), size=pool.get_max_size,
                whole=lambda: pool.get_idle_size() == pool.get_size(),
            )
            assert done.messages == 4, "BEGIN, the statement, COMMIT, and what resets the connection"

    asyncio.run(body())

def test_a_handshake(resilience):
    async def body():
        async def select():
            connection = await asyncpg.connect(resilience.postgres.url)
            try:
                return await connection.fetchval("select 1")
            finally:
                await connection.close()

        done = await resilience.postgres.cancel_everywhere(select)
        assert done.messages > 3

    asyncio.run(body())
"""
    )
    result = project.runpytest_inprocess(
        "-p", "no:asyncio", "-p", "no:anyio", "--resilience-strict", "--resilience-leaks=error"
    )
    result.assert_outcomes(passed=3)


def test_a_client_that_blocks_the_event_loop_is_found_and_the_test_ends(project: pytest.Pytester) -> None:
    project.makepyfile(
        r"""
import asyncio
import pytest
import redis
import redis.asyncio
from pytest_resilience import NotCancellationSafe, SetupError

def test_from_a_cancellation_on(resilience):
    async def body():
        blocking = redis.Redis.from_url(resilience.redis.url)    # as a client whose cancellation sends a request of its own
        async with redis.asyncio.Redis.from_url(resilience.redis.url) as client:
            async def get():
                try:
                    return await client.get("one")
                except asyncio.CancelledError:
                    blocking.ping()
                    raise

            await client.set("one", "first")
            with pytest.raises(NotCancellationSafe) as raised:
                await resilience.redis.cancel_everywhere(get, then=lambda: client.get("one"), within=1)
            assert "the client blocked the event loop for 1 s, until the network healed: no other task ran" in str(raised.value)
        blocking.close()

    asyncio.run(body())

def test_always(resilience):
    async def body():
        with redis.Redis.from_url(resilience.redis.url) as client:
            async def get():
                return client.get("one")

            with pytest.raises(SetupError, match="the operation blocks the event loop while it waits for the network"):
                await resilience.redis.cancel_everywhere(get, within=1)

    asyncio.run(body())
"""
    )
    result = project.runpytest_subprocess(
        "-p", "no:asyncio", "-p", "no:anyio", "-o", "faulthandler_timeout=60", timeout=120
    )
    result.stdout.fnmatch_lines("*= 1 passed, *1 vacuous in *")  # the second one has struck nothing


def test_an_operation_that_closes_its_connection_leaks_none_of_the_pool(pool: pytest.Pytester) -> None:
    result = run(
        pool,
        """
def test_pool(resilience):
    with redis.Redis.from_url(resilience.redis.direct_url) as client:
        client.set("d", "answer d")

    async def body():
        pool = Pool(resilience.redis)

        async def get_and_close():
            answer = await pool.last()
            pool.idle.pop().writer.close()
            return answer

        await resilience.redis.cancel_everywhere(get_and_close, then=pool.last, size=2)
        await pool.close()

    asyncio.run(body())
""",
    )
    result.assert_outcomes(passed=1)
