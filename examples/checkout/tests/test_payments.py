"""The promises of the checkout while the payment API is slow, down or wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from checkout.payments import DEADLINE
from pytest_resilience import Answer, HttpStub, Resilience, eventually

SLACK = 3.0  # seconds for everything but the payment API, on a busy machine
CHARGE = {"order": 1, "cents": 950, "paid": True}
PAID = Answer(201, json=CHARGE)


def order(resilience: Resilience) -> httpx.Response:
    """Order for 950 cents, which is order 1 of the test, and check that the answer comes in time."""
    begin = time.monotonic()
    reply = resilience.service.post("/orders", json={"cents": 950})
    assert time.monotonic() - begin < DEADLINE + SLACK, "the checkout waits for the payment API longer than promised"
    return reply


def keys(payments: HttpStub) -> set[str]:
    """Return the idempotency keys of all charges."""
    return {each.headers["idempotency-key"] for each in payments.requests}


def test_an_order_is_paid(resilience: Resilience, payments: HttpStub) -> None:
    payments.answer("/charges", PAID, method="POST")
    reply = order(resilience)
    assert (reply.status_code, reply.json()) == (201, {"order": 1, "status": "paid"})
    assert [each.json() for each in payments.requests] == [{"order": 1, "cents": 950}]


def test_a_busy_api_is_asked_again_with_the_same_key(resilience: Resilience, payments: HttpStub) -> None:
    payments.answer("/charges", 503, 503, PAID)
    assert order(resilience).json()["status"] == "paid"
    assert len(payments.requests) == 3
    assert keys(payments) == {"order-1"}


def test_a_declined_card_is_not_charged_again(resilience: Resilience, payments: HttpStub) -> None:
    payments.answer("/charges", 402, PAID)
    assert order(resilience).status_code == 402
    assert len(payments.requests) == 1


@pytest.mark.parametrize(
    "lie",
    [
        Answer(201, body="<html>Welcome</html>"),
        Answer(201, json={**CHARGE, "cents": 95}),
        Answer(201, json={**CHARGE, "order": 2}),
        Answer(201, json={**CHARGE, "paid": "no"}),
        Answer(201, json=[CHARGE]),
        Answer(201, json=CHARGE, cut=10),
        Answer(200, json={"error": "try again later"}),
    ],
    ids=["page", "another-amount", "another-order", "not-paid", "list", "cut", "error-with-200"],
)
def test_a_wrong_answer_is_no_payment(resilience: Resilience, payments: HttpStub, lie: Answer) -> None:
    payments.answer("/charges", lie)
    reply = order(resilience)
    assert (reply.status_code, reply.json()["status"]) == (202, "pending")
    payments.answer("/charges", PAID)
    assert resilience.service.get("/orders/1").json()["status"] == "paid"
    assert keys(payments) == {"order-1"}, "a second key could charge twice"


@contextmanager
def slow(payments: HttpStub, where: str) -> Iterator[None]:
    """Make the API slow: before its answer, on the way of the answer, or between the bytes of the answer."""
    if where == "answer":
        payments.answer("/charges", Answer(201, json=CHARGE, delay=10.0))
        yield
        payments.answer("/charges", PAID)
    else:
        payments.answer("/charges", PAID)
        with payments.latency(10.0) if where == "network" else payments.slicer(average_bytes=1, delay=0.1):
            yield


@pytest.mark.parametrize("where", ["answer", "network", "bytes"])
def test_a_slow_api_leaves_the_order_pending(resilience: Resilience, payments: HttpStub, where: str) -> None:
    with slow(payments, where):
        assert order(resilience).status_code == 202
    assert resilience.service.get("/orders/1").json()["status"] == "paid"
    assert keys(payments) == {"order-1"}


def test_an_answer_that_is_lost_does_not_charge_twice(resilience: Resilience, payments: HttpStub) -> None:
    payments.answer("/charges", PAID)
    with payments.blackhole("down"):
        assert order(resilience).status_code == 202
    assert {each.status for each in payments.requests} == {201}, "the API has charged, and the checkout can't know"
    assert resilience.service.get("/orders/1").json()["status"] == "paid"
    assert keys(payments) == {"order-1"}


@pytest.mark.fault("payments.refuse")
def test_orders_are_taken_while_the_api_is_down(resilience: Resilience, payments: HttpStub) -> None:
    assert order(resilience).status_code == 202
    assert resilience.service.get("/readyz").status_code == 200
    resilience.strikes[0].heal()
    payments.answer("/charges", PAID)
    assert resilience.service.get("/orders/1").json()["status"] == "paid"


def test_kept_connections_that_died_silently_cost_one_attempt(resilience: Resilience, payments: HttpStub) -> None:
    payments.answer("/charges", PAID)
    assert order(resilience).status_code == 201
    payments.answer("/charges", Answer(201, json={**CHARGE, "order": 2}))
    payments.half_open()
    assert order(resilience).status_code == 201


def test_a_checkout_that_is_killed_after_the_charge_charges_once(resilience: Resilience, payments: HttpStub) -> None:
    payments.answer("/charges", PAID)
    with ThreadPoolExecutor(1) as customer, payments.blackhole("down"):
        lost = customer.submit(order, resilience)
        eventually(lambda: payments.requests, within=5)  # the API has charged
        with resilience.service.kill():
            assert isinstance(lost.exception(timeout=5), httpx.TransportError)
    assert resilience.service.get("/orders/1").json()["status"] == "paid"
    assert keys(payments) == {"order-1"}, "a second key could charge twice"
