"""A MySQL with two products, and the stock in it."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pymysql
import pytest

from pytest_resilience import MysqlTarget, factories
from stock import SCHEMA, TIMEOUT, Stock

PRODUCTS = "insert into products values ('lamp', 2), ('chair', 100)"

mysql = factories.mysql("mysql", init=[SCHEMA, PRODUCTS])


@pytest.fixture
def stock(mysql: MysqlTarget) -> Iterator[Stock]:
    stock = Stock(
        functools.partial(
            pymysql.connect,
            host=mysql.host,
            port=mysql.port,
            user=mysql.user,
            password=mysql.password,
            database=mysql.database,
            connect_timeout=TIMEOUT,
            read_timeout=TIMEOUT,
            write_timeout=TIMEOUT,
        )
    )
    yield stock
    stock.close()
