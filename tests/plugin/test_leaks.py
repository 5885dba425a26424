"""Leaks of a test are in the summary, in JUnit and, if configured, an error. No other resource is reported."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from tests.support.tracing import UNTRACED

BEGIN = """
import asyncio, os, socket, subprocess, sys, threading
import asyncpg, pytest, redis

KEPT = []  # the resources that the tests leak

CHILD = '''
import asyncio, asyncpg, sys
async def main():
    connection = await asyncpg.connect(sys.argv[1], server_settings={"application_name": "child"})
    print("connected", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
'''

def connect(url, *statements, **settings):
    runner = asyncio.Runner()
    connection = runner.run(asyncpg.connect(url, server_settings=settings))
    for statement in statements:
        runner.run(connection.execute(statement))
    KEPT.append((runner, connection))
"""

LEAKS = {
    "a session": (
        """
        connect(resilience.postgres.url, "select 'hunter2', 4711", application_name="billing")
        """,
        [
            "postgres:billing, a session, idle, last query: select ?, ?, held by this process (descriptor *)",
            "fd:eventpoll, an event loop or selector that is not closed",
        ],
    ),
    "a session around the proxy": (
        """
        connect(resilience.postgres.direct_url, "begin", application_name="billing")
        """,
        ["postgres:billing, a session, idle in transaction, last query: begin, held by this process (descriptor *)"],
    ),
    "a lock": (
        """
        connect(resilience.postgres.url, "select pg_advisory_lock(-7)", "select pg_advisory_lock(3, -4)")
        """,
        [
            "postgres:unnamed, a session, idle, last query: select pg_advisory_lock(?, -?), held by this process *",
            "lock:-7, an advisory lock of the session postgres:unnamed",
            "lock:3,-4, an advisory lock of the session postgres:unnamed",
        ],
    ),
    "a Redis connection": (
        """
        client = redis.Redis.from_url(resilience.redis.url, client_name="cart")
        client.set("password", "hunter2")
        KEPT.append(client)
        """,
        ["redis:cart, a client, last command: set, held by this process (descriptor *)"],
    ),
    "subscriptions": (
        """
        client = redis.Redis.from_url(resilience.redis.url, client_name="listener")
        listener = client.pubsub()
        listener.subscribe("news")
        listener.psubscribe("user:*")
        for _ in range(2):
            assert listener.get_message(timeout=5)
        KEPT.extend([listener, client])
        """,
        [
            "redis:listener, a client, last command: psubscribe, held by this process *",
            "subscription:news",
            "subscription:(pattern), of redis:listener",
        ],
    ),
    "a file": ("KEPT.append(open('ledger.txt', 'w'))", ["fd:*ledger.txt"]),
    "a pipe": ("KEPT.append(os.pipe())", ["fd:pipe"]),
    "a listening socket": (
        "KEPT.append(socket.create_server(('127.0.0.1', 0)))",
        ["socket:127.0.0.1:*, a socket without a peer"],
    ),
    "an idle connection": (
        """
        KEPT.append(socket.create_connection((resilience.postgres.host, resilience.postgres.port)))
        """,
        ["socket:127.0.0.1:*, a connection to postgres (through the proxy)"],
    ),
    "a thread": (
        """
        def watch():
            threading.Event().wait()
        threading.Thread(target=watch, name="watcher-1", daemon=True).start()
        """,
        ["thread:watcher-1, at test_it.py:* in watch"],
    ),
    "a session of a child": (
        """
        child = subprocess.Popen([sys.executable, "-c", CHILD, resilience.postgres.url], stdout=subprocess.PIPE)
        assert child.stdout.readline() == b"connected\\n"
        KEPT.append(child)
        """,
        ["postgres:child, a session, idle*, held by process *", "fd:pipe"],
    ),
}
END = """
@pytest.fixture(scope="session", autouse=True)
def at_the_end():
    yield
    for each in KEPT:
        if hasattr(each, "kill"):
            each.kill()
            each.wait()
            each.stdout.close()
        elif hasattr(each, "close"):
            each.close()
"""


def indented(body: str) -> str:
    lines = body.strip("\n").splitlines()
    margin = len(lines[0]) - len(lines[0].lstrip())
    return "\n".join("    " + (line[margin:] if line[:margin].isspace() else line) for line in lines)


def write(project: pytest.Pytester, body: str, *, before: str = "") -> None:
    """Write a test that leaks something, and one after it that does not."""
    project.makepyfile(
        test_it=f"{BEGIN}\n{END}\n{before}\ndef test_leaks(resilience):\n{indented(body)}\n\n"
        "def test_is_not_blamed_for_it(resilience):\n    pass\n"
    )


@pytest.mark.parametrize("kind", LEAKS)
def test_a_leak_is_reported_with_its_details(project: pytest.Pytester, kind: str) -> None:
    body, expected = LEAKS[kind]
    write(project, body)
    result = project.runpytest_subprocess("--junitxml=junit.xml", "-W", "ignore")
    result.assert_outcomes(passed=2)
    for line in expected:
        result.stdout.fnmatch_lines([f"LEAK test_it.py::test_leaks: {line}"])
    result.stdout.no_fnmatch_line("*LEAK*test_is_not_blamed*")
    assert "hunter2" not in result.stdout.str()
    (case,) = (
        case for case in ET.parse(project.path / "junit.xml").iter("testcase") if case.get("name") == "test_leaks"
    )
    leaks = [p.get("value") for p in case.iter("property") if p.get("name") == "resilience_leak"]
    assert len(leaks) == result.stdout.str().count("LEAK ")
    assert "hunter2" not in (project.path / "junit.xml").read_text()


def test_a_task_on_a_loop_that_outlives_the_test_is_a_leak(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_it="""
        import asyncio, pytest

        async def rest():
            await asyncio.sleep(3600)

        async def poll():
            await rest()

        @pytest.mark.asyncio(loop_scope="session")
        async def test_leaks(resilience):
            asyncio.create_task(poll(), name="poller")
            asyncio.create_task(poll())
            await asyncio.sleep(0)

        @pytest.mark.asyncio(loop_scope="session")
        async def test_is_not_blamed_for_it(resilience):
            await asyncio.sleep(0)

        @pytest.mark.asyncio
        async def test_a_loop_that_ends_takes_its_tasks_along(resilience):
            asyncio.create_task(poll(), name="poller")
            await asyncio.sleep(0)
        """
    )
    result = project.runpytest_subprocess()
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines_random(
        [
            "LEAK test_it.py::test_leaks: task:poller, at test_it.py:4 in rest",
            "LEAK test_it.py::test_leaks: task:poll, at test_it.py:4 in rest",
        ]
    )
    assert result.stdout.str().count("LEAK ") == 2


CLEAN = """
import asyncio, asyncpg, pytest, redis, subprocess, sys, tempfile, threading
from concurrent.futures import ThreadPoolExecutor
from pytest_resilience import eventually

def test_uses_the_service(resilience):
    assert resilience.service.get("/orders").text == "1"
    assert resilience.service.get("/redis").text == "1"

def test_kills_and_restarts(resilience):
    resilience.service.get("/redis")
    with resilience.service.kill():
        pass
    resilience.postgres.restart()
    with resilience.redis.kill():
        pass
    eventually(lambda: resilience.service.get("/redis").status_code == 200, within=5)
    assert resilience.service.get("/orders").text == "1"

def test_flaps_and_starves(resilience):
    resilience.redis.flap(down=0.02, up=0.02)
    resilience.postgres.starve(connections=3)
    resilience.postgres.latency(0.001)
    for _ in range(5):
        resilience.service.get("/redis")
        resilience.service.get("/orders")
    resilience.redis.proxy, resilience.postgres.proxy

@pytest.mark.fault("postgres.pause")
@pytest.mark.fault("redis.kill")
def test_begins_with_servers_that_do_not_answer(resilience):
    pass

@pytest.mark.asyncio
async def test_async(resilience):
    connection = await asyncpg.connect(resilience.postgres.url)
    await connection.fetch("select pg_advisory_lock(1)")
    await asyncio.to_thread(int)
    await connection.close()

def test_tidies_up(resilience, tmp_path, capfd):
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(int, "123"))
    with tempfile.TemporaryFile(), open(tmp_path / "x", "w"):
        subprocess.run([sys.executable, "-c", ""], check=True)
    with redis.Redis.from_url(resilience.redis.url) as client, client.pubsub() as listener:
        listener.subscribe("news")

def test_drops_references(resilience):
    '''The connection is not closed, but no object refers to it, so a collection closes it.'''
    client = redis.Redis.from_url(resilience.redis.url)
    client.ping()
    client.itself = client

def test_ends_a_little_later(resilience):
    threading.Timer(0.1, int).start()

@pytest.fixture
def connection(resilience):
    runner = asyncio.Runner()
    connection = runner.run(asyncpg.connect(resilience.postgres.url))
    yield connection
    runner.run(connection.close())
    runner.close()

def test_with_a_fixture_that_closes_it(connection):
    pass

@pytest.fixture(scope="module")
def pool(resilience_stack):
    client = redis.Redis.from_url(resilience_stack.redis.url, client_name="pool")
    client.ping()
    yield client
    client.close()

def test_a_client_of_the_module_reconnects(pool, resilience):
    pool.ping()
    resilience.redis.reset().heal()
    resilience.redis.restart()
    assert eventually(pool.ping, within=5)

def test_fails_with_resources_in_its_traceback(resilience):
    client = redis.Redis.from_url(resilience.redis.url)
    client.ping()
    assert False
"""


@pytest.mark.parametrize("arguments", [[], ["-n2"]], ids=["alone", "xdist"])
def test_other_resources_are_not_reported(shop: pytest.Pytester, arguments: list[str]) -> None:
    shop.makepyfile(test_it=CLEAN)
    result = shop.runpytest_subprocess("-W", "ignore", *arguments)
    result.stdout.no_fnmatch_line("*LEAK*")
    outcomes = result.parseoutcomes()
    assert outcomes["failed"] == 1, outcomes
    assert "errors" not in outcomes, outcomes


def test_a_leak_is_found_beside_the_service_without_sessions_of_other_processes(shop: pytest.Pytester) -> None:
    body = """
    for _ in range(3):
        resilience.service.get("/redis")
    connect(resilience.postgres.url, application_name="mine")
    KEPT.append(redis.Redis.from_url(resilience.redis.url, client_name="mine"))
    KEPT[-1].ping()
    """
    shop.makepyfile(test_it=f"{BEGIN}\n{END}\ndef test_leaks(resilience):\n{indented(body)}\n")
    result = shop.runpytest_subprocess("-W", "ignore", "-n1")
    result.assert_outcomes(passed=1)
    names = sorted(line.split(": ", 1)[1].split(",")[0] for line in result.outlines if line.startswith("LEAK "))
    assert names == ["fd:eventpoll", "postgres:mine", "redis:mine", "socket:unix", "socket:unix"]


THREADS = """
import threading, pytest

def leave(name):
    threading.Thread(target=threading.Event().wait, name=name, daemon=True).start()

@pytest.mark.leaks("thread:watcher-*")
def test_allowed(resilience):
    leave("watcher-1")

@pytest.mark.leaks("thread:watcher-*", "fd:/nowhere")
def test_another(resilience):
    leave("watcher-2")
    leave("stranger")

def test_unmarked(resilience):
    leave("watcher-3")

def test_that_does_not_use_it():
    leave("nobody looks")
"""


def test_leaks_are_reported_by_default_and_ignored_when_off(project: pytest.Pytester) -> None:
    project.makepyfile(test_it=THREADS)
    result = project.runpytest_subprocess("--resilience-strict")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["LEAK test_it.py::test_another: thread:stranger, *"])
    result = project.runpytest_subprocess("--resilience-leaks=off")
    result.assert_outcomes(passed=4)
    result.stdout.no_fnmatch_line("LEAK *")
    result = project.runpytest_subprocess("--resilience-leaks=perhaps")
    result.stderr.fnmatch_lines(["*--resilience-leaks must be one of report, error, off, got 'perhaps'*"])


def test_leaks_that_the_marker_does_not_allow_are_errors_if_configured(project: pytest.Pytester) -> None:
    project.makepyfile(test_it=THREADS)
    result = project.runpytest_subprocess("--resilience-leaks=error", "-v")
    result.assert_outcomes(passed=4, errors=2)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_another*",
            "E *LeakedResources: LEAK: thread:stranger, at *",
            "E *that they are meant to stay: @pytest.mark.leaks('thread:stranger').",
            "*ERROR at teardown of test_unmarked*",
            "E *LeakedResources: LEAK: thread:watcher-3, at *",
            "LEAK test_it.py::test_another: thread:stranger, *",
            "LEAK test_it.py::test_unmarked: thread:watcher-3, *",
        ]
    )
    assert not [line for line in result.outlines if line.startswith("LEAK") and "test_allowed" in line]


PATIENT = """
import pytest, threading

def late(seconds, name):
    threading.Thread(target=threading.Event().wait, args=(seconds,), name=name, daemon=True).start()

@pytest.mark.leaks(patience=20)
class TestPatient:
    def test_waits(self, resilience):
        late(0.8, "patient")

    @pytest.mark.leaks(patience=0)
    def test_the_nearest_marker_counts(self, resilience):
        late(0.3, "hasty")

    @pytest.mark.leaks("thread:allowed")
    def test_names_and_patience_add_up(self, resilience):
        late(60, "allowed")
        late(0.8, "patient")
"""


def test_the_patience_of_a_marker(project: pytest.Pytester) -> None:
    project.makepyfile(PATIENT)
    result = project.runpytest_subprocess("--resilience-leaks=error")
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines("E *LEAK: thread:hasty, *")


WRONG_MARKERS = [
    ("leaks()", "needs the name of a resource that the test may leak, such as @pytest.mark.leaks"),
    ("leaks", "needs the name of a resource that the test may leak"),
    ("leaks('watcher')", "of these kinds: postgres, lock, redis, *; got 'watcher'"),
    ("leaks(7)", "got 7"),
    ("leaks(patience=-1)", "patience is in seconds from 0 on, got -1"),
    ("leaks('thread:x', patience='long')", "patience is in seconds from 0 on, got 'long'"),
    ("leaks(thread='x')", "takes names and patience=, such as *; got thread="),
]


def test_a_marker_without_names_is_an_error_of_its_test(project: pytest.Pytester) -> None:
    tests = [
        f"@pytest.mark.{marker}\ndef test_{number}(resilience): assert False, 'it must not run'"
        for number, (marker, _) in enumerate(WRONG_MARKERS)
    ]
    project.makepyfile("\n".join(["import pytest", *tests, "def test_other(): pass"]))
    result = project.runpytest_subprocess()
    result.assert_outcomes(errors=len(WRONG_MARKERS), passed=1)
    result.stdout.fnmatch_lines([f"E *SetupError: the marker leaks*{why}*" for _, why in WRONG_MARKERS])


def test_the_marker_is_registered(project: pytest.Pytester) -> None:
    project.runpytest_subprocess("--markers").stdout.fnmatch_lines(
        ["@pytest.mark.leaks(?names, patience=0.5): resources that the test may leak*"]
    )


def test_with_tracemalloc_the_line_that_opened_a_descriptor_is_shown(project: pytest.Pytester) -> None:
    body = """
    tracemalloc.start(20)
    KEPT.append(open("ledger.txt", "w"))
    KEPT.append(redis.Redis.from_url(resilience.redis.url, client_name="mine"))
    KEPT[-1].ping()
    """
    write(project, body, before="import tracemalloc")
    result = project.runpytest_subprocess("-W", "ignore", *UNTRACED)
    result.stdout.fnmatch_lines(["LEAK *: fd:*ledger.txt, opened at test_it.py:*"])
    result.stdout.fnmatch_lines(["LEAK *: redis:mine, *, opened at test_it.py:*"])


def test_one_of_several_servers_is_named(project: pytest.Pytester) -> None:
    body = """
    connect(replica.url, "begin", application_name="mine")
    KEPT.append(redis.Redis.from_url(sessions.url, client_name="mine"))
    KEPT[-1].ping()
    """
    project.makepyfile(
        test_it=f"""{BEGIN}
{END}
from pytest_resilience import factories
replica = factories.postgres("replica")
sessions = factories.redis("sessions")

def test_leaks(resilience, replica, sessions):
{indented(body)}

def test_adds_one(resilience, resilience_stack):
    late = resilience_stack.add_redis("late"), resilience_stack.add_postgres("other")
    with redis.Redis.from_url(late[0].url) as client:
        client.ping()

def test_uses_it_again(resilience, resilience_stack):
    resilience_stack.add_redis("late").restart()
"""
    )
    result = project.runpytest_subprocess("-W", "ignore", "--resilience-backend=embedded")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines_random(
        [
            "LEAK test_it.py::test_leaks: postgres:mine, a session, idle in transaction, *, in replica, held by this process*",
            "LEAK test_it.py::test_leaks: redis:mine, a client, *, in sessions, held by this process*",
        ]
    )
    result.stdout.no_fnmatch_line("LEAK test_it.py::test_[au]*")
