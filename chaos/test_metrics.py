"""The metrics are true and wait for nothing. 99 % of their responses arrive within 50 ms during an outage, and none has a secret."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest

import healthy
from instances import NO_TLS, another_instance
from latency import control_server, sample, timing_problem
from pytest_resilience import Resilience, Strike
from workload import MESSAGE, NAME, create, eventually_or_fail, metrics, timed, wait_until_redis_is

FAULTS: dict[str, Callable[[Resilience], Strike]] = {
    "redis hangs": lambda r: r.redis.blackhole(),
    "postgres hangs": lambda r: r.postgres.blackhole(),
    "memory short": lambda r: r.service.memory_pressure(headroom_mb=8),
}
REQUESTS, SECONDS = 100, 0.5  # of a sample; /health has a larger one
# The Redis of the suite is at localhost:6379, for this process.
REDIS_AT_LOCALHOST = """
import asyncio

def connect(loop, factory, host=None, port=None, *, connect=asyncio.BaseEventLoop.create_connection, **options):
    host, port = {address} if (host, port) == ("localhost", 6379) else (host, port)
    return connect(loop, factory, host, port, **options)

asyncio.BaseEventLoop.create_connection = connect
"""
OPENMETRICS = "application/openmetrics-text"
ALERT = 'alert="database_pool_exhausted"'


def requests_of(values: dict[str, float], method: str, route: str, status: str) -> tuple[float, float, float]:
    """Return how many requests of one kind there were by the counter and by the histogram, and their seconds."""
    labels = f'method="{method}",route="{route}",status="{status}"'
    seconds = "service_http_request_duration_seconds"
    names = (f"service_http_requests_total{{{labels}}}", f"{seconds}_count{{{labels}}}", f"{seconds}_sum{{{labels}}}")
    counted, timed_count, total = (values.get(name, 0.0) for name in names)
    return counted, timed_count, total


@pytest.fixture(scope="module")
def control_url() -> Iterator[str]:
    """The URL of a server that no fault affects."""
    with control_server() as url:
        yield url


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_metrics_answer_within_50_ms_during_an_outage(
    resilience: Resilience, control_url: str, fault: Callable[[Resilience], Strike]
) -> None:
    path = f"/api/campaigns/{create(resilience)['id']}"
    metrics(resilience.service)
    with (
        httpx.Client(base_url=control_url, timeout=10.0, trust_env=False, verify=NO_TLS) as control,
        ThreadPoolExecutor(4) as threads,
    ):
        with fault(resilience):
            # These requests are affected by the fault and in flight while /metrics is sampled.
            requests = [
                *[threads.submit(timed, lambda: resilience.service.get(path)) for _ in range(2)],
                *[threads.submit(timed, lambda: resilience.service.put(path, json={"name": "n"})) for _ in range(2)],
            ]
            # A busy machine may delay one sample. A wait in the service delays each of them.
            for _ in range(3):
                replies, limit = sample(resilience, "/metrics", control, requests=REQUESTS, seconds=SECONDS)
                if not timing_problem(replies, limit):
                    break
        for each in requests:
            each.result()
    statuses = {reply.status for reply in replies}
    assert statuses == {200}, f"/metrics is 200 during an outage, not {statuses}"
    problem = timing_problem(replies, limit)
    assert not problem, f"/metrics waits: {problem}; the limit on this machine now is {limit * 1000:.0f} ms"


def test_an_outage_of_redis_shows_until_it_ends(resilience: Resilience) -> None:
    path = f"/api/campaigns/{create(resilience)['id']}"
    before = metrics(resilience.service)
    assert before["service_redis_breaker_open"] == 0, "Redis is up, and the metrics report an open circuit breaker"
    assert before['service_cache_source{source="redis"}'] == 1
    with resilience.redis.refuse():
        message = "Redis is down, and the metrics do not report that the circuit breaker is open"
        eventually_or_fail(
            lambda: metrics(resilience.service)["service_redis_breaker_open"] == 1, within=2.0, message=message
        )
        assert resilience.service.get(path).headers["X-Cache-Source"] == "memory"
        during = metrics(resilience.service)
        sources = {name for name, value in during.items() if name.startswith("service_cache_source{") and value == 1}
        assert sources == {'service_cache_source{source="memory"}'}, f"Redis is down, and reads use {sources}"
        hits = 'service_cache_reads_total{source="memory",state="hit"}'
        assert during[hits] == before[hits] + 1, (
            "one read was served from memory, and the metrics do not count it there"
        )
        assert during["service_redis_up"] == 0, "Redis is down, and the metrics report it as up"
        assert during["service_cache_entries"] >= 1, "memory serves a campaign, and the metrics report no entry"
        assert resilience.service.put(path, json={"message": "changed"}).status_code == 200
        pending = metrics(resilience.service)["service_cache_pending_writes"]
        assert pending == 1, f"Redis has missed one write, and the metrics report {pending:g}"
    message = "Redis is used again, and the metrics still report an open circuit breaker"
    within = healthy.REDIS_BACK_WITHIN + healthy.SLACK
    eventually_or_fail(
        lambda: metrics(resilience.service)["service_redis_breaker_open"] == 0, within=within, message=message
    )
    after = metrics(resilience.service)
    assert after['service_cache_source{source="redis"}'] == 1
    assert after["service_redis_up"] == 1, "Redis is used again, and the metrics report it as down"
    pending = after["service_cache_pending_writes"]
    assert pending == 0, f"Redis is used again, and the metrics report {pending:g} writes that it has missed"
    outages = after["service_redis_outages_total"] - before["service_redis_outages_total"]
    assert outages == 1, f"one outage of Redis is counted as {outages:g}"


def test_without_redis_url_the_redis_of_localhost_shows_until_it_is_down(resilience: Resilience) -> None:
    url = urlsplit(resilience.redis.url)
    first = REDIS_AT_LOCALHOST.format(address=(url.hostname, url.port))
    with another_instance(resilience, first=first, REDIS_URL="") as instance:

        def sources() -> set[str]:
            values = metrics(instance.client)
            return {name for name, value in values.items() if name.startswith("service_cache_source{") and value == 1}

        localhost, memory = ({f'service_cache_source{{source="{source}"}}'} for source in ("localhost", "memory"))
        wait_until_redis_is(instance.client, "up")
        assert sources() == localhost, f"the Redis at localhost is used, and the metrics report {sources()}"
        path = f"/api/campaigns/{create(resilience)['id']}"
        source = instance.client.get(path).headers["X-Cache-Source"]
        assert source == "redis", f"another instance has a campaign in this Redis, and it is read from {source}"
        with resilience.redis.refuse():
            wait_until_redis_is(instance.client, "down")
            assert sources() == memory, f"the Redis at localhost is down, and the metrics report {sources()}"
            assert instance.client.get(path).headers["X-Cache-Source"] == "memory"
        wait_until_redis_is(instance.client, "up")
        assert sources() == localhost, f"the Redis at localhost is used again, and the metrics report {sources()}"


def waits_for_pool(values: dict[str, float], requests: int) -> bool:
    """True if all connections of the pool are in use, and that many requests wait for one."""
    return values["service_db_pool_in_use"] == healthy.POOL_MAX and values["service_db_pool_waiting"] == requests


def test_a_starved_pool_shows_until_it_recovers(resilience: Resilience) -> None:
    create(resilience)
    before = metrics(resilience.service)
    kind = ("POST", "/api/campaigns", "5xx")
    count = healthy.POOL_MAX + 2

    def post() -> httpx.Response:
        return resilience.service.post("/api/campaigns", json={"name": NAME, "message": MESSAGE})

    with ThreadPoolExecutor(count) as threads, resilience.postgres.starve(lock="campaigns"):
        posts = [threads.submit(timed, post) for _ in range(count)]
        message = f"{count} requests wait, and the metrics do not report a full pool and {count - healthy.POOL_MAX} that wait for it"
        full = eventually_or_fail(
            lambda: waits_for_pool(values := metrics(resilience.service), count - healthy.POOL_MAX) and values,
            within=healthy.ACQUIRE_TIMEOUT,
            message=message,
        )
        assert full["service_db_pool_max"] == healthy.POOL_MAX
        assert full["service_db_pool_utilisation_ratio"] == 1.0
        in_progress = full["service_http_requests_in_progress"]
        assert in_progress == count + 1, f"{count + 1} requests are under way, and the metrics report {in_progress:g}"
        message = "the alert of the pool is raised, and the metrics do not report it"
        eventually_or_fail(
            lambda: metrics(resilience.service)[f"service_alert_active{{{ALERT}}}"] == 1,
            within=3 * healthy.POOL_CHECK_INTERVAL + healthy.SLACK,
            message=message,
        )
        replies = [each.result() for each in posts]
    refused = sum(reply.status == 503 for reply in replies)
    message = "all requests have their replies, and the metrics report connections in use"
    eventually_or_fail(
        lambda: metrics(resilience.service)["service_db_pool_in_use"] == 0, within=healthy.SLACK, message=message
    )
    message = "the alert of the pool is over, and the metrics report it as active"
    eventually_or_fail(
        lambda: metrics(resilience.service)[f"service_alert_active{{{ALERT}}}"] == 0,
        within=5 * healthy.POOL_CHECK_INTERVAL + healthy.SLACK,
        message=message,
    )
    after = metrics(resilience.service)
    in_progress = after["service_http_requests_in_progress"]
    assert in_progress == 1, f"one request is under way, and the metrics report {in_progress:g}"
    utilisation = after["service_db_pool_utilisation_ratio"]
    in_use = after["service_db_pool_in_use"]
    assert utilisation == in_use / healthy.POOL_MAX, (
        f"{in_use:g} connections are in use, and the metrics report a share of {utilisation:g}"
    )
    assert after["service_db_pool_waiting"] == 0, "no request waits for a connection, and the metrics report some"
    busy = after["service_db_pool_busy_seconds_total"] - before["service_db_pool_busy_seconds_total"]
    waited = sum(reply.seconds for reply in replies)
    assert 0.1 * waited < busy <= waited, (
        f"connections were in use for most of {waited:.2f} s, and the metrics report {busy:.2f} s"
    )
    raised = after[f"service_alerts_raised_total{{{ALERT}}}"] - before[f"service_alerts_raised_total{{{ALERT}}}"]
    assert raised == 1, f"one episode of the alert is counted as {raised:g}"
    old, new = requests_of(before, *kind), requests_of(after, *kind)
    counted, in_histogram, seconds = (b - a for a, b in zip(old, new, strict=True))
    assert counted == refused, f"{refused} requests got a 503, and the metrics count {counted:g}"
    assert in_histogram == refused, f"{refused} requests got a 503, and {in_histogram:g} of them are in the histogram"
    longest = sum(reply.seconds for reply in replies if reply.status == 503)
    assert 0 < seconds <= longest, (
        f"the clients waited {longest:.2f} s for a 503 in all, and the metrics report {seconds:.2f}"
    )


def test_an_outage_of_postgres_shows_until_it_ends(resilience: Resilience) -> None:
    create(resilience)

    def states() -> set[str]:
        values = metrics(resilience.service)
        return {name for name, value in values.items() if name.startswith("service_db_state{") and value == 1}

    up, down = ({f'service_db_state{{state="{state}"}}'} for state in ("up", "down"))
    assert states() == up, f"Postgres is up, and the metrics report {states()}"
    with resilience.postgres.refuse():
        message = "Postgres is down, and the metrics do not report that"
        eventually_or_fail(lambda: states() == down, within=healthy.UNREADY_WITHIN, message=message)
    message = "Postgres is back, and the metrics report it as down"
    eventually_or_fail(lambda: states() == up, within=healthy.POSTGRES_BACK_WITHIN, message=message)


def test_a_request_that_is_no_http_is_counted_without_a_time(resilience: Resilience) -> None:
    kind = ("other", "unmatched", "4xx")
    before = requests_of(metrics(resilience.service), *kind)
    parts = urlsplit(resilience.service.url)
    with socket.create_connection((parts.hostname, parts.port or 80), timeout=5.0) as client:
        client.sendall(b"no\x00 request\r\n\r\n")
        answer = client.recv(4096)
    assert answer.startswith(b"HTTP/1.1 400 "), f"a request that is no HTTP gets {answer[:100]!r}, not a 400"
    status = resilience.service.get("/health", headers={"X-Long": "x" * 200_000}).status_code
    assert status == 431, f"a head of 200 KB gets {status}, not 431"
    after = requests_of(metrics(resilience.service), *kind)
    grown = tuple(new - old for old, new in zip(before, after, strict=True))
    assert grown == (2, 2, 0), (
        f"two requests were no HTTP, and the metrics count {grown[0]:g} and {grown[1]:g} with {grown[2]:g} s"
    )


def test_labels_hold_no_secret_no_address_and_nothing_that_a_client_sends(resilience: Resilience) -> None:
    first = create(resilience)["id"]
    for path in (
        f"/api/campaigns/{first}",
        "/api/campaigns/424242",
        "/no/such/path-of-a-client",
        "/api/jobs/campaign-9-9",
    ):
        resilience.service.get(path)
    resilience.service.request("PROPFIND", "/health")
    text = resilience.service.get("/metrics").text
    for url in (resilience.postgres.url, resilience.redis.url):
        parts = urlsplit(url)
        for secret in (parts.netloc, f":{parts.port}", healthy.CLEANUP_TOKEN):
            assert secret not in text, f"the metrics reveal {secret!r}, a part of the settings"
    for sent in ("424242", "path-of-a-client", "campaign-9-9", "PROPFIND"):
        assert sent not in text, f"each client can add time series: {sent!r} is the value of a label"
    assert 'route="/api/campaigns/{id}"' in text
    assert 'route="unmatched"' in text
    reply = resilience.service.get("/metrics", headers={"Accept": OPENMETRICS})
    assert reply.headers["Content-Type"].startswith(OPENMETRICS), "Accept asks for OpenMetrics, and gets another format"
    assert reply.text.endswith("# EOF\n"), "the text in the format OpenMetrics has no end"
