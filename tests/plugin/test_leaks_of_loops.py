"""A connection that only a closed event loop referred to is a leak. A test can query its leaks at any time."""

from __future__ import annotations

import pytest

BEGIN = """
import asyncio, os, socket, subprocess, sys, threading, unittest
import asyncpg, pytest, redis, redis.asyncio
from pytest_resilience import Leak

async def leave(resilience, name):
    connection = await asyncpg.connect(resilience.postgres.url, server_settings={"application_name": name})
    await connection.execute("begin; select pg_advisory_lock(1)")
    client = redis.asyncio.Redis.from_url(resilience.redis.url, client_name=name)
    await client.ping()
    stream = reader, writer = await asyncio.open_connection(resilience.redis.host, resilience.redis.port)
    writer.write(b"PING\\r\\n")
    await reader.readline()
    asyncio.get_running_loop().call_later(3600, [connection, client, stream].clear)  # no other reference

async def leave_nothing(resilience):
    connection = await asyncpg.connect(resilience.postgres.url)
    await connection.close()
    async with redis.asyncio.Redis.from_url(resilience.redis.url) as client:
        await client.ping()
"""

WAYS = """
@pytest.mark.asyncio
async def test_pytest_asyncio(resilience):
    await leave(resilience, "mine")

@pytest.fixture
async def started(resilience):
    clients = []
    async def connect():
        clients.append(await asyncpg.connect(resilience.postgres.url))
    yield connect
    for client in clients:
        await client.close()

@pytest.mark.asyncio
async def test_clean_since_an_async_fixture_closes_it(resilience, started):
    await started()

def test_asyncio_run(resilience):
    asyncio.run(leave(resilience, "mine"))

def test_a_runner(resilience):
    with asyncio.Runner() as runner:
        runner.run(leave(resilience, "mine"))

def test_a_loop_by_hand(resilience):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave(resilience, "mine"))
    loop.close()

def test_another_thread(resilience):
    thread = threading.Thread(target=lambda: asyncio.run(leave(resilience, "mine")))
    thread.start()
    thread.join()

@pytest.mark.anyio
async def test_anyio(resilience):
    await leave(resilience, "mine")

class TestCase(unittest.IsolatedAsyncioTestCase):
    @pytest.fixture(autouse=True)
    def keep(self, resilience):
        self.resilience = resilience

    async def test_unittest(self):
        await leave(self.resilience, "mine")

def test_clean_run(resilience):
    asyncio.run(leave_nothing(resilience))
    client = redis.Redis.from_url(resilience.redis.url)
    client.ping()
    asyncio.run(leave_nothing(resilience))
    client.close()

@pytest.mark.asyncio
async def test_clean_async(resilience):
    await leave_nothing(resilience)

def test_clean_since_marked(resilience):
    asyncio.run(leave(resilience, "marked"))
test_clean_since_marked = pytest.mark.leaks("postgres:marked", "redis:marked", "lock:1", "socket:*")(test_clean_since_marked)

def test_clean_since_it_fails(resilience):
    asyncio.run(leave(resilience, "mine"))
    assert False

def test_clean_with_a_server_that_is_struck(resilience):
    with resilience.postgres.pause(), resilience.redis.pause():
        async def body():
            await asyncio.wait_for(leave(resilience, "struck"), 0.2)
        with pytest.raises(TimeoutError):
            asyncio.run(body())

def test_clean_in_a_fork(resilience):
    pid = os.fork()
    if not pid:
        try:
            asyncio.run(leave(resilience, "child"))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
"""
LEAKY = ["pytest_asyncio", "asyncio_run", "a_runner", "a_loop_by_hand", "another_thread", "anyio", "unittest"]


def test_a_connection_of_a_closed_loop_is_reported(project: pytest.Pytester) -> None:
    project.makeconftest("import pytest\n@pytest.fixture\ndef anyio_backend(): return 'asyncio'\n")
    project.makepyfile(
        test_it=BEGIN + WAYS.replace("@pytest.fixture\nasync", "import pytest_asyncio\n@pytest_asyncio.fixture\nasync")
    )
    result = project.runpytest_subprocess("-W", "ignore", "--resilience-backend=embedded")
    outcomes = result.parseoutcomes()
    assert outcomes["failed"] == 1, outcomes
    assert "errors" not in outcomes
    lines = [line for line in result.outlines if line.startswith("LEAK ")]
    for name in LEAKY:
        leaks = sorted(line.split(": ", 1)[1] for line in lines if f"test_{name}:" in line)
        names = [line.split(",")[0] for line in leaks]
        assert names == ["lock:1", "postgres:mine", "redis:mine", "redis:unnamed"], (name, leaks)
        assert "idle in transaction, last query: begin; select pg_advisory_lock(?), held by this process" in leaks[1]
        assert all(line.endswith("open when its event loop was closed") for line in leaks)
    assert not [line for line in lines if "test_clean" in line]


def test_leaks_of_open_and_closed_loops_are_reported_once(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_it=BEGIN
        + """
KEPT = []

@pytest.mark.asyncio(loop_scope="session")
async def test_session(resilience):
    await leave(resilience, "mine")

def test_kept_although_the_loop_is_closed(resilience):
    async def body():
        KEPT.append(await asyncpg.connect(resilience.postgres.url, server_settings={"application_name": "kept"}))
    asyncio.run(body())
"""
    )
    result = project.runpytest_subprocess("-W", "ignore")
    names = sorted(line.split(": ", 1)[1].split(",")[0] for line in result.outlines if line.startswith("LEAK "))
    assert [name for name in names if name.partition(":")[0] in ("postgres", "redis")] == [
        "postgres:kept",
        "postgres:mine",
        "redis:mine",
        "redis:unnamed",
    ]


QUERIES = """
@pytest.mark.asyncio
async def test_in_an_async_test(resilience):
    assert resilience.leaks() == []
    connection = await asyncpg.connect(resilience.postgres.url, server_settings={"application_name": "mine"})
    client = redis.asyncio.Redis.from_url(resilience.redis.url, client_name="mine")
    await client.ping()
    task = asyncio.create_task(asyncio.sleep(60), name="sleeper")
    await asyncio.sleep(0)
    leaks = resilience.leaks()
    assert sorted(leak.name for leak in leaks) == ["postgres:mine", "redis:mine", "task:sleeper"]
    assert sorted(leak.kind for leak in leaks) == ["postgres", "redis", "task"]
    assert all(isinstance(leak, Leak) and str(leak) in repr(leak) for leak in leaks)
    await connection.close()
    await client.aclose()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert resilience.leaks() == []

def test_within_asyncio_run(resilience):
    async def body():
        assert resilience.leaks() == []
        connection = await asyncpg.connect(resilience.postgres.url)
        assert [leak.kind for leak in resilience.leaks()] == ["postgres"]
        await connection.close()
        reader, writer = await asyncio.open_connection(resilience.redis.host, resilience.redis.port)
        writer.close()
        assert resilience.leaks() == [], "the loop is about to be closed"
    asyncio.run(body())
    assert resilience.leaks() == []

@pytest.mark.anyio
async def test_in_an_async_test_of_anyio(resilience):
    assert resilience.leaks() == []
    with resilience.no_growth():
        await leave_nothing(resilience)

def test_in_a_sync_test(resilience):
    client = redis.Redis.from_url(resilience.redis.url, client_name="mine")
    client.ping()
    (leak,) = resilience.leaks()
    assert str(leak).startswith("redis:mine, a client, last command: ping, held by this process (descriptor ")
    client.close()
    assert resilience.leaks() == []
    asyncio.run(leave(resilience, "looped"))
    assert sorted(leak.name for leak in resilience.leaks())[:3] == ["lock:1", "postgres:looped", "redis:looped"]

@pytest.mark.leaks("redis:*")
def test_allowed_resources_are_no_leaks(resilience):
    client = redis.Redis.from_url(resilience.redis.url, client_name="mine")
    client.ping()
    assert resilience.leaks() == []
    client.close()

@pytest.fixture
def early(resilience):
    with pytest.raises(SetupError, match="the body has not begun yet"):
        resilience.leaks()

def test_before_the_body(early):
    pass
"""


def test_leaks_can_be_queried_at_any_time(project: pytest.Pytester) -> None:
    project.makeconftest("import pytest\n@pytest.fixture\ndef anyio_backend(): return 'asyncio'\n")
    project.makepyfile(test_it=BEGIN + "from pytest_resilience import SetupError\n" + QUERIES)
    result = project.runpytest_subprocess("-W", "ignore")
    result.assert_outcomes(passed=6)
    assert {line.split(": ")[0] for line in result.outlines if line.startswith("LEAK ")} == {
        "LEAK test_it.py::test_in_a_sync_test"
    }


GROWTH = """
@pytest.mark.asyncio
async def test_async(resilience):
    with resilience.no_growth():
        connection = await asyncpg.connect(resilience.postgres.url)
        await connection.close()
    with pytest.raises(AssertionError, match="new since the block began:\\n  postgres:mine, a session, idle"):
        with resilience.no_growth():
            connection = await asyncpg.connect(resilience.postgres.url, server_settings={"application_name": "mine"})
    with resilience.no_growth():
        await connection.fetch("select 1")
    await connection.close()

def test_sync(resilience, tmp_path):
    before = redis.Redis.from_url(resilience.redis.url, client_name="pool")
    before.ping()
    with resilience.no_growth():
        before.connection_pool.disconnect()
        before.ping()
        threading.Timer(0.1, int).start()
    with pytest.raises(AssertionError) as caught:
        with resilience.no_growth():
            pool = [redis.Redis.from_url(resilience.redis.url, client_name="pool") for _ in range(2)]
            [each.ping() for each in pool]
            file = open(tmp_path / "x", "w")
            stop = threading.Event()
            thread = threading.Thread(target=stop.wait, name="worker-1", daemon=True)
            thread.start()
            child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    kinds = [line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:]]
    assert sorted(kinds) == ["fd", "fd", "process", "redis", "redis", "thread"], str(caught.value)
    with resilience.no_growth("fd:*y"):
        other = open(tmp_path / "y", "w")
    with pytest.raises(SetupError, match="no_growth takes names such as .*; got 'y'"):
        with resilience.no_growth("y"):
            pass
    with pytest.raises(ZeroDivisionError):
        with resilience.no_growth():
            more = redis.Redis.from_url(resilience.redis.url)
            more.ping()
            1 / 0
    with pytest.raises(AssertionError, match="postgres:looped"):
        with resilience.no_growth():
            asyncio.run(leave(resilience, "looped"))
    for each in (*pool, before, more, file, other):
        each.close()
    stop.set()
    thread.join()
    child.communicate(b"\\n")
"""


def test_a_socket_that_outlives_its_loop_and_its_session_is_reported_once(project: pytest.Pytester) -> None:
    """Connections of SQLAlchemy refer to each other, so the collector closes them after the server."""
    project.makepyfile(
        test_it=BEGIN
        + """
KEPT = []

def test_leaks(resilience):
    async def body():
        connection = await asyncpg.connect(resilience.postgres.url, server_settings={"application_name": "mine"})
        KEPT.append(connection)
        KEPT.append(connection._transport.get_extra_info("socket"))
        return connection.get_server_pid()
    pid = asyncio.run(body())
    async def end():
        other = await asyncpg.connect(resilience.postgres.url)
        await other.execute(f"select pg_terminate_backend({pid}, 5000)")
        await other.close()
    asyncio.run(end())
"""
    )
    result = project.runpytest_subprocess("-W", "ignore")
    result.assert_outcomes(passed=1)
    lines = [line for line in result.outlines if line.startswith("LEAK ")]
    assert len(lines) == 1, lines
    assert "postgres:mine" in lines[0]


def test_growth_within_a_block_is_reported(project: pytest.Pytester) -> None:
    project.makepyfile(test_it=BEGIN + "from pytest_resilience import SetupError\n" + GROWTH)
    project.runpytest_subprocess("-W", "ignore").assert_outcomes(passed=2)


def test_with_leaks_off_both_raise_an_error(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest
        from pytest_resilience import SetupError

        def test_it(resilience):
            with pytest.raises(SetupError, match="--resilience-leaks=off"):
                resilience.leaks()
            with pytest.raises(SetupError, match="--resilience-leaks=off"), resilience.no_growth():
                pass
        """
    )
    project.runpytest_subprocess("--resilience-leaks=off").assert_outcomes(passed=1)


RESETS = """
import asyncio, asyncpg, pytest

async def connect(resilience):
    return await asyncpg.connect(resilience.postgres.url)

@pytest.mark.asyncio(loop_scope="session")
async def test_a_reset_comes_last_in_a_loop_that_lives_on(resilience):
    KEPT.append(await connect(resilience))
    resilience.postgres.reset()

@pytest.mark.asyncio
async def test_a_query_right_after_a_reset(resilience):
    KEPT.append(await connect(resilience))
    assert [leak.name for leak in resilience.leaks()] == ["postgres:unnamed"]
    with resilience.postgres.reset():
        assert resilience.leaks() == []

def test_a_loop_that_is_closed_right_after_a_reset(resilience):
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(connect(resilience))
    resilience.postgres.reset()
    loop.close()
    del connection

@pytest.mark.asyncio(loop_scope="session")
async def test_leaks(resilience):
    KEPT.append(await connect(resilience))

KEPT = []
"""


def test_a_connection_that_its_server_has_reset_is_no_leak(project: pytest.Pytester) -> None:
    pytest.importorskip("pytest_asyncio")
    project.makepyfile(test_it=RESETS)
    result = project.runpytest_subprocess("-W", "ignore")
    assert result.ret == 0
    leaks = [line for line in result.outlines if line.startswith("LEAK")]
    assert [line.partition(",")[0] for line in leaks] == ["LEAK test_it.py::test_leaks: postgres:unnamed"]
