"""Pools of worker processes for test projects, which run jobs of a list in Redis."""

from __future__ import annotations

# The first argument is the kind of the pool:
# celery: two workers; each ends with exit code 155 after two jobs (--max-tasks-per-child), and the pool starts another.
# rq: one process for each job, which ends with exit code 0 as soon as something is in the list "end".
# shrinking: as celery, and the pool starts no other.
# A job is in the list "ran" as soon as it has run, before the worker ends.
POOL = """
import os, sys
import redis

def connect():
    return redis.Redis.from_url(os.environ["REDIS_URL"])

def pop(client):
    while True:
        try:
            return client.blpop("jobs")[1]
        except redis.RedisError:
            continue

def work():
    client = connect()
    for _ in range(2):
        client.rpush("ran", pop(client))
    os._exit(155)

def fork(function, *arguments):
    pid = os.fork()
    if pid == 0:
        function(*arguments)
        os._exit(0)
    return pid

def prefork():
    for _ in range(2):
        fork(work)
    while True:
        os.wait()
        if sys.argv[1] == "celery":
            fork(work)

def run_job(job):
    client = connect()
    client.rpush("ran", job)
    client.blpop("end")

def run_each():
    client = connect()
    while True:
        fork(run_job, pop(client))
        os.wait()

print("pool: ready", flush=True)
run_each() if sys.argv[1] == "rq" else prefork()
"""
CONFTEST = """
import sys
from pytest_resilience import Service, factories

def describe(stack):
    return Service([sys.executable, "pool.py", {kind!r}], port_variable=None, ready="pool: ready", within=30.0,
                   env={{"REDIS_URL": stack.redis.url}})

pool = factories.service("pool", describe)
"""
