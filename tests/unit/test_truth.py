"""A response counts by its status, which httpx and aiohttp leave to the caller."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import httpx
import pytest

from pytest_resilience import eventually, recovers
from pytest_resilience.errors import NeverHappened
from pytest_resilience.targets.readiness import CheckedReadiness
from pytest_resilience.truth import is_true
from tests.support.clocks import FakeClock


@pytest.mark.parametrize(("status", "expected"), [(200, True), (304, True), (400, False), (404, False), (503, False)])
def test_a_response_of_httpx_is_true_below_400(status: int, expected: bool) -> None:
    assert is_true(httpx.Response(status)) is expected


@pytest.mark.parametrize(("status", "expected"), [(200, True), (503, False)])
def test_a_response_of_aiohttp_is_true_below_400(monkeypatch: pytest.MonkeyPatch, status: int, expected: bool) -> None:
    class ClientResponse:
        def __init__(self, status: int) -> None:
            self.status = status

    aiohttp: Any = ModuleType("aiohttp")
    aiohttp.ClientResponse = ClientResponse
    monkeypatch.setitem(sys.modules, "aiohttp", aiohttp)
    assert is_true(ClientResponse(status)) is expected


@pytest.mark.parametrize("answer", [0, 1, "", "no", None, [], [0], object()])
def test_any_other_answer_is_what_python_takes_it_for(answer: object) -> None:
    assert is_true(answer) is bool(answer)


def test_a_service_that_responds_with_errors_has_not_recovered() -> None:
    responses = [httpx.Response(503), httpx.Response(404), *(httpx.Response(204) for _ in range(3))]
    answers = iter(responses)
    assert recovers(lambda: next(answers), within=1, clock=FakeClock()) is responses[-1]
    with pytest.raises(NeverHappened, match=r"last answer: <Response \[503 Service Unavailable\]>"):
        recovers(lambda: httpx.Response(503), within=1, clock=FakeClock())


def test_eventually_may_wait_for_a_response_with_an_error() -> None:
    responses = [httpx.Response(200), httpx.Response(503)]
    answers = iter(responses)

    def refused() -> httpx.Response | None:
        response = next(answers)
        return response if response.status_code == 503 else None

    assert eventually(refused, within=1, clock=FakeClock()) is responses[1]


def test_a_service_is_not_ready_while_its_function_gets_errors() -> None:
    statuses = iter([503, 200])
    readiness = CheckedReadiness(None, lambda: httpx.Response(next(statuses)))  # type: ignore[arg-type]  # of no use to it
    assert [readiness.is_ready(), readiness.is_ready()] == [False, True]
