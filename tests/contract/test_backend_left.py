"""No container, network, proxy, database or process of a killed session is left two seconds later."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import redis

from pytest_resilience.backends.docker import engine
from pytest_resilience.backends.docker.backend import DockerBackend, remove_stale_sessions
from pytest_resilience.backends.embedded.backend import EmbeddedBackend
from pytest_resilience.backends.session.session_dir import remove_stale
from pytest_resilience.backends.settings import Settings
from tests.contract.test_backend_stack import EXTERNAL, api, sql
from tests.support.backends import settings, toxiproxy, unavailable_reason
from tests.support.waiting import gone, until

ROOT = str(Path(__file__).parents[2])
SESSION = """
import json, os, pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for background jobs
from pytest_resilience.backends.settings import Settings
from pytest_resilience.backends.{kind}.backend import {name} as Backend
from pytest_resilience.backends.session import session_dir
from pytest_resilience.stack import Stack
if "ROOT" in os.environ: session_dir.default_root = lambda: pathlib.Path(os.environ["ROOT"])
backend = Backend(Settings(**json.loads(os.environ.get("SETTINGS", "{{}}"))))
print(json.dumps({{"early": True}}), flush=True)
if sys.argv[1] == "early": backend.start(); time.sleep(600)
stack = Stack(backend, 1)
stack.prepare_test(None)
stack.redis.refuse()
if "{kind}" == "docker" and sys.argv[1] == "wait": backend.servers["postgres"].pause()
service = backend.spawn("service", ["sleep", "600"], env=dict(PATH=os.environ["PATH"]))
try:
    print(json.dumps({{"supervisor": backend._supervisor.pid, "service": service.pid, "session": backend.directory.name,
                      "directory": str(backend.directory)}}), flush=True)
    if sys.argv[1] == "end": os._exit(3)
    time.sleep(600)
finally:
    stack.close()
"""


@contextlib.contextmanager
def session(kind, how, root=None, **named):
    """Start a session in another process.

    Args:
        kind: "docker" or "external".
        how: "early", "wait", "interrupt" or "end".
        root: where its directory is, if the sessions of other tests must not find that directory.
        named: the settings of the backend.
    """
    name = {"docker": "DockerBackend", "external": "ExternalBackend"}[kind]
    environ = {**os.environ, "PYTHONPATH": ROOT, "SETTINGS": json.dumps(named), **({"ROOT": str(root)} if root else {})}
    command = [sys.executable, "-c", SESSION.format(kind=kind, name=name), how]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ, start_new_session=True
    ) as process:
        try:
            assert process.stdout.readline(), process.stderr.read().decode()
            facts = None
            if how != "early":
                line = process.stdout.readline()
                assert line, process.stderr.read().decode()
                facts = json.loads(line)
            yield process, facts
        finally:
            process.kill()
            process.wait(5)
            if kind == "docker" and facts is not None:
                until(lambda: objects_of(facts["session"]) == [], within=20)


def objects_of(session):
    """Return the containers and networks of a session."""
    found, label = engine.find_engine(), f"{engine.SESSION}={session}"
    return found.find_labelled("containers", label) + found.find_labelled("networks", label)


@pytest.fixture
def docker():
    if reason := unavailable_reason("docker"):
        pytest.skip(reason)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_of_a_signalled_docker_session(docker, number):
    with session("docker", "wait") as (process, facts):
        name = facts["session"]
        assert len(objects_of(name)) == 4, "three containers and a network"
        process.send_signal(number)
        process.wait(5)
        begun = time.monotonic()
        until(lambda: objects_of(name) == [], within=20)
        took = time.monotonic() - begun
        until(lambda: gone(facts["supervisor"]) and gone(facts["service"]))
        assert not Path(facts["directory"]).exists()
        assert took < 2 + psutil.getloadavg()[0] / 4, f"{took:.1f} s"  # two seconds on an idle machine


def test_nothing_is_left_of_a_docker_session_that_ends_by_ctrl_c(docker):
    with session("docker", "interrupt") as (process, facts):
        process.send_signal(signal.SIGINT)
        process.wait(20)
        assert objects_of(facts["session"]) == []
        assert gone(facts["supervisor"])


def test_nothing_is_left_of_a_docker_session_that_ends_without_close(docker):
    with session("docker", "end") as (process, facts):
        process.wait(10)
        until(lambda: objects_of(facts["session"]) == [] and gone(facts["supervisor"]), within=10)


@pytest.mark.parametrize("after", [0.4, 1.0, 1.6])
def test_nothing_is_left_of_a_docker_session_killed_during_its_start(docker, after):
    with session("docker", "early") as (process, _):
        supervisor = until(lambda: psutil.Process(process.pid).children())[0]
        name = until(lambda: Path(supervisor.cmdline()[-1]).name)
        time.sleep(after)
        process.kill()
        process.wait(5)
        until(lambda: gone(supervisor.pid), within=20)
        assert objects_of(name) == []


def test_the_next_session_cleans_up_after_a_killed_session_and_supervisor(docker):
    with session("docker", "wait") as (process, facts):
        assert facts["session"] not in remove_stale_sessions(engine.find_engine()), "the session is alive"
        os.kill(facts["supervisor"], signal.SIGSTOP)  # so that it can't clean up
        process.kill()
        process.wait(5)
        os.kill(facts["supervisor"], signal.SIGKILL)
        assert len(objects_of(facts["session"])) == 4
        with DockerBackend(Settings()):
            assert objects_of(facts["session"]) == []
            assert not Path(facts["directory"]).exists()


@pytest.mark.parametrize("kind", EXTERNAL)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_of_a_signalled_external_session(kind, number):
    with servers_of_the_user(kind) as user, session("external", "wait", **user.settings) as (process, facts):
        assert len(user.proxies()) == 4
        process.send_signal(number)
        process.wait(5)
        until(lambda: gone(facts["supervisor"]) and gone(facts["service"]), within=5)
        assert user.objects_left() == []


@pytest.mark.parametrize("kind", EXTERNAL)
def test_a_session_that_starts_leaves_the_cleanup_of_another_alone(kind, tmp_path):
    with servers_of_the_user(kind) as user, session("external", "wait", tmp_path, **user.settings) as (process, facts):
        os.kill(facts["supervisor"], signal.SIGSTOP)  # the cleanup has not begun
        process.kill()
        process.wait(5)
        try:
            assert remove_stale([tmp_path]) == [], "the supervisor needs the plan for its cleanup"
        finally:
            os.kill(facts["supervisor"], signal.SIGCONT)
        until(lambda: gone(facts["supervisor"]), within=5)
        assert user.objects_left() == []


@pytest.mark.parametrize("kind", EXTERNAL)
def test_the_next_session_cleans_up_after_a_killed_external_session_and_supervisor(kind, tmp_path):
    with servers_of_the_user(kind) as user, session("external", "wait", tmp_path, **user.settings) as (process, facts):
        os.kill(facts["supervisor"], signal.SIGSTOP)  # so that it can't clean up
        process.kill()
        process.wait(5)
        os.kill(facts["supervisor"], signal.SIGKILL)
        until(lambda: gone(facts["supervisor"]) and gone(facts["service"]), within=5)
        assert len(user.objects_left()) >= 5, "four proxies and a database"
        assert remove_stale([tmp_path]) == [Path(facts["directory"])]
        assert user.objects_left() == []


class UserServers:
    """Servers and a Toxiproxy for the external backend, and what sessions have left on them.

    Args:
        below: the backend whose servers they are.
        url: the URL of the API of the Toxiproxy.
        kind: one of EXTERNAL.
    """

    def __init__(self, below, url, kind):
        self._below = below
        self._api = below.api if kind == "external" else type(below.api).parse(url.removeprefix("http://"))
        self.settings = settings(below, url)._asdict()

    def proxies(self):
        return list(api(self._api, "GET", "/proxies"))

    def objects_left(self):
        """Return the names of proxies and databases, and the logical Redis databases with keys."""
        postgres, cache = self._below.servers["postgres"], self._below.servers["redis"]
        query = "select coalesce(string_agg(datname, ' '), '') from pg_database where datname like 'resilience_%'"
        databases = sql(postgres.url(postgres.direct_address), query).split()
        with redis.Redis.from_url(f"redis://{cache.direct_address}/0") as client:
            return self.proxies() + databases + list(client.info("keyspace"))


@contextlib.contextmanager
def servers_of_the_user(kind):
    if reason := unavailable_reason(kind):
        pytest.skip(reason)
    with EmbeddedBackend() as below, toxiproxy(kind, below) as url:
        yield UserServers(below, url, kind)
