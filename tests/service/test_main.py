"""The program, from its first log line to its exit status."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

from pytest_resilience import eventually

from .support import backends

NOWHERE = "postgresql://app:hunter2@127.0.0.1:1/shop"


@pytest.fixture
def start():
    """Return a function that starts `python -m service` on a free port. Each process ends with the test.

    Keyword arguments are settings in lower case.
    """
    started = []

    def start(*, wait=True, command=(sys.executable, "-m", "service"), **settings):
        variables = {"HOST": "127.0.0.1", "PORT": "0", **{k.upper(): str(v) for k, v in settings.items()}}
        inherited = {k: v for k, v in os.environ.items() if k in ("PATH", "PYTHONPATH", "HOME")}
        process = Run(command, {**inherited, **variables})
        started.append(process)
        if wait:
            eventually(lambda: process.url, within=30)
        return process

    yield start
    for process in started:
        process.end()


class Run:
    """The process of a service and its log."""

    def __init__(self, command, env):
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line)

    @property
    def log(self):
        return "".join(self.lines)

    @property
    def url(self):
        listening = re.search(r"Server LISTENING on (http://[\d.]+:[1-9]\d*)", self.log)
        return listening and listening[1]

    def get(self, path):
        return httpx.get(self.url + path, trust_env=False, timeout=10)

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def exit_code(self, within=10):  # two seconds of which the drain stays visible
        code = self.process.wait(within)
        self._reader.join(1)
        return code

    def end(self):
        self.process.kill()
        self.process.wait()
        self._reader.join(1)
        self.process.stdout.close()
        self.process.stderr.close()


def test_without_postgres_and_redis_the_service_starts_and_is_not_ready(start):
    begun = time.monotonic()
    run = start(database_url=NOWHERE, redis_url="redis://127.0.0.1:1", cleanup_token="hunter2-token", log_format="json")
    assert run.get("/health").status_code == 200
    assert time.monotonic() - begun < 5
    reply = run.get("/readyz")
    assert reply.status_code == 503
    assert reply.json() == {
        "status": "starting",
        "checks": {"postgres": "down", "redis": "down", "memory": "ok", "jobs": "journal", "cadence": "ok"},
    }
    assert run.get("/api/campaigns").status_code == 503
    eventually(lambda: "Redis connection failed" in run.log, within=3)
    run.signal()
    assert run.exit_code() == 0
    assert "hunter2" not in run.log
    assert run.process.stdout.read() == ""
    assert {"time", "level", "logger", "message"} <= set.intersection(*(set(json.loads(line)) for line in run.lines))
    assert run.log.count("Redis connection failed, falling back to in-memory cache: ") == 1


def test_two_instances_become_ready_when_both_create_the_table(start, resilience):
    resilience.postgres.refuse()
    urls = {"database_url": resilience.postgres.url, "redis_url": resilience.redis.url}
    runs = [start(**urls), start(**urls)]
    assert {run.get("/readyz").status_code for run in runs} == {503}
    resilience.postgres.proxy.enable()
    for run in runs:
        eventually(lambda run=run: run.get("/readyz").status_code == 200, within=4)
        assert "Traceback" not in run.log


def test_the_service_is_ready_within_a_second_when_its_dependencies_are_up(start, resilience):
    run = start(database_url=resilience.postgres.url, redis_url=resilience.redis.url)
    eventually(lambda: run.get("/readyz").json()["status"] == "ready", within=1)
    assert run.log.count("service.redis Redis connected successfully") == 1
    eventually(lambda: "Redis connected successfully for BullMQ" in run.log, within=1)


STARTED = (
    r"Server LISTENING on http://127\.0\.0\.1:[1-9]\d*",
    "Socket.IO initialized",
    "Cadence Scheduler ready",
    "Campaign Processor ready",
    "Redis connected successfully",
    "Redis connected successfully for BullMQ",
)


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_each_part_logs_once_that_it_has_started(start, resilience, log_format):
    run = start(database_url=resilience.postgres.url, redis_url=resilience.redis.url, log_format=log_format)

    def messages():
        if log_format == "json":
            return [json.loads(line)["message"] for line in run.lines]
        return [line.split(" ", 3)[3].rstrip("\n") for line in run.lines]

    def count(line):
        return sum(re.fullmatch(line, message) is not None for message in messages())

    eventually(lambda: all(count(line) for line in STARTED), within=5)
    with resilience.postgres.refuse():  # the parts that follow an outage do not start again
        eventually(lambda: run.get("/readyz").status_code == 503, within=3)
    eventually(lambda: run.get("/readyz").status_code == 200, within=4)
    assert [count(line) for line in STARTED] == [1] * len(STARTED), run.log


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "DATABASE_URL"),
        ({"database_url": "hunter2"}, "DATABASE_URL"),
        ({"database_url": NOWHERE, "port": "hunter2"}, "PORT"),
        ({"database_url": NOWHERE, "redis_url": "redis://:hunter2@h:x"}, "REDIS_URL"),
        ({"database_url": NOWHERE + "?sslmode=hunter2"}, "DATABASE_URL"),
        ({"database_url": NOWHERE, "host": ".."}, "HOST"),
        ({"database_url": NOWHERE, "host": "no-such-host.invalid"}, "HOST and PORT"),
    ],
)
@pytest.mark.parametrize("log_format", ["console", "json"])
def test_an_invalid_setting_ends_the_start_with_one_line(start, settings, name, log_format):
    run = start(wait=False, log_format=log_format, **settings)
    assert run.exit_code(within=10) != 0
    assert "hunter2" not in run.log
    assert run.log.count("\n") == 1
    if log_format == "json":
        assert json.loads(run.log)["message"].startswith(f"{name}: expected ")
    else:
        assert run.log.startswith(f"service: {name}: expected ")


def test_each_outage_of_postgres_and_each_recovery_is_one_log_line(start, resilience):
    """The first outage is present when the service starts."""
    failed, connected = "Postgres connection failed: ", "Postgres connected successfully"
    with resilience.postgres.refuse():
        run = start(database_url=resilience.postgres.url, redis_url=resilience.redis.url)
        eventually(lambda: failed in run.log, within=3)
        assert {run.get("/api/campaigns").status_code for _ in range(5)} == {503}
    for outages in (1, 2):
        eventually(lambda outages=outages: run.log.count(connected) == outages, within=4)
        assert run.log.count(failed) == outages
        if outages == 1:
            with resilience.postgres.refuse():
                eventually(lambda: run.log.count(failed) == 2, within=3)
                assert {run.get("/api/campaigns").status_code for _ in range(5)} == {503}
                eventually(lambda: run.get("/readyz").status_code == 503, within=3)


def test_a_port_in_use_ends_the_start_with_one_line(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        run = start(wait=False, database_url=NOWHERE, port=taken.getsockname()[1])
        assert run.exit_code() != 0
    assert len(run.lines) == 1
    assert "Address already in use" in run.log


@contextlib.contextmanager
def waiting_request(run, resilience, path="/api/campaigns"):
    """Send a request that waits for a locked table. Yield the lock and the list that receives the reply."""
    replies = []

    def send():
        with contextlib.suppress(httpx.HTTPError):
            replies.append(run.get(path))

    with resilience.postgres.starve(lock="campaigns") as lock:
        sender = threading.Thread(target=send)
        sender.start()
        eventually(lambda: backends(resilience, waiting=True) == 1, within=4)
        yield lock, replies
        sender.join()


@pytest.fixture
def run(start, resilience):
    run = start(database_url=resilience.postgres.url, redis_url=resilience.redis.url)
    eventually(lambda: run.get("/readyz").status_code == 200, within=4)
    return run


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_under_way_finish(run, resilience, number):
    with waiting_request(run, resilience) as (lock, replies):
        run.signal(number)
        eventually(lambda: run.get("/readyz").json()["status"] == "draining", within=3)
        assert run.get("/readyz").status_code == 503
        assert run.get("/health").json()["nextReady"] is False
        assert "\nservice_draining 1.0\n" in run.get("/metrics").text
        lock.heal()
        assert run.exit_code() == 0
    assert [reply.status_code for reply in replies] == [200]
    assert "Traceback" not in run.log


def test_a_second_signal_ends_the_process_at_once(run, resilience):
    with waiting_request(run, resilience) as (_, replies):
        run.signal()
        eventually(lambda: run.get("/readyz").json()["status"] == "draining", within=3)
        begun = time.monotonic()
        run.signal()
        assert run.exit_code() == -signal.SIGTERM
        assert time.monotonic() - begun < 2
    assert replies == []


def test_shutdown_grace_is_kept_even_if_requests_hang(start, resilience):
    run = start(database_url=resilience.postgres.url, redis_url=resilience.redis.url, shutdown_grace=1)
    eventually(lambda: run.get("/readyz").status_code == 200, within=4)
    with waiting_request(run, resilience):
        begun = time.monotonic()
        run.signal()
        assert run.exit_code() == 0
        assert time.monotonic() - begun < 1 + 1.5


STUBBORN = """
import asyncio, runpy
from service import app

async def stay(run, shortages):
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

app._supervised = stay
runpy.run_module("service", run_name="__main__")
"""


def test_a_task_that_does_not_stop_is_named_and_ends_with_the_process(start, resilience):
    stubborn = start(command=[sys.executable, "-c", STUBBORN], database_url=resilience.postgres.url, shutdown_grace=1)
    stubborn.signal()
    assert stubborn.exit_code(within=10) == 4
    assert "has not stopped within SHUTDOWN_GRACE and ends now; it waits for: " in stubborn.log
    assert "stay" in stubborn.log


def test_a_pool_larger_than_the_server_allows_is_logged_once(start, resilience):
    run = start(database_url=resilience.postgres.url, redis_url=resilience.redis.url, db_pool_max=5000)
    eventually(lambda: "DB_POOL_MAX is 5000, but Postgres has room for " in run.log, within=4)
    with resilience.postgres.refuse():
        eventually(lambda: run.get("/readyz").status_code == 503, within=3)
    eventually(lambda: run.get("/readyz").status_code == 200, within=4)
    assert run.log.count("DB_POOL_MAX is") == 1


def test_above_the_hard_limit_only_essential_routes_are_served(start, resilience):
    run = start(
        database_url=resilience.postgres.url,
        redis_url=resilience.redis.url,
        memory_limit_mb=10,  # less than the idle process uses
        memory_check_interval=0.1,
    )
    eventually(lambda: run.get("/api/campaigns").status_code == 503, within=4)
    reply = run.get("/api/campaigns")
    assert int(reply.headers["Retry-After"]) >= 1
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert (run.get("/health").status_code, run.get("/livez").status_code) == (200, 200)
    assert run.get("/readyz").status_code == 503
    assert run.get("/readyz").json()["checks"]["memory"] == "refusing"
    assert run.get("/readyz").json()["status"] == "unavailable", "the service is not starting, it is short of memory"
    assert "\nservice_memory_refusing 1.0\n" in run.get("/metrics").text
    assert run.get("/api/db-cleanup").status_code == 200
    assert run.log.count("[Memory] High heap usage: ") == 1
