"""Start the bundled service behind proxies. A chaos test needs nothing but the `resilience` fixture."""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator

import pytest

from instances import delete_journals, describe_service
from pytest_resilience import NeverHappened, Resilience, Service, Stack
from unexpected import find_unexpected_lines


@pytest.fixture(scope="session")
def resilience_service(resilience_stack: Stack) -> Service:
    return describe_service(resilience_stack)


def pytest_collection_finish() -> None:
    """Spare each garbage collection the objects of imported modules. They were 6 % of the CPU time of a run."""
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Delete the journals before the service of a test starts."""
    delete_journals()


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
    find_unexpected_lines(resilience.service.log)
