"""`steady` and `jobs` with pools that replace their worker processes by design."""

from __future__ import annotations

import pytest

from tests.support.pools import CONFTEST, POOL

HELPERS = """
import multiprocessing, os, signal
import psutil, pytest, redis
from pytest_resilience import NotSteady, eventually

@pytest.fixture
def client(resilience):
    with redis.Redis.from_url(resilience.redis.direct_url) as client:
        yield client

@pytest.fixture
def queue(client):
    def ran(job):
        return job.encode() in client.lrange("ran", 0, -1)
    return {"enqueue": lambda job: client.rpush("jobs", job), "ran": ran, "within": 30}

def workers(resilience):
    return {each.pid for each in resilience.pool.process.children() if each.status() != psutil.STATUS_ZOMBIE}

def all_replaced(resilience, client, before):
    "Run jobs until each of these workers has ended."
    def question():
        client.rpush("jobs", "filler")
        return not workers(resilience) & before
    eventually(question, within=30)

"""


def run(project: pytest.Pytester, kind: str, body: str, passed: int) -> None:
    project.makepyfile(pool=POOL)
    project.makeconftest(CONFTEST.format(kind=kind))
    project.makepyfile(HELPERS + body)
    project.runpytest_subprocess("--resilience-leaks=off").assert_outcomes(passed=passed)


def test_a_pool_that_replaces_its_workers_is_allowed(project: pytest.Pytester) -> None:
    body = r"""
def test_of_jobs(resilience, client, queue):
    with resilience.jobs(**queue, workers_may_be_replaced=True):
        before = workers(resilience)
        with resilience.redis.latency(0.01):
            all_replaced(resilience, client, before)

def test_of_steady(resilience, client):
    with resilience.steady(lambda: True, within=30, workers_may_be_replaced=True):
        before = workers(resilience)
        with resilience.redis.latency(0.01):
            all_replaced(resilience, client, before)

def test_one_that_is_replaced_after_the_last_answer(resilience, client):
    eventually(lambda: len(workers(resilience)) == 2, within=30)
    pool = resilience.pool.process
    with resilience.steady(lambda: True, within=30, workers_may_be_replaced=True) as steady:
        pool.suspend()
        client.rpush("jobs", "one", "two", "three", "four")
        eventually(lambda: not workers(resilience), within=30)
        pause = steady._pause
        async def resume(seconds):
            pool.resume()
            await pause(seconds)
        steady._pause = resume

def test_that_is_a_death_without_the_option(resilience, client):
    eventually(lambda: len(workers(resilience)) == 2, within=30)
    with pytest.raises(NotSteady) as raised:
        with resilience.steady(lambda: True):
            all_replaced(resilience, client, workers(resilience))
            eventually(lambda: not client.llen("jobs") and len(workers(resilience)) == 2, within=30)
    assert " of the service 'pool' has ended, and the service has started " in str(raised.value)
    assert " in its place (allowed with workers_may_be_replaced=True)\n" in str(raised.value)

def test_a_dead_pool_is_a_death_with_the_option_too(resilience, client):
    with pytest.raises(NotSteady, match=r"the service 'pool' has ended with exit code -9 \(SIGKILL\)"):
        with resilience.steady(lambda: True, within=0.1, workers_may_be_replaced=True):
            resilience.pool.process.kill()
            eventually(lambda: not resilience.pool.process.is_running(), within=30)
"""
    run(project, "celery", body, passed=5)


def test_a_process_for_each_job_is_allowed(project: pytest.Pytester) -> None:
    body = r"""
def test_one_that_still_runs_when_the_experiment_has_begun(resilience, client, queue):
    def question():
        if not client.exists("ran"):
            queue["enqueue"]("job")
            eventually(lambda: queue["ran"]("job"), within=30)
        return True
    with resilience.steady(question, within=0.1, workers_may_be_replaced=True):
        assert len(workers(resilience)) == 1
        client.rpush("end", "of the job")
        eventually(lambda: not workers(resilience), within=30)

def test_one_for_each_job_of_jobs(resilience, client, queue):
    def enqueue(job):
        if client.exists("ran"):
            client.rpush("end", "of the job before")
        client.rpush("jobs", job)
    with resilience.jobs(**(queue | {"enqueue": enqueue}), workers_may_be_replaced=True):
        with resilience.redis.latency(0.01):
            eventually(lambda: client.llen("ran") == 4, within=30)  # the job of the fault has run too
"""
    run(project, "rq", body, passed=2)


def test_a_pool_that_has_shrunk_is_named(project: pytest.Pytester) -> None:
    body = r"""
def test_it(resilience, client):
    eventually(lambda: len(workers(resilience)) == 2, within=30)
    with pytest.raises(NotSteady) as raised:
        with resilience.steady(lambda: True, within=0.1, workers_may_be_replaced=True):
            client.rpush("jobs", "one", "two", "three")  # so one worker has run two
            eventually(lambda: len(workers(resilience)) == 1, within=30)
    assert str(raised.value).count("of the service 'pool' has ended\n") == 1

def test_one_that_the_test_has_killed_may_be_missing(resilience, client):
    eventually(lambda: len(workers(resilience)) == 2, within=30)
    with resilience.steady(lambda: True, within=0.1, workers_may_be_replaced=True):
        resilience.process(min(workers(resilience))).kill()
        eventually(lambda: len(workers(resilience)) == 1, within=30)
"""
    run(project, "shrinking", body, passed=2)


def test_children_of_the_test(project: pytest.Pytester) -> None:
    body = r"""
def test_that_are_replaced(resilience):
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
        with resilience.steady(lambda: True, within=30, workers_may_be_replaced=True):
            before = {each.pid for each in multiprocessing.active_children()}
            eventually(lambda: pool.apply(os.getpid) not in before, within=30)

def test_that_are_not_replaced(resilience):
    child = multiprocessing.get_context("fork").Process(target=signal.pause)
    child.start()
    with pytest.raises(NotSteady, match=f"the process {child.pid} .* has ended"):
        with resilience.steady(lambda: True, within=0.1, workers_may_be_replaced=True):
            child.kill()
            child.join()
"""
    run(project, "celery", body, passed=2)
