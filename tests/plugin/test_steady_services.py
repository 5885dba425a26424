"""`steady` and `jobs` name services and their processes that have died, although the answer was true."""

from __future__ import annotations

import pytest

WORKER = """
import multiprocessing, os, sys, time
import redis

def work():
    client = redis.Redis.from_url(os.environ["REDIS_URL"], socket_timeout=5, retry=None)
    client.ping()
    while client.set("alive", os.getpid()):
        time.sleep(0.01)

def supervise():
    while True:
        child = multiprocessing.get_context("fork").Process(target=work)
        child.start()
        print("worker: ready", flush=True)
        child.join()
        if sys.argv[1] == "once":
            time.sleep(60)

if __name__ == "__main__":
    work_alone = sys.argv[1] == "alone"
    print("worker: ready", flush=True) if work_alone else None
    work() if work_alone else supervise()
"""
CONFTEST = """
import sys
from pytest_resilience import Service, factories

def describe(kind):
    return lambda stack: Service([sys.executable, "worker.py", kind], port_variable=None, ready="worker: ready", within=30.0,
                                 env={"REDIS_URL": stack.redis.url})

"""
HELPERS = """
import signal, sys, threading
import psutil, pytest, redis
from pytest_resilience import NotSteady, probes

def eventually(question):
    return probes.eventually(question, within=30)

@pytest.fixture
def client(resilience):
    with redis.Redis.from_url(resilience.redis.direct_url) as client:
        client.set("lamp", "3")
        yield client

def gone(process):
    return not psutil.pid_exists(process.pid)

def children(resilience):
    return resilience.worker.process.children()

"""


@pytest.fixture
def system(project: pytest.Pytester) -> pytest.Pytester:
    project.makepyfile(worker=WORKER)
    return project


def test_a_service_that_has_died_is_named(system: pytest.Pytester) -> None:
    system.makeconftest(CONFTEST + 'worker = factories.service("worker", describe("alone"))\n')
    system.makepyfile(
        HELPERS
        + r"""
def test_exit_code_and_log(resilience, client):
    worker = resilience.worker.process
    with pytest.raises(NotSteady) as raised:
        with resilience.steady(lambda: client.get("lamp") == b"3"):
            with resilience.redis.refuse():
                eventually(lambda: not worker.is_running())
    text = str(raised.value)
    assert "the answers were true, and something has died meanwhile\n" in text
    assert "\n  the service 'worker' has ended with exit code 1; the end of its log:\n" in text
    assert "\n      redis.exceptions.ConnectionError: " in text and "\n  struck by then: redis.refuse" in text

def test_a_signal(resilience, client):
    with pytest.raises(NotSteady, match=r"the service 'worker' has ended with exit code -9 \(SIGKILL\); the end of its log"):
        with resilience.steady(lambda: client.get("lamp") == b"3"):
            resilience.worker.process.kill()
            eventually(lambda: not resilience.worker.process.is_running())

def test_one_that_a_later_heal_has_started_again(resilience, client):
    worker = resilience.worker.process
    with pytest.raises(NotSteady, match="the service 'worker' has ended with exit code 1"):
        with resilience.steady(lambda: client.get("lamp") == b"3"):
            with resilience.redis.refuse():
                eventually(lambda: not worker.is_running())
            resilience._running["worker"].start()

def test_no_death(resilience, client):
    with resilience.steady(lambda: client.get("lamp") == b"3"):
        with resilience.worker.kill():
            pass
        resilience.worker.restart()
        with resilience.worker.terminate():
            pass

def test_one_that_was_dead_before(resilience, client):
    resilience.worker.process.kill()
    eventually(lambda: not resilience.worker.process.is_running())
    with resilience.steady(lambda: client.get("lamp") == b"3"):
        pass

def test_one_that_the_test_has_struck_by_its_id(resilience, client):
    with resilience.steady(lambda: client.get("lamp") == b"3"):
        resilience.process(resilience.worker.process.pid).kill()

def test_of_jobs(resilience, client):
    ran, worker = [], resilience.worker.process
    with pytest.raises(NotSteady) as raised:
        with resilience.jobs(enqueue=lambda job: ran.append(job), ran=lambda: ran):
            with resilience.redis.refuse():
                eventually(lambda: not worker.is_running())
    assert "have run as fast as before, and something has died meanwhile\n  the service 'worker' has ended with exit code 1;" in str(raised.value)

def test_a_spawned_process(resilience, client):
    child, other = (
        resilience.spawn(name, [sys.executable, "-c", "import time; time.sleep(60)"], env={}) for name in ("sidecar", "other")
    )
    with pytest.raises(NotSteady, match="the process 'sidecar' has ended with exit code -9") as raised:
        with resilience.steady(lambda: client.get("lamp") == b"3"):
            child.process.kill()
            eventually(lambda: not child.running)
            other.kill()
    assert "'other'" not in str(raised.value)
"""
    )
    system.runpytest_subprocess("--resilience-leaks=off").assert_outcomes(passed=8)


def test_a_process_of_a_service_that_has_been_replaced_is_named(system: pytest.Pytester) -> None:
    system.makeconftest(CONFTEST + 'worker = factories.service("worker", describe("again"))\n')
    system.makepyfile(
        HELPERS
        + r"""
def test_it(resilience, client):
    eventually(lambda: client.get("alive"))
    with pytest.raises(NotSteady) as raised:
        with resilience.steady(lambda: client.get("lamp") == b"3"):
            (old,) = children(resilience)
            name = old.name()
            with resilience.redis.refuse():
                eventually(lambda: gone(old))
            client.delete("alive")
            eventually(lambda: client.get("alive"))
            (new,) = children(resilience)
    text = str(raised.value)
    assert "the answers were true, and something has died meanwhile\n" in text
    assert f"\n  the process {old.pid} ({name}) of the service 'worker' has ended, and the service has started {new.pid} in its place (allowed with workers_may_be_replaced=True)\n" in text

def test_one_that_the_test_has_struck(resilience, client):
    eventually(lambda: client.get("alive"))
    with resilience.steady(lambda: client.get("lamp") == b"3"):
        (old,) = children(resilience)
        resilience.process(old.pid).kill()
        eventually(lambda: gone(old) and children(resilience))

def test_the_restart_of_the_whole_service(resilience, client):
    eventually(lambda: client.get("alive"))
    with resilience.steady(lambda: client.get("lamp") == b"3"):
        with resilience.worker.kill():
            pass
"""
    )
    system.runpytest_subprocess("--resilience-leaks=off").assert_outcomes(passed=3)


def test_a_process_of_a_service_that_has_not_been_replaced_is_named(system: pytest.Pytester) -> None:
    system.makeconftest(CONFTEST + 'worker = factories.service("worker", describe("once"))\n')
    system.makepyfile(
        HELPERS
        + r"""
def test_it(resilience, client):
    eventually(lambda: client.get("alive"))
    with pytest.raises(NotSteady, match=r"the process \d+ \(\S+\) of the service 'worker' has ended\n"):
        with resilience.steady(lambda: client.get("lamp") == b"3"):
            (old,) = children(resilience)
            with resilience.redis.refuse():
                eventually(lambda: not children(resilience))
"""
    )
    system.runpytest_subprocess("--resilience-leaks=off").assert_outcomes(passed=1)
