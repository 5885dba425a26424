"""Postgres through SQLAlchemy: a pool with limits, and transactions that are repeated after a conflict."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

POOL = 4  # connections
ATTEMPTS = 3  # of a transaction

CONFLICTS = {"40001", "40P01", "23505"}  # serialization_failure, deadlock_detected, unique_violation

# With asyncpg, SQLAlchemy raises DBAPIError and not OperationalError for most errors of the server, such as 57P01 and 40001. It does not
# wrap the errors of connecting.
AWAY = (exc.DBAPIError, exc.TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)
MISTAKES = (exc.DataError, exc.IntegrityError, exc.ProgrammingError)  # a later attempt does not help

Result = TypeVar("Result")


class Database:
    """The pool.

    Args:
        url: postgresql+asyncpg://...
    """

    def __init__(self, url: str) -> None:
        self.engine = create_async_engine(
            url,
            isolation_level="SERIALIZABLE",
            pool_size=POOL,
            max_overflow=0,
            pool_timeout=1.0,  # seconds that a request waits for a connection, in place of 30
            pool_pre_ping=True,  # replaces a connection that died while it was idle
            connect_args={"timeout": 1.0, "command_timeout": 1.0},
        )
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)

    async def transaction(self, work: Callable[[AsyncSession], Awaitable[Result]]) -> Result:
        """Return the result of `work`, which is repeated if Postgres has rolled it back because of a conflict."""
        for attempt in range(ATTEMPTS):
            try:
                async with self._sessions.begin() as session:
                    return await work(session)
            except exc.DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in CONFLICTS or attempt + 1 == ATTEMPTS:
                    raise
        raise AssertionError
