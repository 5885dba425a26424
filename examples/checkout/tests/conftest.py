"""The start of the service, and the payment API that the tests script."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pytest_resilience import Service, Stack, factories

payments = factories.http_stub("payments")


@pytest.fixture(scope="session")
def resilience_service(resilience_stack: Stack) -> Service:
    return Service(
        [sys.executable, "-m", "checkout"],
        ready="/readyz",
        within=20.0,
        cwd=Path(__file__).parent.parent,
        env={
            "DATABASE_URL": resilience_stack.postgres.url,
            "PAYMENTS_URL": resilience_stack.add_http_stub("payments").url,
        },
    )
