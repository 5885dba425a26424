"""Postgres through SQLAlchemy, with a deadline for each request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg
from sqlalchemy import BigInteger, exc, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

DEADLINE = 1.0  # seconds that one request may spend on Postgres, the wait for a connection included
POOL = 5  # connections

# SQLAlchemy wraps errors of statements, but not errors of connecting, which come from asyncpg and the system.
AWAY = (
    exc.DBAPIError,
    exc.TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
MISTAKES = (
    exc.DataError,
    exc.IntegrityError,
    exc.ProgrammingError,
)  # errors of the shop, which a later attempt does not change

Result = TypeVar("Result")
log = logging.getLogger("shop")


class DatabaseAway(Exception):
    """Postgres is down, full, or slower than the deadline. The client may try again later."""


class Base(DeclarativeBase):
    """The base class of all tables."""


class Product(Base):
    """A product."""

    __tablename__ = "products"

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    name: Mapped[str]


class Database:
    """The pool. Its requests never take longer than the deadline.

    Args:
        url: postgresql+asyncpg://...
    """

    def __init__(self, url: str) -> None:
        # pool_pre_ping replaces a connection that died while idle before a request uses it.
        self._engine = create_async_engine(
            url, pool_size=POOL, max_overflow=0, pool_pre_ping=True, connect_args={"timeout": 2 * DEADLINE}
        )
        self._session = async_sessionmaker(self._engine)
        self._tasks: set[asyncio.Task[object]] = set()

    async def create_tables(self) -> None:
        """Create the tables, in place of a migration."""
        async with self._engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)

    async def ping(self) -> None:
        """Run a query that needs no table.

        Raises:
            DatabaseAway: no answer before the deadline.
        """

        async def work() -> None:
            async with self._engine.connect() as connection:
                await connection.execute(text("select 1"))

        await self._in_time(work)

    async def name_of(self, number: int) -> str | None:
        """Return the name of a product, or None if there is no such product.

        Raises:
            DatabaseAway: no answer before the deadline.
        """

        async def work() -> str | None:
            async with self._session() as session:
                product = await session.get(Product, number)
                return product.name if product is not None else None

        return await self._in_time(work)

    async def store(self, number: int, name: str) -> None:
        """Add a product or rename it.

        Raises:
            DatabaseAway: no answer before the deadline. The product may have been stored.
        """

        async def work() -> None:
            async with self._session.begin() as session:
                await session.merge(Product(number=number, name=name))

        await self._in_time(work)

    async def close(self) -> None:
        """Cancel the requests under way and close the pool."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2 * DEADLINE)
        await self._engine.dispose()

    async def _in_time(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Return the result of `work`, or raise DatabaseAway at the deadline.

        asyncio.timeout() is not enough, because a cancelled query waits for the proper end of its connection, for seconds
        after the deadline. So the query runs in a separate task, which cleans up after the request has returned.
        """

        async def run() -> Result:
            return await work()

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        try:
            done, _ = await asyncio.wait({task}, timeout=DEADLINE)
            if not done:
                raise DatabaseAway(f"no answer within {DEADLINE:g} s")
            return task.result()
        except MISTAKES:
            raise
        except AWAY as error:
            raise DatabaseAway(str(error)) from error
        finally:
            task.cancel()

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("a request to Postgres ended with %r", error)
