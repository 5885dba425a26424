"""The start of the worker, and a queue as the programs that enqueue exports have it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from exports.queue import Exports
from pytest_resilience import Resilience, Service, factories

worker = factories.service(
    "worker",
    lambda stack: Service(
        [sys.executable, "-m", "exports.worker"],
        setup=[[sys.executable, "-m", "exports.jobs"]],
        port_variable=None,
        ready="Listening on",
        within=20.0,
        cwd=Path(__file__).parent.parent,
        env={"DATABASE_URL": stack.postgres.url, "REDIS_URL": stack.redis.url},
        restart="struck",
        preload=("rq", "psycopg", "exports.queue"),
    ),
)


@pytest.fixture
def exports(resilience: Resilience) -> Iterator[Exports]:
    exports = Exports(resilience.redis.url)
    yield exports
    exports.close()
