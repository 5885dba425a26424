"""The metrics, through the real service."""

import re
import socket
import subprocess
import sys

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from pytest_resilience import eventually
from service.app import create_app
from service.metrics import METRICS, REQUEST_SECONDS, reread_after
from service.settings import ServiceSettings


def scrape(service):
    """Return {(name, labels): value} of all samples, labels as sorted "name=value"."""
    reply = service.get("/metrics")
    assert reply.status_code == 200, reply.text
    return {
        (sample.name, *sorted(f"{name}={value}" for name, value in sample.labels.items())): sample.value
        for family in text_string_to_metric_families(reply.text)
        for sample in family.samples
    }


def test_every_metric_of_the_table_is_there_with_its_help_and_kind(service):
    text = service.get("/metrics").text
    for metric in METRICS:
        assert f"# TYPE {metric.name} {metric.kind}\n" in text
        assert f"# HELP {metric.name} {metric.help}\n" in text
    assert f"# TYPE {REQUEST_SECONDS} histogram\n" in text
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_values_agree_with_each_other(service, campaign):
    service.get(f"/api/campaigns/{campaign['id']}")
    values = scrape(service)
    assert values["service_db_pool_max",] == 5
    assert 0 <= values["service_db_pool_in_use",] <= values["service_db_pool_size",] <= 5
    assert values["service_redis_up",] == 1
    assert values["service_redis_breaker_open",] == 0
    assert values["service_cache_source", "source=redis"] == 1
    assert sum(value for name, value in values.items() if name[0] == "service_cache_source") == 1
    assert sum(value for name, value in values.items() if name[0] == "service_db_state") == 1
    assert values["service_db_state", "state=up"] == 1
    assert values["service_memory_bytes", "kind=rss"] > values["service_memory_bytes", "kind=heap"] > 1 << 20
    assert values["service_http_requests_in_progress",] == 1, "the scrape itself"
    assert values["service_db_pool_busy_seconds_total",] > 0


def test_requests_are_counted_by_template_and_status(service, campaign):
    before = scrape(service)
    path = f"/api/campaigns/{campaign['id']}"
    service.get(path)
    service.get("/api/campaigns/0")
    service.get("/no/such/path")
    service.request("BREW", "/no/such/path")
    after = scrape(service)

    def grown(name, method, route, status, *more):
        key = (name, *sorted([f"method={method}", f"route={route}", f"status={status}", *more]))
        return after[key] - before.get(key, 0)

    for name, more in (("service_http_requests_total", ()), (f"{REQUEST_SECONDS}_bucket", ("le=+Inf",))):
        assert grown(name, "GET", "/api/campaigns/{id}", "2xx", *more) == 1
        assert grown(name, "GET", "/api/campaigns/{id}", "4xx", *more) == 1
        assert grown(name, "GET", "unmatched", "4xx", *more) == 1
        assert grown(name, "other", "unmatched", "4xx", *more) == 1
        assert grown(name, "GET", "/metrics", "2xx", *more) == 1
    assert grown(f"{REQUEST_SECONDS}_sum", "GET", "/api/campaigns/{id}", "2xx") > 0


def test_requests_that_do_not_reach_the_application_are_counted(service):
    url = httpx.URL(service.url)

    def count():
        name = ("service_http_requests_total", "method=other", "route=unmatched", "status=4xx")
        return scrape(service).get(name, 0)

    before = count()
    for request in (b"no HTTP\r\n\r\n", b"BREW no-path HTTP/1.1\r\nHost: x\r\n\r\n"):
        with socket.create_connection((url.host, url.port), timeout=5) as client:
            client.sendall(request)
            assert client.recv(1024).startswith(b"HTTP/1.1 400 ")
    assert count() == before + 2


def test_reads_are_counted_by_the_layer_that_answered(service, campaign):
    path = f"/api/campaigns/{campaign['id']}"
    before = scrape(service)
    sources = [service.get(path).headers["X-Cache-Source"] for _ in range(3)]
    after = scrape(service)
    hits = ("service_cache_reads_total", "source=redis", "state=hit")
    assert after[hits] - before[hits] == sources.count("redis") > 0


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain; version=1.0.0", "text/plain; version=1.0.0; charset=utf-8; escaping=underscores"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("application/openmetrics-text; version=x", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/html, */*", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
def test_accept_chooses_the_format(service, accept, media_type):
    reply = service.get("/metrics", headers={"Accept": accept})
    assert reply.status_code == 200
    assert reply.headers["Content-Type"].startswith(media_type)
    assert reply.headers["Cache-Control"] == "no-store"
    if "openmetrics" in media_type:
        assert reply.text.endswith("# EOF\n")
        assert [*parse_openmetrics(reply.text)]


def test_labels_have_fixed_values(service, campaign):
    for path in (f"/api/campaigns/{campaign['id']}", "/secret-path", "/api/campaigns/99999", "/%00"):
        service.get(path)
    labels = {label for name in scrape(service) for label in name[1:] if not label.startswith("le=")}
    assert not [label for label in labels if re.search(r"secret|=\d{2,}|127\.0\.0\.1|localhost:", label)]
    routes = {label for label in labels if label.startswith("route=")}
    known = {route.path for route in create_app(ServiceSettings(database_url="postgresql://127.0.0.1:1/x")).routes}
    assert routes <= {f"route={path}" for path in (*known, "unmatched")}


def test_the_start_does_not_import_prometheus_client():
    command = "import sys, service.app; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command]).returncode == 0


def test_an_outage_of_redis_shows_and_ends(service, resilience):
    before = scrape(service)["service_redis_outages_total",]
    with resilience.redis.refuse():
        eventually(lambda: scrape(service)["service_redis_breaker_open",] == 1, within=3)
        values = scrape(service)
        assert values["service_redis_up",] == 0
        assert values["service_cache_source", "source=memory"] == 1
        assert values["service_cache_source", "source=redis"] == 0
    eventually(lambda: scrape(service)["service_redis_breaker_open",] == 0, within=3)
    assert scrape(service)["service_redis_outages_total",] == before + 1


WARM_UP = """
import asyncio, sys
from service import metrics
metrics.IMPORT_AFTER = 0.0
async def run():
    task = asyncio.ensure_future(metrics.Metrics(None).run())
    while "prometheus_client" not in sys.modules:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    sys.exit(0 if not task.done() else 1)
asyncio.run(run())
"""


def test_prometheus_client_is_imported_after_the_start_while_there_is_memory():
    assert subprocess.run([sys.executable, "-c", WARM_UP], timeout=20).returncode == 0


def test_memory_statistics_are_read_at_most_once_in_their_period():
    now = 10.0
    read = reread_after(1.0, clock=lambda: now)
    first = read()
    now = 10.9
    assert read() is first
    now = 11.0
    assert read() is not first
