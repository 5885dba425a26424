"""Measure the campaign processor and the import of contacts, relative to bare statements of the same size.

    python benchmarks/deliveries.py [--contacts 50000] [--rounds 3]

An embedded Postgres behind its proxy has the tables. The gateway does nothing, so only Postgres and the service are measured. The variants
of one round run one after the other in one process. Compare ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from pytest_resilience.backends.embedded.backend import EmbeddedBackend  # noqa: E402  # the checkout may not be installed
from pytest_resilience.stack import Stack  # noqa: E402
from service.cache.cache import Cache  # noqa: E402
from service.http.contact_csv import CsvRecords  # noqa: E402
from service.http.contact_routes import BATCH_ROWS, PIECE_BYTES, ContactImport  # noqa: E402
from service.jobs.gateway import Batch  # noqa: E402
from service.jobs.job import CampaignProgress, Job  # noqa: E402
from service.jobs.processor import CampaignProcessor  # noqa: E402
from service.postgres.campaigns import CAMPAIGNS  # noqa: E402
from service.postgres.contacts import CONTACTS, Contacts  # noqa: E402
from service.postgres.deliveries import DELIVERIES  # noqa: E402
from service.postgres.pool import Database  # noqa: E402
from service.postgres.status import PostgresStatus  # noqa: E402
from service.settings import ServiceSettings  # noqa: E402

GOAL = 6.0  # times bare inserts, for one processor
BARE_INSERT = "INSERT INTO deliveries (campaign_id, step, contact_id) SELECT 1, $1, generate_series($2::int, $3::int)"


class Nothing:
    """A gateway that does nothing."""

    async def send(self, batch: Batch) -> None:
        """Do nothing."""


async def announce(_: CampaignProgress) -> None:
    """Announce nothing."""


class Bench:
    """The variants, each of which returns the seconds that it took."""

    def __init__(self, url: str, contacts: int) -> None:
        self._url = url
        self._contacts = contacts
        self._settings = ServiceSettings(database_url=url, db_pool_max=10)
        lines = (f"Ada,user{number}@example.com,+1 212 555 0100\n" for number in range(contacts))
        self._file = ("name,email,phone\n" + "".join(lines)).encode()

    async def variants(self) -> dict[str, float]:
        """Return the seconds of each variant."""
        connection = await asyncpg.connect(self._url)
        try:
            for table in (CAMPAIGNS, CONTACTS, DELIVERIES):
                await connection.execute(table.definition)
            await connection.execute("TRUNCATE campaigns, contacts, deliveries RESTART IDENTITY")
            await connection.execute("INSERT INTO campaigns (name, message) VALUES ('n', 'm')")
            copied = await _timed(lambda: self._copy(connection))
            await connection.execute("TRUNCATE contacts RESTART IDENTITY")
            return {
                "COPY of contacts": copied,
                "import of contacts": await _timed(self._import),
                "import of known contacts": await _timed(self._import),
                "bare inserts of deliveries": await _timed(lambda: self._insert(connection)),
                "one processor": await _timed(lambda: self._process(step=1, processors=1)),
                "two processors of one job": await _timed(lambda: self._process(step=2, processors=2)),
            }
        finally:
            await connection.close()

    async def _copy(self, connection: asyncpg.Connection) -> None:
        rows = [("Ada", f"user{number}@example.com", "+1 212 555 0100") for number in range(self._contacts)]
        await connection.copy_records_to_table("contacts", records=rows, columns=["name", "email", "phone"])

    async def _import(self) -> None:
        async with self._database() as database:
            records, contacts, result = CsvRecords(), Contacts(database), ContactImport()
            for begin in range(0, len(self._file), PIECE_BYTES):
                for record in records.feed(self._file[begin : begin + PIECE_BYTES]):
                    result.add(record)
                    if len(result.batch) >= BATCH_ROWS:
                        await result.write(contacts)
            await result.write(contacts)
            assert result.imported + result.updated == self._contacts, result

    async def _insert(self, connection: asyncpg.Connection) -> None:
        size = self._settings.send_batch
        for begin in range(1, self._contacts + 1, size):
            async with connection.transaction():
                await connection.execute(BARE_INSERT, 0, begin, min(begin + size - 1, self._contacts))

    async def _process(self, *, step: int, processors: int) -> None:
        async with self._database() as database, asyncio.TaskGroup() as tasks:
            cache = Cache(self._settings, source_is_up=lambda: True, tasks=tasks)

            async def record(sent: int, total: int) -> None:
                pass

            async def process() -> None:
                processor = CampaignProcessor(
                    self._settings,
                    database.for_workers,
                    cache,
                    Nothing(),
                    announce=announce,
                    is_stopping=lambda: False,
                    tasks=tasks,
                )
                await processor.process(Job(1, step), record)

            await asyncio.gather(*(process() for _ in range(processors)))
            rows = await database.read("SELECT count(*) AS n FROM deliveries WHERE step = $1", step)
            assert rows[0]["n"] == self._contacts, rows

    @asynccontextmanager
    async def _database(self) -> AsyncIterator[Database]:
        database = Database(self._settings, "bench", PostgresStatus())
        await database.start()
        try:
            yield database
        finally:
            await database.close()


async def _timed(work: Callable[[], Awaitable[None]]) -> float:
    begin = time.perf_counter()
    await work()
    return time.perf_counter() - begin


def main() -> int:
    """Return 1 if the processor misses its goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contacts", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    stack = Stack(EmbeddedBackend(), seed=1)
    try:
        bench = Bench(stack.postgres.url, arguments.contacts)
        rounds = [asyncio.run(bench.variants()) for _ in range(arguments.rounds)]
    finally:
        stack.close()
    middle = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    print(f"{arguments.contacts} contacts, median of {arguments.rounds} rounds, {os.cpu_count()} cores")
    for name, seconds in middle.items():
        reference = middle["COPY of contacts" if "contacts" in name else "bare inserts of deliveries"]
        print(f"{name:28}{seconds:8.2f} s{arguments.contacts / seconds:10.0f} rows/s{seconds / reference:8.2f} x bare")
    return int(middle["one processor"] > GOAL * middle["bare inserts of deliveries"])


if __name__ == "__main__":
    sys.exit(main())
