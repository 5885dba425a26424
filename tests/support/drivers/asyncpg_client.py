"""Use Postgres by asyncpg: python asyncpg_client.py URL."""

import asyncio
import contextlib
import sys

import asyncpg


async def queries(connection: asyncpg.Connection) -> None:
    await connection.execute(
        "DROP TABLE IF EXISTS story_asyncpg; CREATE TABLE story_asyncpg (id int PRIMARY KEY, name text)"
    )
    for number in range(4):
        await connection.execute("INSERT INTO story_asyncpg VALUES ($1, $2)", number, f"name {number}")
    assert await connection.fetchval("SELECT name FROM story_asyncpg WHERE id = $1", 2) == "name 2"
    assert len(await connection.fetch("SELECT n, repeat('x', 40) FROM generate_series(1, 300) AS n")) == 300
    assert len(await connection.fetchval("SELECT repeat('x', 20000)")) == 20000
    await connection.executemany("INSERT INTO story_asyncpg VALUES ($1, $2)", [(n, None) for n in range(10, 20)])
    statement = await connection.prepare("UPDATE story_asyncpg SET name = $2 WHERE id = $1")
    await statement.fetch(3, "other")
    await statement.fetch(4, "none has it")
    await connection.execute("DO $$ BEGIN RAISE NOTICE 'a notice'; END $$")


async def transactions(connection: asyncpg.Connection) -> None:
    async with connection.transaction():
        await connection.execute("UPDATE story_asyncpg SET name = 'committed' WHERE id = $1", 1)
        async for _ in connection.cursor("SELECT n FROM generate_series(1, 120) AS n", prefetch=50):
            pass
    with contextlib.suppress(asyncpg.UniqueViolationError):
        async with connection.transaction():
            await connection.execute("INSERT INTO story_asyncpg VALUES ($1, $2)", 1, "twice")
    transaction = connection.transaction()
    await transaction.start()
    with contextlib.suppress(asyncpg.UniqueViolationError):
        async with connection.transaction():  # a savepoint
            await connection.execute("INSERT INTO story_asyncpg VALUES ($1, $2)", 2, "twice")
    with contextlib.suppress(asyncpg.DivisionByZeroError):
        await connection.fetchval("SELECT 1 / $1::int", 0)
    with contextlib.suppress(asyncpg.InFailedSQLTransactionError):
        await connection.fetchval("SELECT 1")
    await transaction.rollback()
    with contextlib.suppress(asyncpg.PostgresSyntaxError):
        await connection.fetch("SELEC 1")


async def others(connection: asyncpg.Connection) -> None:
    await connection.copy_records_to_table("story_asyncpg", records=[(n, "copied") for n in range(100, 160)])
    rows = 0

    async def count(data: bytes) -> None:
        nonlocal rows
        rows += len(data)

    await connection.copy_from_query("SELECT * FROM story_asyncpg", output=count)
    with contextlib.suppress(asyncpg.PostgresError):
        await connection.copy_records_to_table("story_asyncpg", records=[(1, "twice")])
    heard = asyncio.Event()
    await connection.add_listener("story", lambda *_: heard.set())
    await connection.execute("NOTIFY story, 'payload'")
    await asyncio.wait_for(heard.wait(), 10)
    with contextlib.suppress(asyncio.TimeoutError):
        await connection.execute("SELECT pg_sleep(10)", timeout=0.2)
    await connection.execute("SELECT 1")
    await connection.reset()


async def main(url: str) -> None:
    connection = await asyncpg.connect(url)
    await queries(connection)
    await transactions(connection)
    await others(connection)
    await connection.close()
    async with asyncpg.create_pool(url, min_size=2, max_size=2) as pool:
        await asyncio.gather(*(pool.fetchval("SELECT $1::int", number) for number in range(6)))
    connection = await asyncpg.connect(url, statement_cache_size=0)
    await connection.fetchval("SELECT $1::int", 1)
    connection.terminate()
    with contextlib.suppress(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(url, database="missing")


asyncio.run(main(sys.argv[1]))
