"""The promises of the prices while memcached is down, silent, slow or restarted."""

from __future__ import annotations

import shutil
import time

import pytest

from prices import TIMEOUT, Prices
from pytest_resilience import Resilience, TcpTarget, recovers

pytestmark = pytest.mark.skipif(shutil.which("memcached") is None, reason="memcached is not installed")

SLACK = 3.0  # seconds for everything but memcached, on a busy machine


def test_a_price_is_cached(prices: Prices, source) -> None:
    assert [prices.of("lamp"), prices.of("lamp")] == [950, 950]
    assert source.asked == ["lamp"]


def test_each_test_begins_with_an_empty_cache(prices: Prices, source) -> None:
    prices.of("lamp")
    assert source.asked == ["lamp"]


@pytest.mark.fault("cache.refuse")
def test_prices_are_right_without_a_cache(resilience: Resilience, prices: Prices, source) -> None:
    assert [prices.of("lamp"), prices.of("chair")] == [950, 4900]
    resilience.strikes[0].heal()
    prices.of("lamp")
    asked = len(source.asked)
    recovers(lambda: prices.of("lamp") == 950 and len(source.asked) == asked, within=5)


def test_a_silent_cache_costs_two_time_outs(prices: Prices, cache: TcpTarget) -> None:
    prices.of("lamp")
    with cache.blackhole():
        begin = time.monotonic()
        assert prices.of("lamp") == 950
        assert time.monotonic() - begin < 2 * TIMEOUT + SLACK


def test_an_answer_after_its_time_out_is_not_taken_for_the_next_one(prices: Prices, cache: TcpTarget) -> None:
    prices.of("lamp"), prices.of("chair")
    with cache.latency(TIMEOUT + 0.1):
        assert prices.of("lamp") == 950
    assert [prices.of("chair"), prices.of("lamp")] == [4900, 950]


def test_an_answer_that_is_cut_is_no_price(prices: Prices, cache: TcpTarget) -> None:
    prices.of("lamp")
    with cache.limit_data(10):
        assert prices.of("lamp") == 950


def test_a_cache_that_is_killed_comes_back_empty(resilience: Resilience, prices: Prices, source) -> None:
    prices.of("lamp")
    with resilience.services["cache_server"].kill():
        assert prices.of("lamp") == 950
    asked = len(source.asked)
    prices.of("lamp")
    recovers(lambda: prices.of("lamp") == 950 and len(source.asked) == asked + 1, within=5)
