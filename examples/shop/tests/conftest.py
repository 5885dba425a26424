"""The start of the shop. All other fixtures come with pytest-resilience."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pytest_resilience import Service, Stack


@pytest.fixture(scope="session")
def resilience_service(resilience_stack: Stack) -> Service:
    database = resilience_stack.postgres.url.replace(
        "postgresql://", "postgresql+asyncpg://", 1
    )  # the form that SQLAlchemy needs
    return Service(
        [sys.executable, "-m", "shop"],
        port_variable="PORT",
        ready="/readyz",
        within=20.0,
        cwd=Path(__file__).parent.parent,
        env={"DATABASE_URL": database, "REDIS_URL": resilience_stack.redis.url},
    )
