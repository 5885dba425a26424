"""Play scenarios by an asyncio engine of SQLAlchemy on asyncpg: python sqlalchemy_client.py URL."""

from __future__ import annotations

import contextlib
import logging
import sys

from answers import TIMEOUT, Answer, Attempts, serve_async
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

URL = sys.argv[1].replace("postgresql://", "postgresql+asyncpg://")
INSERT, READ, NEXT = (
    text("INSERT INTO acts VALUES (1)"),
    text("SELECT n FROM generate_series(1, 5) AS n"),
    text("SELECT 1"),
)
attempts = Attempts(lambda error: getattr(getattr(error, "orig", error), "sqlstate", None))
logging.disable()


def engine() -> AsyncEngine:
    arguments = {"timeout": TIMEOUT, "command_timeout": TIMEOUT}
    return create_async_engine(URL, pool_size=1, max_overflow=0, pool_timeout=TIMEOUT, connect_args=arguments)


async def on(connection: AsyncConnection, scenario: str) -> Answer:
    if scenario in {"alone", "read"}:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
    raised = await attempts.wait(connection.execute, READ if scenario == "read" else INSERT)
    if scenario == "commit":
        raised = await attempts.wait(connection.commit)
    after = await attempts.wait(connection.execute, NEXT)
    if scenario == "transaction" and not raised:
        await connection.commit()
    return {"raised": raised, "next": after}


async def checkout(pool: AsyncEngine) -> None:
    async with pool.connect() as connection:
        await connection.execute(NEXT)


async def play(scenario: str) -> Answer:
    pool = engine()
    if scenario == "connect":
        answer: Answer = {"raised": await attempts.wait(checkout, pool)}
    else:
        connection = await pool.connect()
        answer = await on(connection, scenario)
        with contextlib.suppress(Exception):
            await connection.close()
    answer["checkout"] = await attempts.wait(checkout, pool)
    with contextlib.suppress(Exception):
        await pool.dispose()
    return answer


serve_async("sqlalchemy", play)
