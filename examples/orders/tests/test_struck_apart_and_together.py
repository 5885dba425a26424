"""The promises of the web process and the worker while one of them, both, or a server is struck."""

from __future__ import annotations

import pytest

from orders.worker import LOOK
from pytest_resilience import Resilience, eventually

SOON = 10.0  # seconds, on a busy machine, for everything but the wait for a look
ITEMS = ["lamp", "chair", "table"]


def place(resilience: Resilience, item: str) -> int:
    """Place an order and return its number."""
    reply = resilience.service.post("/orders", json={"item": item})
    assert reply.status_code == 201, f"the order of a {item} was answered {reply.status_code}: {reply.text}"
    return int(reply.json()["id"])


def parcels(resilience: Resilience, number: int) -> int:
    """Return the number of parcels of an order."""
    return int(resilience.service.get(f"/orders/{number}").json()["parcels"])


def assert_each_is_shipped_once(resilience: Resilience, numbers: list[int]) -> None:
    for number in numbers:
        eventually(lambda number=number: parcels(resilience, number) > 0, within=SOON + LOOK)
    assert [parcels(resilience, number) for number in numbers] == [1] * len(numbers)


def test_orders_are_shipped_once_while_nothing_is_struck(resilience: Resilience) -> None:
    assert_each_is_shipped_once(resilience, [place(resilience, item) for item in ITEMS])


@pytest.mark.parametrize("outage", ["kill", "pause", "terminate"])
def test_the_web_process_takes_orders_without_the_worker(resilience: Resilience, outage: str) -> None:
    with resilience.strike(f"worker.{outage}"):
        numbers = [place(resilience, item) for item in ITEMS]
        assert [parcels(resilience, number) for number in numbers] == [0, 0, 0]
    assert_each_is_shipped_once(resilience, numbers)


def test_the_worker_ships_without_the_web_process(resilience: Resilience) -> None:
    with resilience.services["worker"].pause():
        numbers = [place(resilience, item) for item in ITEMS]
        web_is_down = resilience.service.kill()
    worker = resilience.services["worker"]
    eventually(lambda: all(f"shipped order {number}\n" in worker.log for number in numbers), within=SOON + LOOK)
    web_is_down.heal()
    assert_each_is_shipped_once(resilience, numbers)


def test_no_order_is_lost_if_both_are_killed(resilience: Resilience) -> None:
    numbers = [place(resilience, item) for item in ITEMS]
    with resilience.service.kill(), resilience.services["worker"].kill():
        pass
    assert_each_is_shipped_once(resilience, numbers)


def test_without_redis_the_worker_finds_the_orders_in_the_table(resilience: Resilience) -> None:
    with resilience.redis.refuse():
        assert_each_is_shipped_once(resilience, [place(resilience, item) for item in ITEMS])


def test_the_worker_returns_after_a_restart_of_postgres(resilience: Resilience) -> None:
    resilience.postgres.restart()
    worker = resilience.services["worker"]
    eventually(lambda: "Postgres is away" in worker.log, within=SOON + LOOK)
    assert_each_is_shipped_once(resilience, [place(resilience, "lamp")])


@pytest.mark.fault("worker.pause")
def test_an_order_can_be_read_while_the_worker_hangs(resilience: Resilience) -> None:
    number = place(resilience, "lamp")
    assert resilience.service.get(f"/orders/{number}").json() == {"item": "lamp", "parcels": 0}
