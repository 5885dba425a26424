"""Postgres through SQLAlchemy: the table, the pool, and the one place that says how long a request may wait for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg
from sqlalchemy import BigInteger, exc, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

DEADLINE = 1.0  # seconds that one request may spend on Postgres, a place in the pool included
POOL = 5  # connections

# SQLAlchemy wraps what a statement raises, and not what connecting raises: those are asyncpg's and the system's own.
AWAY = (
    exc.DBAPIError,
    exc.TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
MISTAKES = (exc.DataError, exc.IntegrityError, exc.ProgrammingError)  # ours: waiting does not mend them

Result = TypeVar("Result")
log = logging.getLogger("shop")


class DatabaseAway(Exception):
    """Postgres is gone, full, or slower than the deadline; the request may come back later."""


class Base(DeclarativeBase):
    """Of all tables."""


class Product(Base):
    """What there is to sell."""

    __tablename__ = "products"

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    name: Mapped[str]


class Database:
    """The pool, and requests on it that never outlast the deadline.

    Args:
        url: postgresql+asyncpg://...
    """

    def __init__(self, url: str) -> None:
        # pool_pre_ping: a connection that died while nobody used it is replaced before a request meets it.
        self._engine = create_async_engine(
            url, pool_size=POOL, max_overflow=0, pool_pre_ping=True, connect_args={"timeout": 2 * DEADLINE}
        )
        self._session = async_sessionmaker(self._engine)
        self._tasks: set[asyncio.Task[object]] = set()

    async def create_tables(self) -> None:
        """What a migration would do elsewhere."""
        async with self._engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)

    async def ping(self) -> None:
        """Ask Postgres for an answer.

        Raises:
            DatabaseAway: there is none.
        """

        async def work() -> None:
            async with self._engine.connect() as connection:
                await connection.execute(text("select 1"))

        await self._in_time(work)

    async def name_of(self, number: int) -> str | None:
        """A product's name; None when there is no such product.

        Raises:
            DatabaseAway: no answer before the deadline.
        """

        async def work() -> str | None:
            async with self._session() as session:
                product = await session.get(Product, number)
                return product.name if product is not None else None

        return await self._in_time(work)

    async def store(self, number: int, name: str) -> None:
        """Add a product or give it another name.

        Raises:
            DatabaseAway: no answer before the deadline; it may have been stored or not.
        """

        async def work() -> None:
            async with self._session.begin() as session:
                await session.merge(Product(number=number, name=name))

        await self._in_time(work)

    async def close(self) -> None:
        """End what is under way, and the pool."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2 * DEADLINE)
        await self._engine.dispose()

    async def _in_time(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Its result before the deadline.

        asyncio.timeout() would not do: on its way out a cancelled query waits for its connection's orderly end, seconds after
        the deadline. So the request leaves, and the query cleans up behind it, in a task of ours.
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
