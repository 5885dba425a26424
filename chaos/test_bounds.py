"""Every bound is exact. What just fits is accepted, one more is refused, and nothing else is bounded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import psutil
import pytest

import healthy
from instances import NO_POOL_CHECKS, NO_TLS, Instance, another_instance
from pytest_resilience import Resilience
from verbs import uncached_campaigns
from workload import (
    NAME,
    TimedReply,
    concurrently,
    create,
    eventually_or_fail,
    postgres_session,
    redis_commands,
    service_sessions,
    sql,
    timed,
    wait_until_unready,
)

MIB = 2**20
LONGEST = {"name": 200, "message": 10_000}  # characters
CHARACTERS = {"one byte": "x", "two bytes": "é", "four bytes": "😀"}  # by their length in UTF-8
OVERHEAD = 400  # bytes that a cache entry counts for in addition to its body
MANY = 150  # concurrent requests; more than any number of connections, threads or slots
JSON = {"Content-Type": "application/json"}
REDIS_CONNECTIONS = 22 + 4 + 1  # maximum of an instance: for the cache, for jobs, and for live updates
LOCKED = ("begin", "lock table campaigns in share mode")  # blocks writes, lets reads through


def chunks(content: bytes) -> Iterator[bytes]:
    """Yield a body in pieces, which httpx sends without Content-Length."""
    for begin in range(0, len(content), MIB // 8):
        yield content[begin : begin + MIB // 8]


ENCODINGS: dict[str, Callable[[bytes], bytes | Iterator[bytes]]] = {
    "with Content-Length": lambda content: content,
    "in chunks": chunks,
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_body_of_1_mib_is_accepted_and_one_more_byte_is_refused(resilience: Resilience, encoding: str) -> None:
    encode = ENCODINGS[encoding]
    body = json.dumps({"name": NAME, "message": "m"}).encode().ljust(MIB)
    status = resilience.service.post("/api/campaigns", content=encode(body), headers=JSON).status_code
    assert status == 201, f"a body of exactly 1 MiB, {encoding}, gets {status}, not 201"
    try:
        status = resilience.service.post("/api/campaigns", content=encode(body + b" "), headers=JSON).status_code
    except httpx.WriteError:
        return  # the service closed the connection before it had the whole body
    assert status == 413, f"a body of 1 MiB and a byte, {encoding}, gets {status}, not 413"


@pytest.mark.parametrize("field", LONGEST)
def test_text_lengths_are_limited_in_characters_and_not_in_bytes(resilience: Resilience, field: str) -> None:
    path, longest = f"/api/campaigns/{create(resilience)['id']}", LONGEST[field]
    requests: tuple[tuple[str, Callable[..., httpx.Response], str, dict[str, str]], ...] = (
        ("POST", resilience.service.post, "/api/campaigns", {"name": NAME, "message": "m"}),
        ("PUT", resilience.service.put, path, {}),
    )
    for kind, character in CHARACTERS.items():
        for verb, send, url, body in requests:
            reply = send(url, json={**body, field: character * longest})
            assert reply.status_code in (200, 201), (
                f"{verb}: a {field} of {longest} characters of {kind} gets {reply.status_code}: {reply.text[:200]}"
            )
            assert reply.json()[field] == character * longest, f"{verb}: a {field} of {longest} characters was cut"
            for length in (longest + 1, 0):
                status = send(url, json={**body, field: character * length}).status_code
                assert status == 422, f"{verb}: a {field} of {length} characters of {kind} gets {status}, not 422"


def test_page_limits_are_exact_and_the_pages_cover_every_campaign_once(resilience: Resilience) -> None:
    ids = sorted(uncached_campaigns(resilience, 402))

    def page(query: str) -> httpx.Response:
        return resilience.service.get(f"/api/campaigns?{query}")

    for limit in (1, 2, 200):
        items = page(f"limit={limit}").json()["items"]
        assert len(items) == limit, f"limit={limit}, and there are {len(items)} of {len(ids)} campaigns on the page"
    default = len(page("").json()["items"])
    assert default == 50, f"without a limit a page has {default} campaigns, not 50"
    for limit in (0, 201):
        status = page(f"limit={limit}").status_code
        assert status == 422, f"limit={limit} gets {status}, not 422: a page has 1 to 200 campaigns"
    listed: list[int] = []
    after: int | None = 0
    while after is not None:
        body = page(f"limit=200&after={after}").json()
        listed += [item["id"] for item in body["items"]]
        after = body["next"]
        assert len(listed) <= 2 * len(ids), "the pages do not end"
    assert listed == ids, f"the pages together list {len(listed)} campaigns, not each of {len(ids)} once and in order"
    following = page(f"limit=200&after={ids[201]}").json()["next"]
    assert following is None, f"the last page is full, and its next is {following}, not null"


def ids_in_memory(resilience: Resilience, instance: Instance, ids: list[int]) -> list[int]:
    """Read all campaigns while Redis is down, and return those that are still served when Postgres is down too."""
    for i in ids:
        assert instance.client.get(f"/api/campaigns/{i}").status_code == 200, "a read fails while only Redis is down"
    with resilience.postgres.refuse():
        wait_until_unready(instance.client, within=5.0)
        return [i for i in ids if instance.client.get(f"/api/campaigns/{i}").status_code == 200]


def test_the_memory_cache_holds_exactly_the_entries_and_bytes_that_are_configured(resilience: Resilience) -> None:
    """The newest entries that fit are kept. An entry counts for its body and 400 bytes, its true cost: small ones are not free."""
    ids = uncached_campaigns(resilience, 40)
    size = len(resilience.service.get(f"/api/campaigns/{ids[0]}").content) + OVERHEAD
    entries, fit = 7, 25
    settings = {"DB_POOL_CHECK_INTERVAL": NO_POOL_CHECKS, "GC_INTERVAL": "3600"}
    megabytes = f"{(fit * size + size // 2) / MIB:.6f}"
    with (
        resilience.redis.refuse(),
        another_instance(resilience, CACHE_MAX_ENTRIES=str(entries), **settings) as few,
        another_instance(resilience, CACHE_MAX_MB=megabytes, **settings) as small,
    ):
        held = ids_in_memory(resilience, few, ids)
        assert held == ids[-entries:], (
            f"CACHE_MAX_ENTRIES={entries}, and {len(held)} entries are held, not the newest {entries}"
        )
        held = ids_in_memory(resilience, small, ids)
        assert len(held) in (fit - 1, fit), (  # ids and times may be a character longer
            f"CACHE_MAX_MB={megabytes} has room for {fit} entries of {size} bytes, and {len(held)} are held"
        )


def test_the_pool_opens_exactly_db_pool_max_connections_and_one_monitor_beside_it(resilience: Resilience) -> None:
    most = 5
    create(resilience)
    before = service_sessions(resilience)
    with another_instance(resilience, DB_POOL_MAX=str(most), DB_POOL_CHECK_INTERVAL=NO_POOL_CHECKS) as instance:

        def sessions(name: str) -> int:
            query = "select count(*) from pg_stat_activity where application_name like $1 and pid <> all($2)"
            count: int = sql(resilience, query, f"{name}:%", list(before))[0][0]
            return count

        monitors = sessions("service-monitor") - 1  # the suite's own service has one
        assert monitors <= 1, f"{monitors} connections beside the pool, which no limit counts, and there should be one"
        with postgres_session(resilience, "another application", *LOCKED), ThreadPoolExecutor(1) as threads:
            post = [lambda: instance.client.post("/api/campaigns", json={"name": NAME, "message": "m"})]
            posting = threads.submit(concurrently, post * 3 * most)
            counts: list[int] = []
            while not posting.done() and len(counts) < 200:
                counts.append(sessions("service"))
                if max(counts) >= most and sum(each >= most for each in counts) > 20:
                    break
        posting.result()
    assert max(counts) == most, (
        f"DB_POOL_MAX is {most}, {3 * most} requests need a connection, and {max(counts)} connections are opened"
    )


def established_connections(process: psutil.Process) -> int:
    """Return how many TCP connections a process has."""
    return sum(each.status == psutil.CONN_ESTABLISHED for each in process.net_connections("tcp"))


def probe_health_routes(
    instance: Instance, waiting: list[Future[TimedReply]]
) -> tuple[list[tuple[str, TimedReply]], int]:
    """Request each health route five times once all requests wait. Return the replies and the number that still wait."""
    process = psutil.Process(instance.process.pid)
    eventually_or_fail(
        # A request that does not wait is judged by the test.
        lambda: any(each.done() for each in waiting) or established_connections(process) >= MANY,
        within=30.0,
        message=f"{MANY} concurrent requests, and not all of them get a connection",
    )
    replies = [
        (route, timed(lambda route=route: instance.client.get(route)))
        for _ in range(5)
        for route in ("/health", "/livez", "/readyz")
    ]
    return replies, sum(not each.done() for each in waiting)


def test_health_routes_answer_and_no_request_is_rejected_while_150_requests_wait(resilience: Resilience) -> None:
    """Monitoring must get its answer when all other requests hang."""
    path = f"/api/campaigns/{create(resilience)['id']}"
    long = {"DB_POOL_ACQUIRE_TIMEOUT": "60", "DB_COMMAND_TIMEOUT": "120"}
    with (
        another_instance(resilience, DB_POOL_CHECK_INTERVAL=NO_POOL_CHECKS, **long) as instance,
        httpx.Client(
            base_url=instance.client.base_url,
            limits=httpx.Limits(max_connections=MANY),
            timeout=60.0,
            trust_env=False,
            verify=NO_TLS,
        ) as client,
        ThreadPoolExecutor(MANY) as threads,
    ):
        with postgres_session(resilience, "another application", *LOCKED):
            waiting = [threads.submit(timed, lambda: client.put(path, json={"message": "m"})) for _ in range(MANY)]
            replies, still_waiting = probe_health_routes(instance, waiting)
        statuses = {each.result().status for each in waiting}
    for route, reply in replies:
        assert reply.status == 200, f"{still_waiting} requests hang, and {route} gets {reply.status}: {reply.error!r}"
    assert statuses == {200}, f"{MANY} requests had to wait for connections of the pool, and got {statuses}"


def test_connections_to_redis_stay_within_their_limit(resilience: Resilience) -> None:
    ids = uncached_campaigns(resilience, 3 * REDIS_CONNECTIONS)
    with redis_commands(resilience) as command:
        before = command("INFO", "clients")["connected_clients"]
        # No request spends this budget. Redis counts an abandoned connection until it receives the end of the connection.
        with another_instance(resilience, REDIS_BUDGET="10") as instance:
            clients = []
            with resilience.redis.latency(seconds=0.05), ThreadPoolExecutor(1) as threads:
                gets = [lambda i=i: instance.client.get(f"/api/campaigns/{i}") for i in ids]
                reads = threads.submit(concurrently, gets)
                while not reads.done():
                    clients.append(command("INFO", "clients")["connected_clients"] - before)
            statuses = {each.status for each in reads.result()}
    assert statuses == {200}, f"Redis is slow, and reads get {statuses}"
    assert clients, "the reads ended before the connections were counted"
    assert max(clients) <= REDIS_CONNECTIONS, f"{max(clients)} connections to Redis for {len(ids)} concurrent reads"


def test_redis_gets_exactly_the_time_of_redis_budget(resilience: Resilience) -> None:
    """A Redis that is faster than the budget is used, and a slower one is not waited for."""
    i = uncached_campaigns(resilience, 1)[0]
    path, slow = f"/api/campaigns/{i}", 0.6  # seconds; more than twice the default, and more than a probe's time-out
    with (
        another_instance(resilience, REDIS_BUDGET="3") as long,
        another_instance(resilience, REDIS_BUDGET="0.3") as short,
    ):

        def source(instance: Instance) -> str:
            name: str = instance.client.get(path).headers["X-Cache-Source"]
            return name

        for instance in (long, short):
            eventually_or_fail(
                lambda each=instance: source(each) == "redis", within=5.0, message="Redis is up, and is not used"
            )
        with resilience.redis.latency(seconds=slow):
            sources = [source(long) for _ in range(4)]
            assert sources == ["redis"] * 4, f"Redis takes {slow} s, REDIS_BUDGET is 3, and reads come from {sources}"
            reads = [timed(lambda: short.client.get(path)) for _ in range(2)]
            assert [read.status for read in reads] == [200] * 2, f"Redis takes longer than its budget: {reads}"
            eventually_or_fail(
                lambda: source(short) != "redis",
                within=healthy.REDIS_BACK_WITHIN,
                message=f"Redis takes {slow} s, REDIS_BUDGET is 0.3, and requests wait for it",
            )
