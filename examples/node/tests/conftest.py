"""The start of the Node service, which reaches Postgres and Redis through one proxy each."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_resilience import Service, Stack


@pytest.fixture(scope="session")
def resilience_service(resilience_stack: Stack) -> Service:
    return Service(
        ["node", "src/server.js"],
        setup=[["node", "src/migrate.js"]],
        port_variable="PORT",
        ready="/readyz",
        within=20.0,
        cwd=Path(__file__).parent.parent,
        env={
            "DATABASE_URL": resilience_stack.postgres.url,
            "REDIS_URL": resilience_stack.redis.url,
            "NODE_OPTIONS": "--max-old-space-size=64",  # MiB of the heap; buffers are outside of it
        },
    )
