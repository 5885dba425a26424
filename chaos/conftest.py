"""Start the bundled service behind proxies. A chaos test needs nothing but the `resilience` fixture."""

from __future__ import annotations

import re
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

import healthy
from pytest_resilience import NeverHappened, Resilience, Service, Stack

# Log lines that no fault excuses, with their meaning. The service's log is searched for them after every test.
UNEXPECTED = {
    r"Traceback \(most recent call last\)": "an unhandled error reached the log",
    r"was never retrieved|was never awaited|Task was destroyed": "a task failed unnoticed",
    r"Closed [1-9]\d* leaked connections": "connections were checked out for longer than any request may take: a request"
    " hangs or lost its connection, and the sweep took its connection back",
    r"\[Memory\] High heap usage": "the memory guard acted although no memory was taken away",
}


@pytest.fixture(scope="session")
def resilience_service(resilience_stack: Stack) -> Service:
    return Service(
        [sys.executable, "-m", "service"],
        port_variable="PORT",
        ready="/readyz",
        within=10.0,
        cwd=Path(__file__).parent.parent,
        env=healthy.settings(resilience_stack.postgres.url, resilience_stack.redis.url),
    )


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Name the promise when a precondition of a test never comes true. A bare NeverHappened shows only a lambda."""
    try:
        return (yield)
    except NeverHappened as never:
        promise = pyfuncitem.originalname.removeprefix("test_").replace("_", " ")
        pytest.fail(f"the promise {promise!r} could not be tested, because a precondition did not come true: {never}")


@pytest.fixture(autouse=True)
def no_unexpected_log_lines(resilience: Resilience) -> Iterator[None]:
    """Fail a test if the service logged an unhandled error or an alarm without a cause."""
    yield
    if any(strike.label.startswith("service.memory_pressure") for strike in resilience.strikes):
        return  # any allocation may fail there, so such a test states its own expectations
    log = resilience.service.log
    for pattern, meaning in UNEXPECTED.items():
        found = re.search(pattern, log)
        assert not found, f"{meaning}; the service's log:\n{log[found.start() :][:2000]}"
