"""Reads and writes during outages of Redis, with the real service, a real Redis and the proxy between them."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pytest_resilience import eventually
from service.cache.cache import Cache
from service.cache.memory_cache import Entry
from service.settings import ServiceSettings

from ..support import backends, sql

DOWN = "Redis connection failed, falling back to in-memory cache: "
UP = "service.redis Redis connected successfully"
SLACK = 1.0  # seconds for a busy machine
BACK = 2 + SLACK  # seconds from the heal until Redis is used again


def source(reply):
    return reply.status_code, reply.headers.get("X-Cache"), reply.headers.get("X-Cache-Source")


def path(campaign):
    return f"/api/campaigns/{campaign['id']}"


def test_a_write_is_read_from_redis(service, campaign):
    reply = service.get(path(campaign))
    assert source(reply) == (200, "hit", "redis")
    assert reply.json() == campaign


def test_a_miss_is_reported_and_fills_redis(resilience, service, campaign):
    redis_of(resilience).flushall()
    assert source(service.get(path(campaign))) == (200, "miss", "postgres")
    assert source(service.get(path(campaign))) == (200, "hit", "redis")


@pytest.mark.parametrize("fault", ["refuse", "reset", "blackhole", "pause"])
def test_requests_survive_each_outage_of_redis_and_use_it_again_afterwards(resilience, service, log, campaign, fault):
    for outage in (1, 2):
        strike = getattr(resilience.redis, fault)()
        started = time.monotonic()
        reply = service.get(path(campaign))
        assert source(reply) == (200, "hit", "memory")
        assert time.monotonic() - started < 1 + SLACK  # REDIS_BUDGET
        changed = service.put(path(campaign), json={"name": f"Outage {outage}"})
        assert changed.status_code == 200
        assert service.get(path(campaign)).json() == changed.json()
        created = service.post("/api/campaigns", json={"name": "New", "message": "m"})
        assert created.status_code == 201
        assert source(service.get(path(created.json()))) == (200, "hit", "memory")
        strike.heal()
        eventually(lambda outage=outage: log().count(UP) == outage, within=BACK)
        for row in (changed.json(), created.json()):
            reply = service.get(path(row))
            assert (source(reply), reply.json()) == ((200, "hit", "redis"), row)
        assert log().count(DOWN) == outage


def test_changes_during_an_outage_reach_redis_before_it_is_read_again(resilience, service, log):
    rows = [service.post("/api/campaigns", json={"name": "old", "message": "m"}).json() for _ in range(20)]
    with resilience.redis.refuse():
        assert source(service.get(path(rows[0]))) == (200, "hit", "memory")
        for row in rows[:10]:
            assert service.put(path(row), json={"name": "new"}).status_code == 200
        for row in rows[10:]:
            assert service.delete(path(row)).status_code == 204
    names = []

    def back():
        names.extend(service.get(path(row)).json().get("name") for row in rows)
        return UP in log()

    eventually(back, within=BACK)
    back()
    assert set(names) == {"new", None}


def test_a_deleted_campaign_does_not_come_back(resilience, service, log, campaign):
    with resilience.redis.blackhole():
        assert service.delete(path(campaign)).status_code == 204
        assert service.get(path(campaign)).status_code == 404
    eventually(lambda: UP in log(), within=BACK)
    assert service.get(path(campaign)).status_code == 404


def test_an_older_version_does_not_replace_a_newer_one_in_redis(resilience, service, log, campaign):
    direct = redis_of(resilience)
    key = f"service:campaign:{campaign['id']}"
    created = direct.get(key).split()[0].decode()
    newer = b'{"id":%d,"name":"from elsewhere"}' % campaign["id"]
    with resilience.redis.refuse():
        assert service.put(path(campaign), json={"name": "ours"}).json()["version"] == 2
        direct.set(key, f"{created} 7 ".encode() + newer, px=100_000)
    eventually(lambda: UP in log(), within=BACK)
    assert service.get(path(campaign)).content == newer


def test_a_flapping_redis_causes_few_recoveries_and_no_lost_write(resilience, service, log, campaign):
    with ThreadPoolExecutor(1) as pool:
        stop = time.monotonic() + 1.6
        names = []

        def work():
            while time.monotonic() < stop:
                name = f"n{len(names)}"
                assert service.put(path(campaign), json={"name": name}).status_code == 200
                names.append(name)
                assert service.get(path(campaign)).json()["name"] == name

        working = pool.submit(work)
        while time.monotonic() < stop:
            strike = resilience.redis.refuse()
            time.sleep(0.2)
            strike.heal()
            time.sleep(0.2)
        working.result()
    assert log().count(UP) <= 2
    eventually(lambda: source(service.get(path(campaign))) == (200, "hit", "redis"), within=BACK)
    assert service.get(path(campaign)).json()["name"] == names[-1]


def test_concurrent_misses_of_one_campaign_cost_one_load(resilience, service, campaign):
    redis_of(resilience).flushall()
    sql(resilience, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'service:%'")
    with resilience.postgres.latency(0.1), ThreadPoolExecutor(10) as pool:
        replies = list(pool.map(lambda _: service.get(path(campaign)), range(10)))
    assert {r.status_code for r in replies} == {200}
    assert backends(resilience) == 1


def test_a_load_that_began_before_a_write_is_neither_cached_nor_shared():
    settings = ServiceSettings(database_url="postgresql://nowhere", cache_max_entries=1)
    old, new, other = (Entry((1, version), b"%d" % version) for version in (1, 2, 3))

    async def scene():
        async with asyncio.TaskGroup() as tasks:
            cache = Cache(settings, source_is_up=lambda: True, tasks=tasks)  # its prober never runs, so Redis is down
            loading = asyncio.Event()

            async def slow():
                await loading.wait()
                return old

            async def quick():
                return new

            early = tasks.create_task(cache.read(1, slow))
            await asyncio.sleep(0)
            await cache.after_write(1, new)
            await cache.after_write(2, other)  # memory has room for one entry, so 1 is evicted
            async with asyncio.timeout(1):
                late = await cache.read(1, quick)
            loading.set()
            await early
            return late, cache.memory.get(1)

    late, held = asyncio.run(scene())
    assert (late.entry, late.source) == (new, "postgres")
    assert held == new


def test_without_postgres_reads_are_served_from_copies(resilience, service, campaign):
    resilience.postgres.refuse()
    assert source(service.get(path(campaign))) == (200, "hit", "redis")
    redis_of(resilience).flushall()
    assert source(service.get(path(campaign))) == (200, "stale", "memory")
    reply = service.get("/api/campaigns/999999")
    assert reply.status_code == 503
    assert int(reply.headers["Retry-After"]) >= 1


def test_errors_are_not_cached(resilience, service, campaign):
    redis_of(resilience).flushall()
    with resilience.postgres.refuse():
        assert service.get("/api/campaigns/999999").status_code == 503
    eventually(lambda: service.get("/api/campaigns/999999").status_code == 404, within=BACK)


@pytest.mark.parametrize(
    ("command", "heal"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
        (("CONFIG", "SET", "requirepass", "secret-of-redis"), ("CONFIG", "SET", "requirepass", "")),
    ],
    ids=["full", "read only", "locked"],
)
def test_a_redis_that_refuses_writes_counts_as_down(resilience, service, log, campaign, command, heal):
    direct = redis_of(resilience)
    direct.execute_command(*command)
    try:
        if command[2] == "requirepass":
            direct.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        eventually(lambda: DOWN in log(), within=1.5 + SLACK)
        assert service.put(path(campaign), json={"name": "x"}).status_code == 200
        assert source(service.get(path(campaign))) == (200, "hit", "memory")
        assert service.get("/readyz").json()["checks"]["redis"] == "down"
    finally:
        direct.execute_command(*heal)
    eventually(lambda: source(service.get(path(campaign))) == (200, "hit", "redis"), within=BACK)
    assert service.get(path(campaign)).json()["name"] == "x"
    assert log().count(DOWN) == 1


def redis_of(resilience):
    import redis

    return redis.Redis.from_url(resilience.redis.direct_url, single_connection_client=False)
