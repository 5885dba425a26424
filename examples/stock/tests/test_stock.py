"""The promises of the stock while MySQL refuses, is silent, is full or is killed."""

from __future__ import annotations

import time

import pytest

from pytest_resilience import MysqlTarget, Resilience
from stock import ATTEMPTS, TIMEOUT, SoldOut, Stock, Unavailable

SLACK = 5.0  # seconds for everything but the time-outs, on a busy machine


def test_each_product_is_sold_once(stock: Stock) -> None:
    stock.reserve("a", "lamp")
    stock.reserve("b", "lamp")
    stock.reserve("b", "lamp")
    with pytest.raises(SoldOut):
        stock.reserve("c", "lamp")
    assert stock.free("lamp") == 0


def test_each_test_begins_with_the_whole_stock(stock: Stock) -> None:
    assert (stock.free("lamp"), stock.free("chair")) == (2, 100)


@pytest.mark.fault("mysql.read_only")
def test_a_standby_is_read_and_takes_no_reservation(resilience: Resilience, stock: Stock) -> None:
    assert stock.free("lamp") == 2
    with pytest.raises(Unavailable, match="1290"):
        stock.reserve("a", "lamp")
    resilience.strikes[0].heal()
    stock.reserve("a", "lamp")
    assert stock.free("lamp") == 1


def test_a_database_without_free_connections_is_unavailable_at_once(stock: Stock, mysql: MysqlTarget) -> None:
    with mysql.starve(connections=0) as strike, pytest.raises(Unavailable, match="1040"):
        stock.free("lamp")
    assert strike.receipt.touched == 1, "such a database needs no more attempts"
    assert stock.free("lamp") == 2


def test_sessions_that_an_administrator_ends_are_replaced(stock: Stock, mysql: MysqlTarget) -> None:
    stock.reserve("a", "lamp")
    mysql.close_connections()
    stock.reserve("b", "lamp")
    assert stock.free("lamp") == 0


def test_reservations_outlive_a_killed_database(stock: Stock, mysql: MysqlTarget) -> None:
    stock.reserve("a", "lamp")
    with mysql.kill(), pytest.raises(Unavailable):
        stock.reserve("b", "lamp")
    assert stock.free("lamp") == 1
    stock.reserve("a", "lamp")
    stock.reserve("b", "lamp")
    assert stock.free("lamp") == 0


def test_a_reservation_whose_answer_is_lost_is_made_once(stock: Stock, mysql: MysqlTarget) -> None:
    assert stock.free("lamp") == 2
    with mysql.blackhole("down"), pytest.raises(Unavailable):
        stock.reserve("a", "lamp")
    stock.reserve("a", "lamp")
    assert stock.free("lamp") == 1


def test_a_silent_database_costs_the_time_outs_only(stock: Stock, mysql: MysqlTarget) -> None:
    stock.free("lamp")
    begin = time.monotonic()
    with mysql.pause(), pytest.raises(Unavailable):
        stock.free("lamp")
    assert time.monotonic() - begin < ATTEMPTS * 2 * TIMEOUT + SLACK
    assert stock.free("lamp") == 2
