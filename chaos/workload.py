"""The clients: they do things to the service, many at once, and remember what came of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import httpx

from pytest_resilience import Resilience, eventually

NAME = "Autumn sale"
MESSAGE = "Twenty percent off until Sunday"


def create(resilience: Resilience, message: str = MESSAGE) -> dict[str, Any]:
    """A new campaign, as the service answered it."""
    reply = resilience.service.post("/api/campaigns", json={"name": NAME, "message": message})
    assert reply.status_code == 201, f"a campaign could not be created: {reply.status_code} {reply.text}"
    campaign: dict[str, Any] = reply.json()
    return campaign


@dataclass
class Timed:
    """One request: what was asked, what came (None: no answer), and how many seconds it took."""

    reply: httpx.Response | None
    seconds: float

    @property
    def status(self) -> int | None:
        return None if self.reply is None else self.reply.status_code


def timed(ask: Callable[[], httpx.Response]) -> Timed:
    """Ask once and take the time."""
    begin = time.monotonic()
    try:
        reply = ask()
    except httpx.HTTPError:
        reply = None
    return Timed(reply, time.monotonic() - begin)


def at_once(asks: Sequence[Callable[[], httpx.Response]]) -> list[Timed]:
    """Ask all of them at the same time."""
    with ThreadPoolExecutor(len(asks)) as threads:
        return list(threads.map(timed, asks))


@dataclass
class Writer:
    """Writes campaigns one after the other until told to stop; remembers which were acknowledged.

    Attributes:
        acknowledged: message by id of each campaign that was answered 201.
        refused: status codes of the answers that were errors, which must not have happened.
        unknown: how many got no answer at all: they may have happened or not.
    """

    resilience: Resilience
    name: str
    acknowledged: dict[int, str] = field(default_factory=dict)
    refused: list[int] = field(default_factory=list)
    unknown: int = 0

    def write(self, number: int) -> None:
        message = f"{self.name} wrote this as number {number}"
        outcome = timed(
            lambda: self.resilience.service.post("/api/campaigns", json={"name": self.name, "message": message})
        )
        if outcome.reply is None:
            self.unknown += 1
        elif outcome.reply.status_code == 201:
            self.acknowledged[outcome.reply.json()["id"]] = message
        else:
            self.refused.append(outcome.reply.status_code)


@dataclass
class Crew:
    """Writers at work."""

    writers: list[Writer]

    def until(self, count: Callable[[Writer], int], *, every_one: bool, grow_by: int, within: float) -> None:
        """Wait until a count has grown for every writer, or for any."""
        before = [count(writer) for writer in self.writers]
        enough = all if every_one else any

        def grown() -> bool:
            return enough(count(writer) >= n + grow_by for writer, n in zip(self.writers, before, strict=True))

        eventually(grown, within=within)


@contextmanager
def writing(resilience: Resilience, writers: int) -> Iterator[Crew]:
    """Keep so many writers busy for the duration of the block."""
    stop = threading.Event()
    crew = Crew([Writer(resilience, f"writer {number}") for number in range(writers)])

    def work(writer: Writer) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            writer.write(number)
            # A refused writer that asks again at once would only measure how fast the service can refuse.
            stop.wait(0.01)

    with ThreadPoolExecutor(writers) as threads:
        busy = [threads.submit(work, writer) for writer in crew.writers]
        try:
            yield crew
        finally:
            stop.set()
        for worker in busy:
            worker.result()


def sql(resilience: Resilience, query: str, *arguments: object) -> list[asyncpg.Record]:
    """Ask Postgres itself, around the proxy."""

    async def ask() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(resilience.postgres.direct_url)
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    return asyncio.run(ask())


@contextmanager
def session(resilience: Resilience, application_name: str, *statements: str) -> Iterator[int]:
    """A session of somebody else in Postgres, left as the statements leave it; gives its process id in the server."""
    with asyncio.Runner() as runner:
        settings = {"application_name": application_name}
        connection = runner.run(asyncpg.connect(resilience.postgres.direct_url, server_settings=settings))
        try:
            for statement in statements:
                runner.run(connection.execute(statement))
            yield connection.get_server_pid()
        finally:
            connection.terminate()


def sessions_of_the_service(resilience: Resilience) -> int:
    """How many connections the service holds, as Postgres counts them."""
    query = "select count(*) from pg_stat_activity where application_name like 'service:%'"
    count: int = sql(resilience, query)[0][0]
    return count
