"""The start of the web process and of the worker. All other fixtures come with pytest-resilience."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pytest_resilience import Service, Stack, factories

PROJECT = Path(__file__).parent.parent


def environment(stack: Stack) -> dict[str, str]:
    """Return the environment that both processes need."""
    return {"DATABASE_URL": stack.postgres.url, "REDIS_URL": stack.redis.url}


@pytest.fixture(scope="session")
def resilience_service(resilience_stack: Stack) -> Service:
    return Service(
        [sys.executable, "-m", "orders.web", "--port", "{port}"],
        setup=[[sys.executable, "-m", "orders.migrate"]],
        ready="/readyz",
        within=20.0,
        cwd=PROJECT,
        env=environment(resilience_stack),
    )


worker = factories.service(
    "worker",
    lambda stack: Service(
        [sys.executable, "-m", "orders.worker"],
        port_variable=None,
        ready="ready",
        within=20.0,
        cwd=PROJECT,
        env=environment(stack),
    ),
)
