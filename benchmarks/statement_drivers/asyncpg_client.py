"""Play scenarios by asyncpg: python asyncpg_client.py URL."""

from __future__ import annotations

import contextlib
import sys

import asyncpg
from answers import INSERT, NEXT, READ, TIMEOUT, Answer, Attempts, serve_async

URL = sys.argv[1]
attempts = Attempts(lambda error: getattr(error, "sqlstate", None))


async def in_transaction(connection: asyncpg.Connection, *, commit: bool) -> Answer:
    transaction = connection.transaction()
    await transaction.start()
    raised = await attempts.wait(connection.execute, INSERT)
    if commit:
        raised = await attempts.wait(transaction.commit)
    after = await attempts.wait(connection.fetchval, NEXT)
    if not commit:
        with contextlib.suppress(Exception):
            await (transaction.rollback() if raised else transaction.commit())
    return {"raised": raised, "next": after}


async def on(connection: asyncpg.Connection, scenario: str) -> Answer:
    if scenario in {"transaction", "commit"}:
        return await in_transaction(connection, commit=scenario == "commit")
    statement = INSERT if scenario == "alone" else READ
    return {
        "raised": await attempts.wait(connection.fetch, statement),
        "next": await attempts.wait(connection.fetchval, NEXT),
    }


async def connect() -> None:
    connection = await asyncpg.connect(URL, timeout=TIMEOUT)
    await connection.close()


async def play(scenario: str) -> Answer:
    if scenario == "connect":
        return {"raised": await attempts.wait(connect), "checkout": await attempts.wait(connect)}
    pool = await asyncpg.create_pool(URL, min_size=1, max_size=1, timeout=TIMEOUT, command_timeout=TIMEOUT)
    connection = await pool.acquire()
    answer = await on(connection, scenario)
    with contextlib.suppress(Exception):
        await pool.release(connection)
    answer["checkout"] = await attempts.wait(pool.fetchval, NEXT)
    pool.terminate()
    return answer


serve_async("asyncpg", play)
