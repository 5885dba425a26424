"""A memcached for the session, empty at the begin of each test, and the prices that are cached in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prices import Prices
from pytest_resilience import Service, TcpTarget, factories

# Each test gets a new process, which is empty. As root, memcached demands a user to run as.
cache = factories.tcp(
    "cache", Service(["memcached", "-l", "127.0.0.1", "-p", "{port}", "-U", "0", "-u", "nobody"], ready="{port}")
)


class Source:
    """A source of prices that counts the questions."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, product: str) -> int:
        self.asked.append(product)
        return {"lamp": 950, "chair": 4900}[product]


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def prices(cache: TcpTarget, source: Source) -> Iterator[Prices]:
    prices = Prices((cache.host, cache.port), source)
    yield prices
    prices.close()
