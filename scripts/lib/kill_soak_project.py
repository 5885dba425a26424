"""The project in which scripts/kills runs its sessions, with all kinds of processes and four tests that strike.

It has a web service, a worker with a child process, a TCP system whose process the factory starts, and an HTTP stub.

A note is a line of a file `notes-PID`: a word, its subject, and the monotonic time.
"""

from __future__ import annotations

CONFTEST = """
import os, sys, time
import pytest
from pytest_resilience import Service, factories

def note(*words):
    with open(f"notes-{os.getpid()}", "a") as file:
        print(*words, time.monotonic(), file=file)

@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item):
    note("begin", item.name)
    try:
        return (yield)
    finally:
        note("end", item.name)

def pytest_runtest_logreport(report):
    if report.failed:
        note("failed", report.nodeid.rpartition("::")[2])

@pytest.fixture(scope="session")
def resilience_service(resilience_stack):
    return Service([sys.executable, "-I", "-S", "service.py"], port_variable="PORT")

worker = factories.service("worker", lambda stack: Service(
    ["sh", "-c", "sleep 1000 & echo ready; wait"], port_variable=None, ready="ready"))
echo = factories.tcp("echo", Service([sys.executable, "-I", "-S", "service.py"], port_variable="PORT", ready="{port}"))
payments = factories.http_stub("payments")

@pytest.fixture(autouse=True)
def ports(resilience, echo, payments):
    for system in echo, payments:
        note("port", system.host, system.port)
        note("port", *system.upstream.split(":"))
    for server in resilience.postgres, resilience.redis:
        for url in server.url, server.direct_url:
            note("port", *url.rpartition("@")[2].rpartition("//")[2].partition("/")[0].split(":"))
    note("port", "127.0.0.1", resilience.service.url.rpartition(":")[2])
"""
SERVICE = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
TESTS = """
import asyncio, time, urllib.request
import asyncpg, pytest, redis

def ping_redis(resilience):
    with redis.Redis.from_url(resilience.redis.url, socket_timeout=0.2, socket_connect_timeout=1, retry=None) as client:
        return client.ping()

async def query_postgres(resilience):
    connection = await asyncpg.connect(resilience.postgres.url, timeout=5)
    try:
        return await connection.fetchval("select 1")
    finally:
        connection.terminate()

def assert_works(resilience):
    end = time.monotonic() + 0.15
    while time.monotonic() < end:
        assert ping_redis(resilience)
        assert asyncio.run(query_postgres(resilience)) == 1
    assert urllib.request.urlopen(resilience.service.url, timeout=5).status == 200
    assert resilience.worker.process.is_running()

def test_refused(resilience):
    with resilience.redis.refuse(), pytest.raises(redis.ConnectionError):
        ping_redis(resilience)
    assert_works(resilience)

def test_slow(resilience, echo, payments):
    with resilience.postgres.latency(seconds=0.02), resilience.worker.pause():
        assert_works(resilience)
    payments.answer("/", 204)
    assert urllib.request.urlopen(payments.url, timeout=5).status == 204
    assert urllib.request.urlopen(f"http://{echo.host}:{echo.port}", timeout=5).status == 200

def test_silent(resilience):
    with resilience.redis.blackhole(), pytest.raises(redis.TimeoutError):
        ping_redis(resilience)
    assert_works(resilience)

def test_killed(resilience):
    with resilience.postgres.kill(), resilience.redis.pause():
        with pytest.raises(Exception):
            asyncio.run(query_postgres(resilience))
    with resilience.worker.kill(), resilience.services["echo_server"].kill():
        pass
    assert_works(resilience)
"""
TEST_COUNT = 4
INI = "[pytest]\nasyncio_default_fixture_loop_scope = function\n"  # unset, it makes an installed pytest-asyncio warn
FILES = {"conftest.py": CONFTEST, "service.py": SERVICE, "test_it.py": TESTS, "pytest.ini": INI}
