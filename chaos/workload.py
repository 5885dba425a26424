"""Clients of the service for the chaos tests, and direct access to its Postgres and Redis."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import asyncpg
import httpx
import pytest
from redis import Redis

import healthy
from pytest_resilience import NeverHappened, Resilience, Stack, Strike, eventually, recovers

REFUSALS_NOT_COUNTED = "toxiproxy-server does not count the connections that it refuses"
NAME = "Autumn sale"
MESSAGE = "Twenty percent off until Sunday"
ATTEMPTS = 3  # to use the whole pool at once
POLL_INTERVAL = 0.04  # seconds between two calls of a question, most of which are a request


# Requests


def create(resilience: Resilience, message: str = MESSAGE) -> dict[str, Any]:
    """Create a campaign and return it as the service does."""
    reply = resilience.service.post("/api/campaigns", json={"name": NAME, "message": message})
    assert reply.status_code == 201, f"creating a campaign failed: {reply.status_code} {reply.text}"
    campaign: dict[str, Any] = reply.json()
    return campaign


@dataclass(repr=False)
class TimedReply:
    """The outcome of one request.

    Attributes:
        reply: the response, or None without one.
        seconds: until the response or the error.
        error: why there is no response.
    """

    reply: httpx.Response | None
    seconds: float
    error: httpx.HTTPError | None = None

    @property
    def status(self) -> int | None:
        """The status code, or None without a response."""
        return None if self.reply is None else self.reply.status_code

    def __repr__(self) -> str:
        return f"{self.status} after {self.seconds:.2f} s" + (f" ({self.error!r})" if self.error else "")


def timed(send: Callable[[], httpx.Response]) -> TimedReply:
    """Send one request and measure its time."""
    begin = time.monotonic()
    try:
        return TimedReply(send(), time.monotonic() - begin)
    except httpx.HTTPError as error:
        return TimedReply(None, time.monotonic() - begin, error)


def concurrently(sends: Sequence[Callable[[], httpx.Response]]) -> list[TimedReply]:
    """Send all requests at the same time and return their outcomes in the given order."""
    with ThreadPoolExecutor(len(sends)) as threads:
        return list(threads.map(timed, sends))


def served_by(resilience: Resilience, path: str) -> str:
    """Return the layer (redis, memory or postgres) that serves a read now."""
    reply = resilience.service.get(path)
    assert reply.status_code == 200, f"a read failed: {reply.status_code} {reply.text}"
    source: str = reply.headers["X-Cache-Source"]
    return source


def metrics(client: Any) -> dict[str, float]:
    """Return the value of each sample of /metrics, by its name and labels as in the text.

    Args:
        client: an `httpx.Client` of an instance, or `resilience.service`.
    """
    reply = client.get("/metrics")
    assert reply.status_code == 200, f"/metrics is {reply.status_code}: {reply.text}"
    lines = [line for line in reply.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def metric(client: Any, name: str) -> float:
    """Return one sample of /metrics. The name has its labels, if there are any."""
    values = metrics(client)
    assert name in values, f"there is no metric {name}"
    return values[name]


# Background load


@dataclass
class Writer:
    """A client that creates campaigns one after the other and records the outcomes.

    Attributes:
        acknowledged: message by id of each campaign whose creation got a 201.
        refused: status codes of error responses; these writes must not have happened.
        unknown: number of requests without a response; these writes may have happened or not.
    """

    resilience: Resilience
    name: str
    acknowledged: dict[int, str] = field(default_factory=dict)
    refused: list[int] = field(default_factory=list)
    unknown: int = 0

    @property
    def failed(self) -> int:
        """The number of writes that were not acknowledged."""
        return len(self.refused) + self.unknown

    def write(self, number: int) -> None:
        """Create one campaign."""
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


class Writers:
    """A group of writers that work concurrently."""

    def __init__(self, writers: Sequence[Writer]) -> None:
        self._writers = writers

    def __iter__(self) -> Iterator[Writer]:
        return iter(self._writers)

    @property
    def acknowledged(self) -> dict[int, str]:
        """Message by id of each acknowledged campaign of any writer."""
        return {i: message for writer in self for i, message in writer.acknowledged.items()}

    @property
    def refused(self) -> list[int]:
        """Status codes of all error responses."""
        return [status for writer in self for status in writer.refused]

    @property
    def failed(self) -> int:
        """The number of writes that were not acknowledged."""
        return sum(writer.failed for writer in self)

    def wait_for_acknowledgements(self, each: int, *, within: float) -> None:
        """Wait until every writer has `each` more acknowledged writes."""
        goals = [len(writer.acknowledged) + each for writer in self]
        eventually(
            lambda: all(len(writer.acknowledged) >= goal for writer, goal in zip(self, goals, strict=True)),
            within=within,
        )

    def wait_for_failure(self, *, within: float) -> None:
        """Wait until one more write of any writer has failed."""
        before = self.failed
        eventually(lambda: self.failed > before, within=within)


@contextmanager
def writing(resilience: Resilience, writers: int) -> Iterator[Writers]:
    """Keep a number of writers busy for the duration of the block."""
    stop = threading.Event()
    group = Writers([Writer(resilience, f"writer {number}") for number in range(writers)])

    def work(writer: Writer) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            writer.write(number)
            # Without a pause, a refused writer would only measure how fast the service can refuse.
            stop.wait(0.01)

    with ThreadPoolExecutor(writers) as threads:
        busy = [threads.submit(work, writer) for writer in group]
        try:
            yield group
        finally:
            stop.set()
        for each in busy:
            each.result()


@contextmanager
def reading(resilience: Resilience, path: str, threads: int = 1) -> Iterator[list[TimedReply]]:
    """Read one path repeatedly for the duration of the block, and yield the list that the outcomes are appended to."""
    stop = threading.Event()
    outcomes: list[TimedReply] = []

    def read() -> None:
        while not stop.is_set():
            outcomes.append(timed(lambda: resilience.service.get(path)))
            stop.wait(threads * 0.005)  # without a pause, a reader would measure the client's speed

    with ThreadPoolExecutor(threads) as pool:
        readers = [pool.submit(read) for _ in range(threads)]
        try:
            yield outcomes
        finally:
            stop.set()
        for each in readers:
            each.result()


# Waiting and asserting


def eventually_or_fail(question: Callable[[], Any], *, within: float, message: str) -> Any:
    """Like `eventually`, but fail with `message` first, which names the cause. Requests that hang are reported as such.

    Args:
        question: a callable without arguments.
        within: seconds.
        message: the meaning of the failure.
    """
    timeouts: list[httpx.TimeoutException] = []

    def answer() -> Any:
        try:
            return question()
        except httpx.TimeoutException as error:
            timeouts.append(error)
            raise

    try:
        return eventually(answer, within=within, every=POLL_INTERVAL)
    except NeverHappened as never:
        if timeouts:
            pytest.fail(
                f"a request hangs ({timeouts[-1]!r}), so nothing else can be seen. Expected in vain: {message}\n{never}"
            )
        pytest.fail(f"{message}\n{never}")


def wait_until_ready(client: Any, *, within: float = healthy.POSTGRES_BACK_WITHIN) -> None:
    """Wait until /readyz is 200 three times in a row.

    Args:
        client: an `httpx.Client` of an instance, or `resilience.service`.
        within: seconds.
    """
    recovers(lambda: client.get("/readyz").status_code == 200, within=within)


def wait_until_unready(client: Any, *, within: float = healthy.UNREADY_WITHIN) -> None:
    """Wait until /readyz is 503, which means that the service has noticed the fault.

    Args:
        client: an `httpx.Client` of an instance, or `resilience.service`.
        within: seconds.
    """
    eventually(lambda: client.get("/readyz").status_code == 503, within=within, every=POLL_INTERVAL)


def redis_state(client: Any) -> str:
    """Return the state of Redis (up or down) that /readyz reports."""
    state: str = client.get("/readyz").json()["checks"]["redis"]
    return state


def wait_until_redis_is(client: Any, state: str, *, within: float = healthy.REDIS_BACK_WITHIN) -> None:
    """Wait until /readyz reports a state of Redis.

    Args:
        client: an `httpx.Client` of an instance, or `resilience.service`.
        state: up or down.
        within: seconds.
    """
    eventually_or_fail(
        lambda: redis_state(client) == state,
        within=within,
        message=f"Redis is {state}, and after {within:g} s /readyz does not report that",
    )


def wait_until_redis_serves(resilience: Resilience, path: str) -> None:
    """Wait until a read is served by Redis, as promised after an outage."""
    within = healthy.REDIS_BACK_WITHIN
    eventually_or_fail(
        lambda: served_by(resilience, path) == "redis",
        within=within,
        message=f"Redis is back, and after {within:g} s the service still does not use it",
    )


def assert_unavailable(replies: Sequence[TimedReply]) -> None:
    """Assert that every outcome is a 503 with Retry-After, in the format of RFC 9457 that programs can read."""
    statuses = sorted({str(reply.status) for reply in replies})
    assert statuses == ["503"], f"a dependency fault is 503, never {statuses}: no 500, no hang (None), no false 201"
    for each in replies:
        assert each.reply is not None
        assert "Retry-After" in each.reply.headers, "a 503 has no Retry-After header"
        wait = int(each.reply.headers["Retry-After"])
        assert 1 <= wait <= healthy.MAX_RETRY_AFTER, (
            f"Retry-After is {wait} s, not 1 to {healthy.MAX_RETRY_AFTER}: the service is back sooner"
        )
        media_type = each.reply.headers["Content-Type"]
        assert media_type == "application/problem+json", f"an error is application/problem+json, not {media_type}"


def assert_full_capacity(resilience: Resilience) -> None:
    """Assert that the whole pool is usable at once, with no connection more. One success is no recovery."""
    wait_until_ready(resilience.service, within=healthy.FULL_CAPACITY_WITHIN)
    post = [lambda: resilience.service.post("/api/campaigns", json={"name": NAME, "message": MESSAGE})]
    in_use, replies = use_whole_pool(
        lambda: resilience.postgres.starve(lock="campaigns"),
        lambda: concurrently(post * healthy.POOL_MAX),
        size=healthy.POOL_MAX,
        within=healthy.ACQUIRE_TIMEOUT,
    )
    statuses = [each.status for each in replies]
    assert in_use == healthy.POOL_MAX, (
        f"only {in_use} of the pool's {healthy.POOL_MAX} connections can be used: the others are lost"
    )
    assert statuses == [201] * healthy.POOL_MAX, f"some connections of the pool do not work: {statuses}"


Replies = TypeVar("Replies")


def use_whole_pool(
    strike: Callable[[], Strike], send: Callable[[], Replies], *, size: int, within: float
) -> tuple[int | None, Replies]:
    """Make requests wait in Postgres, and return the connections in use at once, and the replies after the heal.

    On a busy machine the first requests of an attempt may give up before the last begins, so there are three. A connection that is
    lost is lost in each of them.

    Args:
        strike: strikes a fault that makes each statement wait, and that counts the connections.
        send: sends as many requests as the pool has connections.
        size: of the pool.
        within: seconds for which a request waits for a connection.
    """
    for _ in range(ATTEMPTS):
        with strike() as waiting, ThreadPoolExecutor(1) as thread:
            replies = thread.submit(send)
            with contextlib.suppress(NeverHappened):
                eventually(lambda strike=waiting: strike.receipt.touched == size, within=within)
            in_use = waiting.receipt.touched
            waiting.heal()
            received = replies.result()
        if in_use == size:
            break
    return in_use, received


FELL_BACK = "Redis connection failed, falling back to in-memory cache:"
CONNECTED = "Redis connected successfully(?! for)"  # that of the cache, and not "... for BullMQ"


def assert_one_log_line_per_change(resilience: Resilience, *, outages: int) -> None:
    """Assert that the log has one line for the start and for each outage and recovery, and none for single errors."""
    lines = re.findall(f"{FELL_BACK}|{CONNECTED}", resilience.service.log)
    fell_back = lines.count(FELL_BACK)
    connected = len(lines) - fell_back
    # On a busy machine Redis may miss its budget once more. Two lines of one kind in a row are always wrong.
    assert outages <= fell_back <= outages + 1, (
        f"{fell_back} lines in the log for {outages} outages: one line for each, not one for each error"
    )
    assert connected >= outages, (
        f"one line at the start and one for each recovery, not {connected}, for {outages} outages"
    )
    alternating = all(one != other for one, other in itertools.pairwise(lines))
    assert alternating, f"one line for each change of state, alternating, not {lines}"


def skip_unless_embedded(stack: Stack, reason: str) -> None:
    """Skip a test that needs more than toxiproxy-server can do or report.

    Args:
        stack: the session's stack.
        reason: the missing capability.
    """
    if stack.backend != "embedded":
        pytest.skip(f"{stack.backend}: {reason}")


# Direct access to Postgres, bypassing the proxy


def sql(resilience: Resilience, query: str, *arguments: object) -> list[asyncpg.Record]:
    """Run a query on a new direct connection and return its rows."""

    async def fetch() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(resilience.postgres.direct_url)
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    return asyncio.run(fetch())


@contextmanager
def sql_connection(resilience: Resilience) -> Iterator[Callable[..., Any]]:
    """Open a direct connection, and yield a function that runs a query with arguments on it and returns the first value.

    A query that is repeated until its answer is true needs it: a new connection for each time would cost more than the query.
    """
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(resilience.postgres.direct_url))
        try:
            yield lambda query, *arguments: runner.run(connection.fetchval(query, *arguments))
        finally:
            connection.terminate()


def wait_for_row(resilience: Resilience, query: str, *arguments: object, within: float, message: str) -> None:
    """Wait until the first value that a query returns is true, or fail with a message."""
    with sql_connection(resilience) as fetch_value:
        eventually_or_fail(lambda: fetch_value(query, *arguments), within=within, message=message)


@contextmanager
def postgres_session(resilience: Resilience, application_name: str, *statements: str) -> Iterator[int]:
    """Open a direct session under any application name and run statements, and yield its process id in the server.

    The session keeps the state that the statements leave, such as an open transaction, until the block ends.
    """
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
    """Return the process ids of the service's pool connections, as Postgres lists them."""
    query = "select pid from pg_stat_activity where application_name like 'service:%'"
    return {row["pid"] for row in sql(resilience, query)}


def session_exists(resilience: Resilience, pid: int) -> bool:
    """True if Postgres lists a session with this process id."""
    return bool(sql(resilience, "select 1 from pg_stat_activity where pid = $1", pid))


def wait_until_session_ends(resilience: Resilience, pid: int, *, within: float, message: str) -> None:
    """Wait until Postgres lists no session with this process id, or fail with a message."""
    ended = "select not exists (select from pg_stat_activity where pid = $1)"
    wait_for_row(resilience, ended, pid, within=within, message=message)


def sessions_waiting_for_lock(resilience: Resilience) -> int:
    """Return how many sessions of the service wait for a lock."""
    query = "select count(*) from pg_stat_activity where application_name like 'service:%' and wait_event_type = 'Lock'"
    count: int = sql(resilience, query)[0][0]
    return count


# Direct access to Redis, bypassing the proxy


@contextmanager
def redis_commands(resilience: Resilience) -> Iterator[Callable[..., Any]]:
    """Open a direct connection before a fault strikes, and yield a function that executes commands on it."""
    with Redis.from_url(resilience.redis.direct_url, single_connection_client=True, protocol=2) as client:
        client.ping()
        yield client.execute_command


def redis_key(command: Callable[..., Any], campaign_id: int) -> bytes:
    """Return the key under which Redis holds a campaign, whatever prefix the service uses."""
    keys: list[bytes] = [key for key in command("KEYS", f"*{campaign_id}") if re.search(rb"\D%d$" % campaign_id, key)]
    assert len(keys) == 1, f"Redis has the keys {keys} for campaign {campaign_id}, and should have one"
    return keys[0]
