"""Boots the bundled service behind proxies: everything a chaos test needs is the `resilience` fixture."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import healthy
from pytest_resilience import Service, Stack


@pytest.fixture(scope="session")
def resilience_service(resilience_stack: Stack) -> Service:
    return Service(
        [sys.executable, "-m", "service"],
        port_variable="PORT",
        ready="/readyz",
        within=10.0,
        cwd=Path(__file__).parent.parent,
        env={
            "HOST": "127.0.0.1",
            "DATABASE_URL": resilience_stack.postgres.url,
            "REDIS_URL": resilience_stack.redis.url,
            "REDIS_BUDGET": str(healthy.REDIS_BUDGET),
            "DB_POOL_MAX": str(healthy.POOL_MAX),
            "DB_POOL_CHECK_INTERVAL": str(healthy.POOL_CHECK_INTERVAL),
            "DB_POOL_ACQUIRE_TIMEOUT": str(healthy.ACQUIRE_TIMEOUT),
            "DB_COMMAND_TIMEOUT": str(healthy.COMMAND_TIMEOUT),
            "GC_INTERVAL": str(healthy.GC_INTERVAL),
            "CLEANUP_MIN_INTERVAL": str(healthy.CLEANUP_MIN_INTERVAL),
            "CLEANUP_TOKEN": "a-token-of-the-chaos-suite",
        },
    )
