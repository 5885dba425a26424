"""Each bound is where it says: what just fits is taken, one more is not, and nothing is bounded that is not said to be."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

import healthy
from instances import NO_POOL_CHECKS, Instance, another_instance
from pytest_resilience import Resilience
from verbs import uncached_campaigns
from workload import (
    NAME,
    concurrently,
    create,
    eventually_or_fail,
    postgres_session,
    redis_commands,
    service_sessions,
    sql,
    timed,
)

MIB = 2**20
LONGEST = {"name": 200, "message": 10_000}  # characters
CHARACTERS = {"one byte": "x", "two bytes": "é", "four bytes": "😀"}  # in UTF-8
COUNTED = 400  # bytes that an entry of the cache counts for on top of its body
MANY = 150  # requests under way at once: more than connections, threads or slots of any kind
JSON = {"Content-Type": "application/json"}
REDIS_CONNECTIONS = 22  # that an instance makes at most


def in_pieces(content: bytes) -> Iterator[bytes]:
    """A body that does not say how long it is."""
    for begin in range(0, len(content), MIB // 8):
        yield content[begin : begin + MIB // 8]


SENT: dict[str, Callable[[bytes], bytes | Iterator[bytes]]] = {
    "announced": lambda content: content,
    "in pieces": in_pieces,
}


@pytest.mark.parametrize("how", SENT)
def test_a_body_of_1_mib_is_accepted_and_one_more_byte_is_refused(resilience: Resilience, how: str) -> None:
    fits = json.dumps({"name": NAME, "message": "m"}).encode().ljust(MIB)
    status = resilience.service.post("/api/campaigns", content=SENT[how](fits), headers=JSON).status_code
    assert status == 201, f"a body of just 1 MiB, {how}, is answered {status}"
    try:
        status = resilience.service.post("/api/campaigns", content=SENT[how](fits + b" "), headers=JSON).status_code
    except httpx.WriteError:
        return  # it had heard enough, and closed
    assert status == 413, f"a body of 1 MiB and a byte, {how}, is answered {status}"


@pytest.mark.parametrize("field", LONGEST)
def test_text_lengths_are_limited_in_characters_and_not_in_bytes(resilience: Resilience, field: str) -> None:
    path, longest = f"/api/campaigns/{create(resilience)['id']}", LONGEST[field]
    for kind, character in CHARACTERS.items():
        for verb, send in (("POST", resilience.service.post), ("PUT", resilience.service.put)):
            where = "/api/campaigns" if verb == "POST" else path
            body = {"name": NAME, "message": "m"} if verb == "POST" else {}
            reply = send(where, json={**body, field: character * longest})
            assert reply.status_code in (200, 201), (
                f"{verb}: a {field} of {longest} characters of {kind} is answered {reply.status_code}: {reply.text[:200]}"
            )
            assert reply.json()[field] == character * longest, f"{verb}: a {field} of {longest} characters was cut"
            for many in (longest + 1, 0):
                status = send(where, json={**body, field: character * many}).status_code
                assert status == 422, f"{verb}: a {field} of {many} characters of {kind} is answered {status}, not 422"


def test_page_limits_are_exact_and_the_pages_cover_every_campaign_once(resilience: Resilience) -> None:
    ids = sorted(uncached_campaigns(resilience, 402))

    def page(query: str) -> httpx.Response:
        return resilience.service.get(f"/api/campaigns?{query}")

    for limit in (1, 2, 200):
        items = page(f"limit={limit}").json()["items"]
        assert len(items) == limit, f"limit={limit}, and there are {len(items)} on the page, of {len(ids)}"
    usual = len(page("").json()["items"])
    assert usual == 50, f"a page has 50 where nothing is asked for, not {usual}"
    for limit in (0, 201):
        status = page(f"limit={limit}").status_code
        assert status == 422, f"limit={limit} is answered {status}: a page has 1 to 200"
    seen: list[int] = []
    after: int | None = 0
    while after is not None:
        told = page(f"limit=200&after={after}").json()
        seen += [item["id"] for item in told["items"]]
        after = told["next"]
        assert len(seen) <= 2 * len(ids), "the pages do not end"
    assert seen == ids, f"the pages together tell {len(seen)} campaigns, not each of {len(ids)} once and in order"
    exact = page(f"limit=200&after={ids[201]}").json()["next"]
    assert exact is None, f"the last page is full, and says that more comes after {exact}"


def held_in_memory(resilience: Resilience, instance: Instance, ids: list[int]) -> list[int]:
    """Read all of them, with Redis away; return those that are still answered when Postgres is away, too."""
    for i in ids:
        assert instance.client.get(f"/api/campaigns/{i}").status_code == 200, "a read fails while only Redis is away"
    with resilience.postgres.refuse():
        eventually_or_fail(
            lambda: instance.client.get("/readyz").status_code == 503,
            within=5.0,
            message="Postgres is away, and the service does not see it",
        )
        return [i for i in ids if instance.client.get(f"/api/campaigns/{i}").status_code == 200]


def test_the_memory_cache_holds_exactly_the_entries_and_bytes_that_are_configured(resilience: Resilience) -> None:
    """The newest that fit. An entry counts for its body and 400 bytes: what it really costs, or small ones would be free."""
    ids = uncached_campaigns(resilience, 40)
    size = len(resilience.service.get(f"/api/campaigns/{ids[0]}").content) + COUNTED
    entries, fit = 7, 25
    settings = {"DB_POOL_CHECK_INTERVAL": NO_POOL_CHECKS, "GC_INTERVAL": "3600"}
    megabytes = f"{(fit * size + size // 2) / MIB:.6f}"
    with (
        resilience.redis.refuse(),
        another_instance(resilience, CACHE_MAX_ENTRIES=str(entries), **settings) as few,
        another_instance(resilience, CACHE_MAX_MB=megabytes, **settings) as small,
    ):
        held = held_in_memory(resilience, few, ids)
        assert held == ids[-entries:], (
            f"CACHE_MAX_ENTRIES={entries}, and {len(held)} entries are held, not the newest {entries}"
        )
        held = held_in_memory(resilience, small, ids)
        assert len(held) in (fit - 1, fit), (  # numbers and times may be a character longer
            f"CACHE_MAX_MB={megabytes} has room for {fit} entries of {size} bytes, and {len(held)} are held"
        )


def test_the_pool_opens_exactly_db_pool_max_connections_and_one_monitor_beside_it(resilience: Resilience) -> None:
    most = 5
    create(resilience)
    before = service_sessions(resilience)
    with another_instance(resilience, DB_POOL_MAX=str(most), DB_POOL_CHECK_INTERVAL=NO_POOL_CHECKS) as instance:
        write = {"name": NAME, "message": "m"}

        def own(name: str) -> int:
            query = "select count(*) from pg_stat_activity where application_name like $1 and pid <> all($2)"
            count: int = sql(resilience, query, f"{name}:%", list(before))[0][0]
            return count

        watches = own("service-monitor") - 1  # the suite's own service has one
        assert watches <= 1, f"{watches} connections beside the pool, which are counted nowhere"
        with (
            postgres_session(resilience, "somebody else", "begin", "lock table campaigns in share mode"),
            ThreadPoolExecutor(1) as threads,
        ):
            asked = threads.submit(
                concurrently, [lambda: instance.client.post("/api/campaigns", json=write)] * 3 * most
            )
            counts: list[int] = []
            while not asked.done() and len(counts) < 200:
                counts.append(own("service"))
                if max(counts) >= most and sum(each >= most for each in counts) > 20:
                    break
        asked.result()
    assert max(counts) == most, (
        f"DB_POOL_MAX is {most}, {3 * most} requests are there, and {max(counts)} connections are made"
    )


def test_health_routes_answer_and_no_request_is_rejected_while_150_requests_wait(resilience: Resilience) -> None:
    """When everybody hangs, whoever watches must be answered all the same."""
    path = f"/api/campaigns/{create(resilience)['id']}"
    patient = {"DB_POOL_ACQUIRE_TIMEOUT": "60", "DB_COMMAND_TIMEOUT": "120"}
    with (
        another_instance(resilience, DB_POOL_CHECK_INTERVAL=NO_POOL_CHECKS, **patient) as instance,
        httpx.Client(
            base_url=instance.client.base_url,
            limits=httpx.Limits(max_connections=MANY),
            timeout=60.0,
            trust_env=False,
        ) as client,
        ThreadPoolExecutor(MANY) as threads,
    ):
        process = psutil.Process(instance.process.pid)
        with postgres_session(resilience, "somebody else", "begin", "lock table campaigns in share mode"):
            asked = [threads.submit(timed, lambda: client.put(path, json={"message": "m"})) for _ in range(MANY)]
            eventually_or_fail(
                lambda: (
                    any(each.done() for each in asked)  # a request that does not wait is judged below
                    or sum(each.status == psutil.CONN_ESTABLISHED for each in process.net_connections("tcp")) >= MANY
                ),
                within=30.0,
                message=f"{MANY} requests at once, and not all of them get a connection",
            )
            answers = [
                (which, timed(lambda which=which: instance.client.get(which)))
                for _ in range(5)
                for which in ("/health", "/livez", "/readyz")
            ]
            under_way = sum(not each.done() for each in asked)
        statuses = {each.result().status for each in asked}
    for which, answer in answers:
        assert answer.status == 200, f"{under_way} requests hang, and {which} is {answer.status}: {answer.error!r}"
    assert statuses == {200}, f"{MANY} requests had to wait for connections of the pool, and are answered {statuses}"


def test_connections_to_redis_stay_within_their_limit(resilience: Resilience) -> None:
    ids = uncached_campaigns(resilience, 3 * REDIS_CONNECTIONS)
    with redis_commands(resilience) as ask:
        before = ask("INFO", "clients")["connected_clients"]
        # No request spends this budget: Redis counts a connection that was given up until its end has arrived.
        with another_instance(resilience, REDIS_BUDGET="10") as instance:
            clients = []
            with resilience.redis.latency(seconds=0.05), ThreadPoolExecutor(1) as threads:
                asked = threads.submit(
                    concurrently, [lambda i=i: instance.client.get(f"/api/campaigns/{i}") for i in ids]
                )
                while not asked.done():
                    clients.append(ask("INFO", "clients")["connected_clients"] - before)
            statuses = {each.status for each in asked.result()}
    assert statuses == {200}, f"a slow Redis, and reads are answered {statuses}"
    assert clients, "no count of connections was read while requests ran"
    assert max(clients) <= REDIS_CONNECTIONS, f"{max(clients)} connections to Redis for {len(ids)} readers at once"


def test_redis_gets_exactly_the_time_of_redis_budget(resilience: Resilience) -> None:
    """Both ways: a Redis that takes less is used, and one that takes more is not waited for."""
    i = uncached_campaigns(resilience, 1)[0]
    path, slow = f"/api/campaigns/{i}", 0.6  # seconds; more than twice the default, and than a probe's
    with (
        another_instance(resilience, REDIS_BUDGET="3") as patient,
        another_instance(resilience, REDIS_BUDGET="0.3") as hasty,
    ):

        def source(instance: Instance) -> str:
            answer: str = instance.client.get(path).headers["X-Cache-Source"]
            return answer

        for instance in (patient, hasty):
            eventually_or_fail(
                lambda each=instance: source(each) == "redis", within=5.0, message="Redis is there, and is not used"
            )
        with resilience.redis.latency(seconds=slow):
            sources = [source(patient) for _ in range(4)]
            assert sources == ["redis"] * 4, f"Redis takes {slow} s, REDIS_BUDGET is 3, and {sources} serve"
            reads = [timed(lambda: hasty.client.get(path)) for _ in range(2)]
            assert [read.status for read in reads] == [200] * 2, f"Redis takes longer than its budget: {reads}"
            eventually_or_fail(
                lambda: source(hasty) != "redis",
                within=healthy.REDIS_BACK_WITHIN,
                message=f"Redis takes {slow} s, REDIS_BUDGET is 0.3, and requests wait for it",
            )
