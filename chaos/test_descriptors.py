"""A process without file descriptors answers what needs none, and everything else is a 503. Afterwards all works as before."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import healthy
from instances import NO_POOL_CHECKS, Instance, another_instance
from pytest_resilience import Resilience
from unexpected import find_unexpected_lines
from verbs import uncached_campaigns
from workload import MESSAGE, NAME, TimedReply, assert_unavailable, eventually_or_fail, timed

JSON = {"Content-Type": "application/json"}
CSV = {"Content-Type": "text/csv"}
CADENCE = {"every_seconds": 3600, "repeat": 1}
NONE_LEFT = "no file descriptor is left"
SHORT = "The service is short of file descriptors."  # in the response to a request that failed for lack of them
ENOUGH = "resolved: there are file descriptors again"
UPGRADE = (
    b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
# The loop that imports the library of the metrics waits for the strike. If it fails, it is restarted at once, not after seconds.
IMPORT_AFTER_STRIKE = """
import importlib, logging, resource, time
from service import app, metrics, shortages

limit = resource.getrlimit(resource.RLIMIT_NOFILE)

class Importer:
    struck = False

    def import_module(self, name):
        while not self.struck:
            time.sleep(0.005)
            self.struck = resource.getrlimit(resource.RLIMIT_NOFILE) != limit
        importlib.import_module(name)
        logging.getLogger("service").info("imported")

metrics.importlib = Importer()
app.RESTART_DELAY = metrics.IMPORT_AFTER = 0.05
shortages.CALM = 0.5  # seconds without a failure, after which an episode is over
"""


@dataclass(frozen=True)
class Request:
    """A request, with the response that it gets from a healthy service.

    Attributes:
        method: the method.
        path: the target, in which `{id}` stands for a campaign.
        status: of the response.
        content: further arguments of httpx.
        needs_file: True if the response may need a file or a connection, so that it is a 503 without descriptors.
    """

    method: str
    path: str
    status: int
    content: dict[str, Any] = field(default_factory=dict)
    needs_file: bool = True

    def send(self, instance: Instance, campaign: int) -> TimedReply:
        path = self.path.format(id=campaign)
        return timed(lambda: instance.client.request(self.method, path, **self.content))

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


in_memory = partial(Request, needs_file=False)
REQUESTS = (
    in_memory("PUT", "/api/campaigns/{id}", 400, {"content": b"{", "headers": JSON}),
    in_memory("POST", "/api/campaigns", 422, {"content": b"\xef\xbb\xbf{}", "headers": JSON}),
    in_memory("POST", "/api/campaigns", 415, {"content": b"<a/>", "headers": {"Content-Type": "text/xml"}}),
    in_memory("POST", "/api/contacts/import", 422, {"content": "a,b\n", "headers": CSV}),
    in_memory("PATCH", "/api/campaigns", 405),
    in_memory("OPTIONS", "/api/campaigns/{id}", 204),
    in_memory("GET", "/api/unknown", 404),
    in_memory("GET", "/health", 200),
    in_memory("GET", "/livez", 200),
    in_memory("HEAD", "/readyz", 200),
    in_memory("GET", "/readyz", 200),
    Request("POST", "/api/campaigns", 201, {"json": {"name": NAME, "message": MESSAGE}}),
    Request("GET", "/api/campaigns", 200),
    Request("PUT", "/api/campaigns/{id}", 200, {"json": {"message": "changed"}}),
    Request("GET", "/api/campaigns/{id}", 200),
    Request("HEAD", "/api/campaigns/{id}", 200),
    Request("PUT", "/api/campaigns/{id}/cadence", 200, {"json": CADENCE}),
    Request("GET", "/api/campaigns/{id}/cadence", 200),
    Request("DELETE", "/api/campaigns/{id}/cadence", 204),
    Request(
        "POST", "/api/contacts/import", 200, {"content": "name,email,phone\nGrace,g@example.org,1", "headers": CSV}
    ),
    Request("POST", "/api/campaigns/{id}/send", 202),
    Request("GET", "/api/jobs/campaign-{id}-7", 404),
    Request("POST", "/api/jobs/campaign-{id}-7/retry", 404),
    Request("GET", "/metrics", 200),
    Request("GET", "/openapi.json", 200),
    Request("GET", "/api/db-cleanup", 200),
    Request("POST", "/api/db-cleanup?verbose", 200),
    Request("GET", "/socket.io/?EIO=4&transport=polling", 200),
    Request("DELETE", "/api/campaigns/{id}", 204),
)


@contextmanager
def fresh_instance(resilience: Resilience, *, first: str = "") -> Iterator[Instance]:
    """Run an instance that has served nothing but /readyz, and assert that its log has no unhandled error."""
    settings = {"CLEANUP_MIN_INTERVAL": "0", "DB_POOL_CHECK_INTERVAL": NO_POOL_CHECKS}
    with another_instance(resilience, first=first, **settings) as instance:
        yield instance
        find_unexpected_lines(instance.log)


def assert_answered_or_unavailable(request: Request, reply: TimedReply, *, when: str) -> None:
    """Assert that a request got its response, or a 503 with Retry-After if it may need a file."""
    if request.needs_file and reply.status == 503:
        assert_unavailable([reply])
    else:
        expected = f"{request.status} or 503" if request.needs_file else f"{request.status}, for which it needs no file"
        assert reply.status == request.status, f"{when}: {request} gets {reply.status}, not {expected}: {reply.error!r}"


def wait_until_redis_answers(instance: Instance) -> None:
    """Wait until a job can be looked up. An instance without descriptors may have lost its connections to Redis."""
    eventually_or_fail(
        lambda: instance.client.get("/api/jobs/campaign-1-7").status_code == 404,
        within=healthy.REDIS_BACK_WITHIN,
        message="descriptors are free again, and Redis is not used",
    )


def assert_every_route_is_requested(instance: Instance) -> None:
    """Assert that REQUESTS has one for each route of the description of the API."""
    document = instance.client.get("/openapi.json").json()
    sent = {(request.method.lower(), request.path.partition("?")[0].format(id=1)) for request in REQUESTS}
    for template, methods in document["paths"].items():
        path = re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template)))
        for method in {"get", "put", "post", "delete"}.intersection(methods):
            is_sent = any(each == method and path.fullmatch(target) for each, target in sent)
            assert is_sent, f"{method.upper()} {template} is a route, and no request of REQUESTS is for it"


def test_without_descriptors_each_request_is_answered_or_503_and_later_all_are_answered(resilience: Resilience) -> None:
    """The first request of a route may import a library and open a connection, and later requests nothing."""
    with fresh_instance(resilience) as instance:
        process = resilience.process(instance.process.pid)
        short = 0
        for episode in (1, 2):
            during, after = uncached_campaigns(resilience, 2)
            for campaign in (during, after):  # a PUT that gets a 503 below must not make a 404 of the GET
                assert resilience.service.put(f"/api/campaigns/{campaign}/cadence", json=CADENCE).status_code == 200
            instance.wait_until_ready()  # and its connection stays open for the requests
            with process.exhaust_descriptors():
                for request in REQUESTS:
                    reply = request.send(instance, during)
                    assert_answered_or_unavailable(request, reply, when=f"without descriptors, episode {episode}")
                    short += reply.reply is not None and SHORT in reply.reply.text
            wait_until_redis_answers(instance)
            for request in REQUESTS:
                status = request.send(instance, after).status
                assert status == request.status, (
                    f"descriptors are free again, and {request} gets {status}, not {request.status}, in episode {episode}"
                )
        lines = instance.log.count(NONE_LEFT)
        # Redis may be the first to need a descriptor. Its connections are then closed, which leaves some to the requests.
        assert lines == 1 or (lines, short) == (0, 0), (
            f"{len(REQUESTS)} requests without descriptors cost {lines} lines of the log, not one"
        )
        assert_every_route_is_requested(instance)


@contextmanager
def connected(instance: Instance) -> Iterator[socket.socket]:
    """Open a connection for the duration of the block."""
    url = instance.client.base_url
    with closing(socket.create_connection((url.host, url.port or 80), timeout=5.0)) as client:
        yield client


def upgrade(client: socket.socket) -> bytes:
    """Request a websocket. Return the head of the response."""
    client.sendall(UPGRADE)
    response = b""
    while b"\r\n\r\n" not in response and (chunk := client.recv(4096)):
        response += chunk
    return response.partition(b"\r\n\r\n")[0]


def test_without_descriptors_a_websocket_is_503_and_later_it_is_accepted(resilience: Resilience) -> None:
    """Nothing that a websocket needs is imported before the first one."""
    with fresh_instance(resilience) as instance:
        process = resilience.process(instance.process.pid)
        with connected(instance) as first, connected(instance) as second:
            instance.wait_until_ready()  # so that both connections are accepted
            with process.exhaust_descriptors():
                head = upgrade(first).lower()
            assert head.startswith(b"http/1.1 503 "), f"without descriptors a websocket gets {head[:200]!r}, not a 503"
            assert b"\r\nretry-after: " in head, f"a 503 has no Retry-After header: {head!r}"
            head = upgrade(second)
            assert head.startswith(b"HTTP/1.1 101 "), (
                f"descriptors are free again, and a websocket gets {head[:200]!r}, not 101"
            )


def test_a_loop_without_descriptors_costs_one_line_of_the_log_and_runs_again(resilience: Resilience) -> None:
    with fresh_instance(resilience, first=IMPORT_AFTER_STRIKE) as instance:
        process = resilience.process(instance.process.pid)
        with process.exhaust_descriptors():
            eventually_or_fail(
                lambda: NONE_LEFT in instance.log,
                within=2.0,
                message="a loop cannot import its library, and no line of the log reports that",
            )
            status = instance.client.get("/openapi.json").status_code
            assert status == 503, (
                f"without descriptors nothing can be imported, and /openapi.json gets {status}, not 503"
            )

        eventually_or_fail(
            lambda: "imported" in instance.log,
            within=5.0,
            message="descriptors are free again, and the loop that failed does not run again",
        )
        lines = instance.log.count(NONE_LEFT)
        assert lines == 1, (
            f"a loop and a request fail for lack of descriptors, and cost {lines} lines of the log, not one"
        )
        eventually_or_fail(
            lambda: ENOUGH in instance.log,
            within=5.0,
            message="descriptors are free again, and no line of the log reports it",
        )
        with process.exhaust_descriptors(), connected(instance):
            eventually_or_fail(
                lambda: instance.log.count(NONE_LEFT) == 2,
                within=5.0,
                message="descriptors are used up a second time, and no line of the log reports that",
            )
        eventually_or_fail(
            lambda: instance.log.count(ENOUGH) == 2,
            within=5.0,
            message="descriptors are free again for the second time, and no line of the log reports it",
        )
