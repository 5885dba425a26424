"""Boots the bundled service behind proxies: everything a chaos test needs is the `resilience` fixture."""

from __future__ import annotations

import re
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

import healthy
from pytest_resilience import NeverHappened, Resilience, Service, Stack

# What no fault excuses, with what it means. Each is looked for in the service's log after every test.
NEVER = {
    r"Traceback \(most recent call last\)": "an error escaped from where it belongs",
    r"was never retrieved|was never awaited|Task was destroyed": "a task failed and nobody was told",
    r"Closed [1-9]\d* leaked connections": "connections of the pool were out for longer than any request may take: one hangs, or"
    " was left behind, and the sweep took its connection back",
    r"\[Memory\] High heap usage": "the memory guard cried although nobody took memory away",
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
    """Name the promise where a test waits in vain for something that it needs first: a bare NeverHappened names a lambda."""
    try:
        return (yield)
    except NeverHappened as never:
        promise = pyfuncitem.originalname.removeprefix("test_").replace("_", " ")
        pytest.fail(f"the promise that {promise} could not be tried, because what it needs first did not come: {never}")


@pytest.fixture(autouse=True)
def no_unexpected_log_lines(resilience: Resilience) -> Iterator[None]:
    """After each test the service's log has no error that escaped, and no cry of alarm without a reason."""
    yield
    if any(strike.label.startswith("service.memory_pressure") for strike in resilience.strikes):
        return  # where allocations fail, anything may; such a test says itself what it wants
    log = resilience.service.log
    for pattern, meaning in NEVER.items():
        found = re.search(pattern, log)
        assert not found, f"{meaning}; the service's log says:\n{log[found.start() :][:2000]}"
