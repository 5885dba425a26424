"""The clients: they do things to the service, many at once, and remember what came of it."""

from __future__ import annotations

import asyncio
import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import httpx
import pytest
from redis import Redis

import healthy
from pytest_resilience import NeverHappened, Resilience, Stack, eventually, recovers

REFUSALS_NOT_COUNTED = "the real Toxiproxy does not count the connections that it refuses"
NAME = "Autumn sale"
MESSAGE = "Twenty percent off until Sunday"


def create(resilience: Resilience, message: str = MESSAGE) -> dict[str, Any]:
    """A new campaign, as the service answered it."""
    reply = resilience.service.post("/api/campaigns", json={"name": NAME, "message": message})
    assert reply.status_code == 201, f"a campaign could not be created: {reply.status_code} {reply.text}"
    campaign: dict[str, Any] = reply.json()
    return campaign


@dataclass
class TimedReply:
    """One request: what came (None: no answer, and why), and how many seconds it took."""

    reply: httpx.Response | None
    seconds: float
    error: httpx.HTTPError | None = None

    @property
    def status(self) -> int | None:
        return None if self.reply is None else self.reply.status_code


def timed(ask: Callable[[], httpx.Response]) -> TimedReply:
    """Ask once and take the time."""
    begin = time.monotonic()
    try:
        return TimedReply(ask(), time.monotonic() - begin)
    except httpx.HTTPError as error:
        return TimedReply(None, time.monotonic() - begin, error)


def concurrently(asks: Sequence[Callable[[], httpx.Response]]) -> list[TimedReply]:
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
class Writers:
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
def writing(resilience: Resilience, writers: int) -> Iterator[Writers]:
    """Keep so many writers busy for the duration of the block."""
    stop = threading.Event()
    crew = Writers([Writer(resilience, f"writer {number}") for number in range(writers)])

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


def eventually_or_fail(question: Callable[[], Any], *, within: float, message: str) -> Any:
    """Like `eventually`, and a failure says first what it means. That requests hang is a cause of its own."""
    hung: list[httpx.TimeoutException] = []

    def asked() -> Any:
        try:
            return question()
        except httpx.TimeoutException as error:
            hung.append(error)
            raise

    try:
        return eventually(asked, within=within)
    except NeverHappened as never:
        if hung:
            pytest.fail(
                f"a request hangs ({hung[-1]!r}), so nothing else can be seen. Awaited in vain: {message}\n{never}"
            )
        pytest.fail(f"{message}\n{never}")


def skip_unless_embedded(stack: Stack, why: str) -> None:
    """Skip a test that needs more than the real Toxiproxy can do or tell, and say what."""
    if stack.backend != "embedded":
        pytest.skip(f"{stack.backend}: {why}")


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
def sql_connection(resilience: Resilience) -> Iterator[Callable[[str], Any]]:
    """Ask Postgres itself, around the proxy, over one connection that is there already: for answers without delay."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(resilience.postgres.direct_url))
        try:
            yield lambda query: runner.run(connection.fetchval(query))
        finally:
            connection.terminate()


@contextmanager
def postgres_session(resilience: Resilience, application_name: str, *statements: str) -> Iterator[int]:
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


def service_sessions(resilience: Resilience) -> set[int]:
    """The connections of the service's pool, as Postgres sees them: their process ids."""
    query = "select pid from pg_stat_activity where application_name like 'service:%'"
    return {row["pid"] for row in sql(resilience, query)}


def session_exists(resilience: Resilience, pid: int) -> bool:
    """Whether a session is still there."""
    return bool(sql(resilience, "select 1 from pg_stat_activity where pid = $1", pid))


def sessions_waiting_for_lock(resilience: Resilience) -> int:
    """How many sessions of the service wait for a lock."""
    query = "select count(*) from pg_stat_activity where application_name like 'service:%' and wait_event_type = 'Lock'"
    count: int = sql(resilience, query)[0][0]
    return count


def assert_unavailable(replies: Sequence[TimedReply]) -> None:
    """A dependency fault is told as one: 503, when to try again, and in the form of errors that programs read."""
    statuses = sorted({str(reply.status) for reply in replies})
    assert statuses == ["503"], f"a dependency fault is 503, never {statuses}: no 500, no hang (None), no 201 of a lie"
    for each in replies:
        assert each.reply is not None
        assert "Retry-After" in each.reply.headers, "a 503 says when to try again"
        wait = int(each.reply.headers["Retry-After"])
        assert 1 <= wait <= healthy.MAX_RETRY_AFTER, (
            f"a 503 sends its client away for {wait} s; the service is back sooner"
        )
        form = each.reply.headers["Content-Type"]
        assert form == "application/problem+json", f"errors are application/problem+json, and this one is {form}"


def assert_full_capacity(resilience: Resilience) -> None:
    """As good as before is not "it answers again": the whole pool must be usable at once, and not one connection more."""
    recovers(lambda: resilience.service.get("/readyz").status_code == 200, within=healthy.FULL_CAPACITY_WITHIN)
    new = [lambda: resilience.service.post("/api/campaigns", json={"name": NAME, "message": MESSAGE})]
    with resilience.postgres.starve(lock="campaigns") as starved, ThreadPoolExecutor(1) as thread:
        held = thread.submit(concurrently, new * healthy.POOL_MAX)
        try:
            eventually(lambda: starved.receipt.touched == healthy.POOL_MAX, within=healthy.ACQUIRE_TIMEOUT)
        except NeverHappened:
            in_use = starved.receipt.touched
            pytest.fail(f"only {in_use} of the pool's {healthy.POOL_MAX} connections can be used: the others are lost")
        finally:
            starved.heal()
            statuses = [each.status for each in held.result()]
    assert statuses == [201] * healthy.POOL_MAX, f"some of the pool's connections are of no use: {statuses}"


@contextmanager
def redis_commands(resilience: Resilience) -> Iterator[Callable[..., Any]]:
    """Ask Redis itself, around the proxy, over one connection that was there before the trouble began."""
    with Redis.from_url(resilience.redis.direct_url, single_connection_client=True, protocol=2) as client:
        client.ping()
        yield client.execute_command


def redis_key(ask: Callable[..., Any], campaign_id: int) -> bytes:
    """Return the name under which Redis holds a campaign, whatever the service puts in front of the number."""
    names: list[bytes] = [name for name in ask("KEYS", f"*{campaign_id}") if re.search(rb"\D%d$" % campaign_id, name)]
    assert len(names) == 1, f"Redis has {names} for campaign {campaign_id}, and should have one entry"
    return names[0]


@contextmanager
def reading(resilience: Resilience, path: str, threads: int = 1) -> Iterator[list[TimedReply]]:
    """Keep reading one path for the duration of the block; gives what came, as it comes."""
    stop = threading.Event()
    came: list[TimedReply] = []

    def read() -> None:
        while not stop.is_set():
            came.append(timed(lambda: resilience.service.get(path)))
            stop.wait(0.005)  # a reader without a pause would measure the client's speed

    with ThreadPoolExecutor(threads) as pool:
        readers = [pool.submit(read) for _ in range(threads)]
        try:
            yield came
        finally:
            stop.set()
        for each in readers:
            each.result()


def served_by(resilience: Resilience, path: str) -> str:
    """Which layer answers a read now."""
    reply = resilience.service.get(path)
    assert reply.status_code == 200, f"a read failed: {reply.status_code} {reply.text}"
    source: str = reply.headers["X-Cache-Source"]
    return source


FELL_BACK = "Redis connection failed, falling back to in-memory cache:"
CONNECTED = "Redis connected successfully"


def assert_one_log_line_per_change(resilience: Resilience, *, outages: int) -> None:
    """The log has a line for the start, and one for each outage and each recovery: a list of states, not of errors."""
    told = re.findall(f"{FELL_BACK}|{CONNECTED}", resilience.service.log)
    fell, rose = told.count(FELL_BACK), told.count(CONNECTED)
    # One more of both is a busy machine, on which Redis missed its time once; two lines of one kind in a row are never right.
    assert outages <= fell <= outages + 1, (
        f"{fell} lines in the log for {outages} outages: one line for each, not one for each error"
    )
    assert rose >= outages, f"one line at the start and one for each recovery, not {rose} after {outages} outages"
    in_turn = all(one != other for one, other in itertools.pairwise(told))
    assert in_turn, f"one line for each change of state, in turn, not {told}"
