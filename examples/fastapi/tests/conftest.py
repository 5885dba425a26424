"""The start of the service after its migrations. All other fixtures come with pytest-resilience."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pytest_resilience import Service, Stack


@pytest.fixture(scope="session")
def resilience_service(resilience_stack: Stack) -> Service:
    postgres, redis = resilience_stack.postgres, resilience_stack.redis
    return Service(
        [sys.executable, "-m", "uvicorn", "--port", "{port}", "--log-level", "warning", "bookings.app:app"],
        setup=[[sys.executable, "-m", "alembic", "upgrade", "head"]],  # once; each test begins with the result
        ready="/readyz",
        within=20.0,
        cwd=Path(__file__).parent.parent,
        env={
            "DATABASE_URL": postgres.url.replace("postgresql://", "postgresql+asyncpg://", 1),
            "REDIS_URL": redis.url,
        },
        timeout=5.0,  # each answer comes within this time, whatever is struck
        restart="struck",
        preload=("uvicorn.protocols.http.auto", "uvicorn.loops.auto", "uvicorn.lifespan.on", "asyncpg", "bookings.app"),
    )
