"""Silent, slow and malformed clients, the limit of connections, and the forms of a request target."""

import contextlib
import re
import socket
import time
from urllib.parse import urlsplit

import pytest

from pytest_resilience import eventually
from service.errors import SettingsError
from service.http.connections import connection_limit
from service.settings import ServiceSettings

TIMEOUT = 1.0  # HEADER_TIMEOUT and BODY_TIMEOUT
LATE = 2.5  # seconds of slack for a busy machine


@pytest.fixture(scope="session")
def resilience_service(service_spec):
    return service_spec(header_timeout=TIMEOUT, body_timeout=TIMEOUT, max_connections=20)


@pytest.fixture
def connect(service):
    """Return a function that opens a connection to the service."""
    parts = urlsplit(service.url)
    with contextlib.ExitStack() as sockets:
        yield lambda: sockets.enter_context(socket.create_connection((parts.hostname, parts.port), timeout=10))


def rest(client):
    """Return the bytes until the connection is closed, and the seconds until then."""
    begun, answer = time.monotonic(), b""
    with contextlib.suppress(ConnectionResetError):
        while more := client.recv(65536):
            answer += more
    return answer, time.monotonic() - begun


def first(client):
    """Read the first response and return its head."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += client.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])
    while len(body) < length:
        body += client.recv(65536)
    return head


def drip(client, line, seconds):
    """Send `line` every 50 ms until the connection is closed. Return the seconds until then."""
    begun = time.monotonic()
    client.settimeout(0.05)
    while time.monotonic() - begun < seconds:
        try:
            if client.recv(65536) == b"":
                break
        except TimeoutError:
            pass
        except ConnectionResetError:
            break  # closed while a byte was in transit
        with contextlib.suppress(OSError):
            client.sendall(line)
    return time.monotonic() - begun


def status(answer):
    return int(answer.split(b" ", 2)[1])


REQUEST = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_a_silent_client_is_disconnected(connect):
    answer, seconds = rest(connect())
    assert answer == b""
    assert TIMEOUT * 0.7 < seconds < TIMEOUT + LATE


def test_half_a_head_is_408(connect):
    client = connect()
    client.sendall(REQUEST[:-2])
    answer, seconds = rest(client)
    assert status(answer) == 408
    assert b"application/problem+json" in answer
    assert seconds < TIMEOUT + LATE


@pytest.mark.parametrize("before", [b"", REQUEST], ids=["first request", "kept alive"])
def test_the_head_timeout_counts_for_the_whole_head_and_not_for_each_byte(connect, before):
    client = connect()
    if before:
        client.sendall(before)
        assert status(first(client)) == 200
    client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ")
    assert drip(client, b"x", TIMEOUT + LATE + 1) < TIMEOUT + LATE


def test_an_idle_kept_alive_connection_is_closed(connect):
    client = connect()
    client.sendall(REQUEST)
    assert status(first(client)) == 200
    answer, seconds = rest(client)
    assert (answer, seconds < TIMEOUT + LATE) == (b"", True)


def test_a_slow_body_is_408(connect):
    client = connect()
    client.sendall(b"POST /api/campaigns HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n")
    answer, seconds = rest(client)
    assert status(answer) == 408
    assert seconds < TIMEOUT + LATE


def test_the_timeout_also_applies_to_a_body_that_no_route_reads(connect):
    """The client continues to send the body after the response, byte by byte."""
    client = connect()
    client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
    assert status(first(client)) == 200
    assert drip(client, b"x", TIMEOUT + LATE + 1) < TIMEOUT + LATE


def test_the_timeout_also_applies_to_a_response_that_the_client_does_not_read(connect, service):
    for _ in range(120):
        service.post("/api/campaigns", json={"name": "n", "message": "m" * 10_000})
    client = connect()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with contextlib.suppress(ConnectionError):
        for _ in range(20):  # more than the kernel buffers
            client.sendall(b"GET /api/campaigns?limit=200 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    port = client.getsockname()[1]

    def open_connections():
        return [c for c in service.process.net_connections() if c.raddr and c.raddr.port == port]

    eventually(open_connections, within=5)
    eventually(lambda: not open_connections(), within=TIMEOUT + LATE + 3)


def test_a_busy_connection_is_not_closed(resilience, service, connect):
    client = connect()
    with resilience.postgres.starve(lock="campaigns") as locked:
        client.sendall(b"GET /api/campaigns HTTP/1.1\r\nHost: localhost\r\n\r\n")
        eventually(lambda: locked.receipt.touched, within=5)
        begun = time.monotonic()
        eventually(lambda: time.monotonic() - begun > TIMEOUT * 1.3, within=5)
    assert status(first(client)) == 200


def test_the_oldest_idle_connection_is_closed_for_a_new_one(connect, service, log):
    clients = [connect() for _ in range(25)]
    fresh = connect()  # a kept-alive connection is idle, too, and may be closed first
    fresh.sendall(REQUEST)
    assert status(first(fresh)) == 200
    clients[0].settimeout(TIMEOUT * 0.9)
    assert clients[0].recv(1) == b"", "the oldest of 25 connections is still open, and the limit is 20"
    assert log().count("all 20 connections are in use") == 1
    for client in clients:
        client.close()
    eventually(lambda: "resolved: " in log(), within=5)
    assert log().count("resolved: ") == 1


def test_with_all_connections_busy_only_essential_routes_are_served(connect, service):
    def one_more():
        connect().sendall(b"POST /api/campaigns HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n")

    for _ in range(20):
        one_more()

    def busy():
        one_more()  # a connection whose head arrives late counts as idle and may be closed
        reply = service.get("/api/campaigns", headers={"Connection": "close"})
        return reply.status_code == 503 and reply

    reply = eventually(busy, within=TIMEOUT)
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert int(reply.headers["Retry-After"]) >= 1
    for path in ("/health", "/livez", "/readyz"):
        assert service.get(path, headers={"Connection": "close"}).status_code == 200
    eventually(lambda: service.get("/api/campaigns").status_code == 200, within=TIMEOUT + LATE)


@pytest.mark.parametrize(
    ("request_line", "headers", "expected"),
    [
        (b"GET http://localhost/health HTTP/1.1", b"Host: other", 200),
        (b"GET HTTP://LOCALHOST:8080/api/campaigns?limit=1 HTTP/1.1", b"Host: x", 200),
        (b"GET http://localhost?limit=1 HTTP/1.1", b"Host: x", 404),
        (b"GET http://user@localhost/health HTTP/1.1", b"Host: x", 400),
        (b"GET health HTTP/1.1", b"Host: x", 400),
        (b"OPTIONS * HTTP/1.1", b"Host: x", 204),
        (b"GET * HTTP/1.1", b"Host: x", 400),
        (b"CONNECT localhost:80 HTTP/1.1", b"Host: x", 400),
        (b"GET /health HTTP/1.0", b"X: y", 200),
        (b"GET /health HTTP/9.9", b"Host: x", 505),
        (b"GET /health HTTP/1.1", b"X: y", 400),
        (b"GET /health HTTP/1.1", b"Host: x\r\nHost: y", 400),
        (b"GET /health HTTP/1.1", b"Host: x\r\nContent-Length: 1\r\nContent-Length: 2", 400),
        (b"GET /health HTTP/1.1", b"Host: x\r\nX: " + b"x" * 70_000, 431),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1", b"Host: x", 431),
        (b"GET /health HTTP/1.1", b"Host: x\r\nTransfer-Encoding: gzip", 501),
        (b"nonsense", b"", 400),
    ],
)
def test_every_form_of_request_gets_the_right_status(connect, log, request_line, headers, expected):
    client = connect()
    client.sendall(request_line + b"\r\n" + headers + b"\r\nConnection: close\r\n\r\n")
    answer, _ = rest(client)
    assert status(answer) == expected, answer
    if expected >= 400:
        assert b"application/problem+json" in answer
        assert len(answer) < 1000
    assert "Traceback" not in log()


@pytest.mark.parametrize("path", [b"/api/campaigns", b"/health"], ids=["body expected", "body not expected"])
def test_a_malformed_body_causes_no_error_in_the_service(connect, service, log, path):
    client = connect()
    client.sendall(b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
    assert status(rest(client)[0]) in (400, 405)
    assert service.get("/health").status_code == 200
    assert "Traceback" not in log()


def test_the_connection_limit_leaves_descriptors_for_the_pool_and_redis(monkeypatch):
    import resource

    def limit_with(limit, **settings):
        monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
        return connection_limit(ServiceSettings(database_url="postgresql://h", **settings))

    assert 1024 - 400 < limit_with(1024) < 1024 - 100 - 40, "the pool has 100, Redis up to 44"
    assert limit_with(1024, db_pool_max=20) == limit_with(1024) + 80
    assert limit_with(resource.RLIM_INFINITY) == limit_with(1 << 20) == 10_000
    assert limit_with(64) == 16
    assert limit_with(1024, max_connections=5) == 5
    with pytest.raises(SettingsError, match="MAX_CONNECTIONS: expected at most "):
        limit_with(1024, max_connections=1000)


def test_without_descriptors_idle_connections_are_closed_and_one_line_reports_it(resilience, service, connect, log):
    silent = [connect() for _ in range(10)]
    with resilience.service.exhaust_descriptors():
        waiting = [connect() for _ in range(3)]
        for client in waiting:
            client.sendall(REQUEST)
        assert [status(first(client)) for client in waiting] == [200] * 3
    assert log().count("no file descriptor is left") == 1
    assert "Traceback" not in log()
    eventually(lambda: "resolved: there are file descriptors again" in log(), within=10)
    assert len(silent) == 10
