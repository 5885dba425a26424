"""A stock of products in MySQL, from which orders are reserved. No order is reserved twice or halfway."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pymysql
from pymysql.constants import CR, ER

TIMEOUT = 2  # seconds for each step of the database
ATTEMPTS = 2  # a second one with a new connection, because the first may have met a connection that has ended

SCHEMA = """
create table products (name varchar(40) primary key, free int not null, check (free >= 0));
create table reservations (id varchar(40) primary key, product varchar(40) not null, foreign key (product) references products (name))
"""

LOST = (CR.CR_SERVER_LOST, CR.CR_SERVER_GONE_ERROR)


class SoldOut(Exception):
    """Nothing of the product is free."""


class Unavailable(Exception):
    """The database can't answer now. A reservation was made or not; the same call finds out, and makes it if not."""


class Stock:
    """The stock.

    Args:
        connect: returns a new connection, such as `functools.partial(pymysql.connect, host=..., connect_timeout=TIMEOUT)`.
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._connection: Any = None

    def free(self, product: str) -> int:
        """Return how many of a product are free."""
        return self._repeated(lambda cursor: _free(cursor, product))

    def reserve(self, order: str, product: str) -> None:
        """Reserve one of a product for an order. A second call for the order does nothing.

        Raises:
            SoldOut: none is free.
            Unavailable: the database can't answer, or refuses writes.
        """
        self._repeated(lambda cursor: _reserve(cursor, order, product))

    def _repeated(self, work: Callable[[Any], Any]) -> Any:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self._transaction() as cursor:
                    return work(cursor)
            except (pymysql.err.OperationalError, pymysql.err.InterfaceError) as error:
                self.close()
                if attempt == ATTEMPTS or not _is_lost(error):
                    raise Unavailable(str(error)) from error
        raise AssertionError("every attempt returns or raises")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Any]:
        if self._connection is None:
            self._connection = self._connect()
        with self._connection.cursor() as cursor:
            self._connection.begin()
            try:
                yield cursor
            except SoldOut:
                self._connection.rollback()
                raise
            self._connection.commit()

    def close(self) -> None:
        """Close the connection. The next call opens another one."""
        if self._connection is not None and self._connection.open:
            with contextlib.suppress(pymysql.err.Error, OSError):
                self._connection.close()
        self._connection = None


def _is_lost(error: Exception) -> bool:
    """True if the connection has ended, so that a new one may work."""
    return isinstance(error, pymysql.err.InterfaceError) or error.args[0] in LOST


def _free(cursor: Any, product: str) -> int:
    cursor.execute("select free from products where name = %s", (product,))
    return int(cursor.fetchone()[0])


def _reserve(cursor: Any, order: str, product: str) -> None:
    try:
        cursor.execute("insert into reservations values (%s, %s)", (order, product))
    except pymysql.err.IntegrityError as error:
        if error.args[0] == ER.DUP_ENTRY:
            return  # by an earlier call, whose answer was lost
        raise
    if not cursor.execute("update products set free = free - 1 where name = %s and free > 0", (product,)):
        raise SoldOut(product)
