"""Create the tables: python -m orders.migrate, with DATABASE_URL. A second run changes nothing."""

import asyncio
import os

import asyncpg

TABLES = """
CREATE TABLE IF NOT EXISTS orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    item text NOT NULL,
    shipped_by int
);
CREATE TABLE IF NOT EXISTS parcels (order_id bigint NOT NULL REFERENCES orders);
"""


async def migrate() -> None:
    """Create the tables that do not exist yet."""
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    await connection.execute(TABLES)
    await connection.close()


if __name__ == "__main__":
    asyncio.run(migrate())
