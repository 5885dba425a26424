"""The edge of the process handles connections, callers, settings and the log strictly, and its errors are short."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import re
import select
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest

import healthy
from instances import Instance, another_instance, start_process
from pytest_resilience import NeverHappened, Resilience, eventually
from service.errors import SettingsError
from service.settings import ServiceSettings
from verbs import uncached_campaigns
from workload import (
    TimedReply,
    assert_unavailable,
    create,
    eventually_or_fail,
    timed,
    wait_until_ready,
    wait_until_unready,
)

NOTHING, NO_MORE = "nothing", "nothing after a request"  # clients that send no byte of a head
TIMEOUT = 0.5  # HEADER_TIMEOUT and BODY_TIMEOUT, in seconds; 10 in production
SILENT = 60  # clients that send nothing, or half a request
MOST = 20  # connections, where MAX_CONNECTIONS is set
MORE = 16  # connections for the essential routes while all others are busy
HALF = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Half: "
HANDSHAKE = "/socket.io/?EIO=4&transport=polling"
SLOW_BODY = b"POST /api/campaigns HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
FULL = f"all {MOST} connections are in use: the oldest idle ones are closed"
RESOLVED = "resolved: "
LIMIT_DESCRIPTORS = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({0}, {0})); "
ROUNDED = timedelta(milliseconds=1)  # the resolution of the times in the log
BEARER = {"Authorization": f"Bearer {healthy.CLEANUP_TOKEN}"}


def connect(instance: Instance) -> socket.socket:
    """Connect to an instance and send nothing."""
    return socket.create_connection((instance.client.base_url.host, instance.client.base_url.port or 0), timeout=10.0)


def receive_until_closed(client: socket.socket) -> bytes:
    """Return everything that the service sends until it closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while more := client.recv(65_536):
            received += more
    return received


class SlowClient:
    """A client that sends a part of a request, or all of one, and then nothing, or one byte at a time.

    Attributes:
        kind: what the client has sent, for messages.
        received: everything that the service has sent.
        closed: True once the service has closed the connection.
    """

    def __init__(self, kind: str, connection: socket.socket, sent: bytes, *, silent: bool = False) -> None:
        self.kind = kind
        self.received = b""
        self.closed = False
        self._connection = connection
        self._silent = silent or not sent
        connection.settimeout(0.05)
        connection.sendall(sent)

    def poll(self) -> None:
        """Receive for 50 ms. If nothing comes, send a byte. The time-out is for the whole request, not for each byte."""
        try:
            more = self._connection.recv(65_536)
            self.received += more
            self.closed = not more
            if self.kind == NOTHING and more:
                pytest.fail(f"a client that sends nothing receives {more!r}")
        except TimeoutError:
            if not self._silent:
                with contextlib.suppress(OSError):
                    self._connection.sendall(b"x")
        except ConnectionResetError:
            self.closed = True

    def statuses(self) -> list[bytes]:
        """Return the status codes of all responses."""
        return re.findall(rb"HTTP/1\.1 (\d+)", self.received)


def wait_until_a_client_that_does_not_read_is_gone(resilience: Resilience, instance: Instance) -> list[str]:
    """Request more than the kernel buffers and read nothing. Return a description of the client if it stays connected."""
    uncached_campaigns(resilience, 200, "x" * 10_000)
    process = psutil.Process(instance.process.pid)
    with connect(instance) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        port = client.getsockname()[1]

        def is_connected() -> bool:
            return any(each.raddr and each.raddr.port == port for each in process.net_connections("tcp"))

        with contextlib.suppress(ConnectionError):
            client.sendall(b"GET /api/campaigns?limit=200 HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20)
        with contextlib.suppress(NeverHappened):
            eventually(lambda: not is_connected(), within=TIMEOUT + 5.0)
            return []
    return ["responses that they do not read"]


def test_silent_and_half_sent_requests_are_closed_after_their_timeout(resilience: Resilience) -> None:
    sent = {
        NOTHING: b"",
        NO_MORE: HALF + b"\r\n\r\n",
        "half a head": HALF,
        "half a head after a request": HALF + b"\r\n\r\n" + HALF,
        "a slow body": SLOW_BODY,
    }
    with (
        another_instance(resilience, HEADER_TIMEOUT=str(TIMEOUT), BODY_TIMEOUT=str(TIMEOUT)) as instance,
        ExitStack() as connections,
    ):
        session = re.search(r'"sid":"([^"]+)"', instance.client.get(HANDSHAKE).text)
        assert session, "a client that polls gets no session"
        sent["a slow body of a poll"] = SLOW_BODY.replace(b"/api/campaigns", f"{HANDSHAKE}&sid={session[1]}".encode())
        begin = time.monotonic()
        clients = {
            kind: SlowClient(
                kind, connections.enter_context(connect(instance)), data, silent=kind in (NOTHING, NO_MORE)
            )
            for kind, data in sent.items()
        }
        # uvicorn closes idle connections after 5 s, whatever HEADER_TIMEOUT is.
        while not all(client.closed for client in clients.values()) and time.monotonic() - begin < TIMEOUT + 4.0:
            for client in clients.values():
                if not client.closed:
                    client.poll()
        held = wait_until_a_client_that_does_not_read_is_gone(resilience, instance)
    left = [client.kind for client in clients.values() if not client.closed] + held
    assert not left, (
        f"HEADER_TIMEOUT and BODY_TIMEOUT are {TIMEOUT} s, and clients stay connected with {', '.join(left)}"
    )
    for kind, count in (
        ("half a head", 1),
        ("half a head after a request", 2),
        ("a slow body", 1),
        ("a slow body of a poll", 1),
    ):
        statuses, expected = clients[kind].statuses(), [b"200", b"408"][-count:]
        assert statuses == expected, f"a client with {kind} gets {statuses}, not {expected}: it ends with a 408"


def is_open(client: socket.socket) -> bool:
    """True unless the service has closed a connection on which it has sent nothing."""
    client.setblocking(False)
    try:
        return client.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    finally:
        client.setblocking(True)


def test_at_max_connections_idle_clients_are_evicted_and_health_still_answers(resilience: Resilience) -> None:
    settings = {"MAX_CONNECTIONS": str(MOST), "HEADER_TIMEOUT": "30", "BODY_TIMEOUT": "30", "CLEANUP_MIN_INTERVAL": "0"}
    with (
        another_instance(resilience, **settings) as instance,
        ExitStack() as clients,
    ):
        silent: list[socket.socket] = []
        for number in range(SILENT):
            silent.append(clients.enter_context(connect(instance)))
            if number % 2:
                silent[-1].sendall(HALF)

        def get(path: str) -> TimedReply:
            """Use a connection for each request. A kept one is idle too, and may be evicted."""
            url = instance.client.base_url.copy_with(raw_path=path.encode())
            return timed(lambda: httpx.get(url, trust_env=False, timeout=10.0))

        statuses = [get(path).status for path in ["/health"] * 5 + ["/api/campaigns?limit=1"] * 5]
        assert statuses == [200] * 10, (
            f"{SILENT} clients are silent, MAX_CONNECTIONS is {MOST}, and other requests get {statuses}"
        )
        still_open = [is_open(client) for client in silent]
        assert still_open == sorted(still_open), (
            f"the oldest idle connections make room, and of {SILENT} from the oldest on these are open: {still_open}"
        )
        connections = psutil.Process(instance.process.pid).net_connections()
        held = sum(each.status == psutil.CONN_ESTABLISHED for each in connections)
        assert held < MOST + 10, f"MAX_CONNECTIONS is {MOST}, and {held} connections are held"

        for _ in range(MOST):
            clients.enter_context(connect(instance)).sendall(SLOW_BODY)

        refused: list[TimedReply] = []

        def refused_when_busy() -> bool:
            # A connection counts as idle until its head has arrived, and may be evicted until then. So add one per request.
            clients.enter_context(connect(instance)).sendall(SLOW_BODY)
            refused.append(get("/api/campaigns?limit=1"))
            return refused[-1].status == 503

        message = f"MAX_CONNECTIONS is {MOST}, more connections are busy, and requests are not refused"
        eventually_or_fail(refused_when_busy, within=5.0, message=message)
        assert_unavailable(refused[-1:])
        for path in ("/health", "/livez", "/readyz", "/metrics", "/api/db-cleanup"):
            reply = get(path)
            assert reply.status == 200, f"all connections are busy, and {path} gets {reply}"
        refusals = 'service_http_requests_total{method="GET",route="unmatched",status="5xx"} 1.0'
        reply = get("/metrics").reply
        assert reply is not None
        assert refusals in reply.text.splitlines(), (
            "one GET got a 503 for lack of connections, and the metrics do not count it"
        )
        assert_as_many_more_accepted(resilience, instance)
        lines = instance.log.count(FULL)
        assert lines == 1, f"all connections are in use all the time, and {lines} lines of the log report it, not one"
        clients.close()
        message = "connections are free again, and no line of the log reports it"
        eventually_or_fail(lambda: RESOLVED in instance.log, within=5.0, message=message)
        for _ in range(MOST + 1):
            clients.enter_context(connect(instance))
        message = "all connections are in use a second time, and no line of the log reports it"
        eventually_or_fail(lambda: instance.log.count(FULL) == 2, within=5.0, message=message)
        lines = instance.log.count(RESOLVED)
        assert lines == 1, f"connections were free again once, and {lines} lines of the log report it"


def assert_as_many_more_accepted(resilience: Resilience, instance: Instance) -> None:
    """Assert that MORE connections are accepted while all others are busy, and not one more.

    Each asks twice. The service works on the second request before the response to the first one arrives, and waits for Postgres.
    """
    host = instance.client.base_url.host
    requests = "".join(f"{line} HTTP/1.1\r\nHost: {host}\r\n\r\n" for line in ("GET /livez", "GET /api/db-cleanup"))
    for _ in range(3):  # on a busy machine the cleanup may be over before all clients have connected
        with ExitStack() as clients, resilience.postgres.blackhole():
            accepted: list[socket.socket] = []
            while len(accepted) <= MORE:
                client = clients.enter_context(connect(instance))
                client.settimeout(5.0)
                response = b""
                with contextlib.suppress(ConnectionError):
                    client.sendall(requests.encode())
                    while not response.endswith(b"}") and (more := client.recv(4096)):
                        response += more
                if not response:
                    break
                accepted.append(client)
            closed = select.poll()
            for client in accepted:
                closed.register(client, select.POLLIN)
            is_over = bool(closed.poll(0))
        wait_until_ready(instance.client)
        if not is_over:
            break
    assert len(accepted) == MORE, (
        f"all connections are busy, {MORE} more are accepted for the essential routes, and "
        + (f"{len(accepted)} are" if len(accepted) < MORE else "one more is, too")
    )


def test_the_default_of_max_connections_leaves_descriptors_for_postgres_and_redis(resilience: Resilience) -> None:
    """Otherwise a thousand silent clients take all descriptors, and every request that needs Postgres fails."""
    descriptors = 256
    with ExitStack() as stack:
        first = LIMIT_DESCRIPTORS.format(descriptors)
        instance = stack.enter_context(another_instance(resilience, ready=False, first=first))
        for _ in range(descriptors + 50):
            stack.enter_context(connect(instance))
        statuses = [timed(lambda: instance.client.get("/health")).status for _ in range(3)]
        assert statuses == [200] * 3, f"there are more clients than descriptors, and /health gets {statuses}"
        eventually(lambda: timed(lambda: instance.client.get("/readyz")).status == 200, within=5.0)
        reply = timed(lambda: instance.client.post("/api/campaigns", json={"name": "n", "message": "m"}))
        assert reply.status == 201, f"clients took the descriptors that Postgres needs: a POST gets {reply}"
        assert "no file descriptor is left" not in instance.log, f"clients took all descriptors:\n{instance.log}"
        assert "Too many open files" not in instance.log, f"clients took all descriptors:\n{instance.log}"


def outside_address() -> str | None:
    """Return an IPv4 address of this machine that is not loopback, or None."""
    addresses = [
        each.address for group in psutil.net_if_addrs().values() for each in group if each.family is socket.AF_INET
    ]
    return next((address for address in addresses if not address.startswith("127.")), None)


def test_forwarding_headers_do_not_change_who_the_caller_is(resilience: Resilience) -> None:
    """Tested over a socket, because the server may apply such headers before the application sees the request."""
    forwarded = (
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-Host": "localhost"},
        {"X-Forwarded-Proto": "http"},
        {"X-Real-IP": "127.0.0.1"},
        {"Forwarded": "for=127.0.0.1"},
        {"Via": "1.1 proxy"},
    )
    with another_instance(resilience, HOST="0.0.0.0") as instance:
        local = instance.client.base_url.copy_with(path="/api/db-cleanup")
        for headers in forwarded:
            status = instance.client.post(local, headers=headers).status_code
            assert status == 403, (
                f"a loopback request that came through a proxy needs the token; with {headers} it gets {status}, not 403"
            )
        host = f"0.0.0.0:{local.port}"  # which a browser takes for this machine
        status = instance.client.post(local, headers={"Host": host}).status_code
        assert status == 403, (
            f"HOST is 0.0.0.0, which is no name of a machine, and the Host {host} gets {status}, not 403"
        )
        # The address stays that of the socket. If the header's counted, this caller would be remote and get 401.
        status = instance.client.post(local, headers={"X-Forwarded-For": "203.0.113.7"}).status_code
        assert status == 403, f"X-Forwarded-For decides who the caller is: {status}, not 403"
        address = outside_address()
        if address is not None:
            elsewhere = httpx.URL(resilience.service.url).copy_with(host=address, path="/health")
            outcome = timed(lambda: httpx.get(elsewhere, trust_env=False, timeout=5.0))
            assert isinstance(outcome.error, httpx.ConnectError), f"HOST is 127.0.0.1, and {address} gets {outcome}"
            remote = local.copy_with(host=address)
            for headers in ({}, *forwarded):
                status = instance.client.post(remote, headers=headers).status_code
                assert status == 401, f"a remote caller with {headers} gets {status}, not 401"
        assert "[GC] Freed" not in instance.log, "a caller was refused, and the cleanup ran nevertheless"
        assert instance.client.post(local, headers={**BEARER, **forwarded[0]}).status_code == 200


CROSS_SITE: tuple[dict[str, str], ...] = (
    {"Host": "rebound.example"},
    {"Host": "localhost.rebound.example"},
    {"Origin": "https://elsewhere.example"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
)

LOCAL: tuple[dict[str, str], ...] = (
    {"Host": "localhost"},
    {"Host": "LOCALHOST:8080"},
    {"Host": "campaigns.localhost"},
    {"Host": "127.0.0.2"},
    {"Host": "[::1]:8080"},
    {"Sec-Fetch-Site": "none"},
)


def test_cross_site_requests_cannot_trigger_a_cleanup(resilience: Resilience) -> None:
    """A page of another site can make a browser on this machine send requests from loopback."""
    log = len(resilience.service.log)
    for headers in CROSS_SITE:
        for method in ("GET", "POST"):
            status = resilience.service.request(method, "/api/db-cleanup", headers=headers).status_code
            assert status == 403, f"a page of another site may clean up: {method} {headers} gets {status}, not 403"
    assert "[GC] Freed" not in resilience.service.log[log:], "a page was refused, and the cleanup ran nevertheless"
    same_origin = {"Origin": resilience.service.url, "Sec-Fetch-Site": "same-origin"}
    status = resilience.service.post("/api/db-cleanup", headers=same_origin).status_code
    assert status == 200, f"a page of the service itself may clean up, and gets {status}"
    for headers in LOCAL:  # 429 to those that come too soon
        status = resilience.service.post("/api/db-cleanup", headers=headers).status_code
        assert status in (200, 429), f"a caller on this machine may clean up, and with {headers} gets {status}"


def wrong_tokens(token: str) -> list[str]:
    """Return strings that a careless comparison takes for the token."""
    parts = [token[:-1], token[:1], token[1:], f"{token}x", f"x{token}", token * 2, f"{token},{token}", f"{token} x"]
    spellings = [token.upper(), token.swapcase(), token[::-1], f'"{token}"']
    other_alphabets = [f"{token[:-1]}é", token.replace("a", "\N{CYRILLIC SMALL LETTER A}")]
    return [*parts, *spellings, *other_alphabets, "*", "%", "None", "null", "undefined"]


def test_only_the_exact_token_is_accepted(resilience: Resilience) -> None:
    token = healthy.CLEANUP_TOKEN
    forwarded = {"X-Forwarded-For": "203.0.113.7"}  # as through a proxy on this machine, so that only the token decides
    log = len(resilience.service.log)
    for each in wrong_tokens(token):
        headers = [("Authorization", b"Bearer " + each.encode()), *forwarded.items()]
        status = resilience.service.post("/api/db-cleanup", headers=headers).status_code  # type: ignore[arg-type]
        assert status == 403, f"the token has {len(token)} characters, and {each!r} gets {status}, not 403"
    assert "[GC] Freed" not in resilience.service.log[log:], "a caller was refused, and the cleanup ran nevertheless"
    reply = resilience.service.post("/api/db-cleanup", headers={**BEARER, **forwarded})
    assert reply.status_code == 200, f"the right token gets {reply.status_code}: {reply.text}"


def make_certificate(subject: str, directory: Path) -> tuple[Path, Path]:
    """Create a self-signed certificate with openssl, or skip, and return the paths of the key and the certificate."""
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", f"/CN={subject}", "-addext", f"subjectAltName=DNS:{subject}"]
    command = ["openssl", "req", "-x509", *curve, "-days", "1", *names, "-keyout", str(key), "-out", str(certificate)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no certificate can be created here: {error}")
    return key, certificate


@contextmanager
def tls_server(subject: str) -> Iterator[tuple[int, Path, list[bytes]]]:
    """Run a TLS server, and yield its port, its certificate, and the list of data received after each handshake."""
    received: list[bytes] = []
    with tempfile.TemporaryDirectory() as directory, socket.create_server(("127.0.0.1", 0)) as listener:
        key, certificate = make_certificate(subject, Path(directory))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return  # the listener was closed
                client.settimeout(2.0)
                with client, contextlib.suppress(OSError):
                    received.append(context.wrap_socket(client, server_side=True).recv(4096))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1], certificate, received
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("flaw", ["unknown authority", "wrong host name"])
def test_no_token_is_sent_to_a_server_whose_certificate_does_not_verify(resilience: Resilience, flaw: str) -> None:
    subject = "elsewhere.example" if flaw == "wrong host name" else "localhost"
    with tls_server(subject) as (port, certificate, received):
        settings = {
            "UPSTASH_REDIS_REST_URL": "https://localhost",
            "UPSTASH_REDIS_REST_TOKEN": "a-token-for-upstash-alone",
            "UPSTASH_REDIS_PORT": str(port),
        }
        if flaw == "wrong host name":
            settings["UPSTASH_REDIS_CA_FILE"] = str(certificate)
        with another_instance(resilience, **settings) as instance:
            message = f"Upstash's certificate does not verify ({flaw}), and the log does not report Redis as down"
            eventually_or_fail(lambda: "falling back to in-memory cache" in instance.log, within=5.0, message=message)
            path = instance.client.post("/api/campaigns", json={"name": "n", "message": "m"}).headers["Location"]
            source = instance.client.get(path).headers["X-Cache-Source"]
        data = [each for each in received if each]
        assert not data, f"the certificate does not verify ({flaw}), and the service sent {data[0][:80]!r}"
        assert source == "memory", f"the certificate does not verify ({flaw}), and {source} serves, not memory"


def assert_reports_port_in_use(log: str, log_format: str) -> None:
    """Assert that the log is one line in the given format that names PORT and the cause."""
    assert log.count("\n") == 1, f"a port in use is reported in one line ({log_format}), not: {log}"
    if log_format == "json":
        assert log.startswith("{"), f"LOG_FORMAT is json, and the line that ends the start is not JSON: {log}"
    message = json.loads(log)["message"] if log_format == "json" else log
    assert "PORT" in message, f"the line does not name PORT: {log}"
    assert "Address already in use" in message, f"the line does not name the cause: {log}"


def test_a_port_in_use_ends_the_start_with_one_log_line(resilience: Resilience) -> None:
    """The line is in the configured format, and the other server keeps the port."""
    with socket.create_server(("127.0.0.1", 0)) as other, tempfile.TemporaryDirectory() as directory:
        settings = healthy.settings(resilience.postgres.url, resilience.redis.url) | {
            "PORT": str(other.getsockname()[1])
        }
        logs = {log_format: Path(directory, log_format) for log_format in ("console", "json")}
        processes = {name: start_process(settings | {"LOG_FORMAT": name}, log) for name, log in logs.items()}
        try:
            codes = {name: process.wait(10.0) for name, process in processes.items()}
        except subprocess.TimeoutExpired:
            pytest.fail("the port is in use, and the service starts nevertheless")
        finally:
            for process in processes.values():
                process.kill()
        for name, code in codes.items():
            log = logs[name].read_text()
            assert code != 0, f"the port is in use, and the service exits with 0 ({name}): {log}"
            assert_reports_port_in_use(log, name)


MALFORMED = ("nan", "inf", "-inf", "-1", "1e400", "0x10", "1_0", "1,5", "many", "٣", "1e")


def test_every_numeric_setting_rejects_malformed_and_out_of_range_values() -> None:
    base = {"DATABASE_URL": "postgresql://nobody@127.0.0.1/nothing"}
    fields = dataclasses.fields(ServiceSettings)
    numbers = [each.name.upper() for each in fields if "int" in str(each.type) or "float" in str(each.type)]
    assert len(numbers) > 20
    wrong = []
    for name, value in itertools.product(numbers, MALFORMED):
        try:
            settings = ServiceSettings.from_environment({**base, name: value})
        except SettingsError as error:
            if error.name != name:
                wrong.append(f"{name}={value} blames {error.name}")
        else:
            wrong.append(f"{name}={value} becomes {getattr(settings, name.lower())}")
    assert not wrong, f"malformed or out-of-range values are accepted: {', '.join(wrong)}"


SHOP = "postgresql://app@127.0.0.1/shop"
HOPELESS: tuple[dict[str, str], ...] = (
    {"PORT": "65536"},
    {"UPSTASH_REDIS_PORT": "0"},
    {"DB_POOL_MAX": "0"},
    {"DB_POOL_ALERT_PERCENT": "101"},
    {"DB_POOL_ALERT_PERCENT": "0"},
    {"HOST": "no host"},
    {"LOG_FORMAT": "xml"},
    {"DATABASE_URL": "postgresql://app@no..host/shop"},
    {"DATABASE_URL": "postgresql://app@127.0.0.1:65536/shop"},
    {"DATABASE_URL": "postgresql://app:100%@127.0.0.1/shop"},
    {"DATABASE_URL": f"{SHOP}?sslmode=always"},
    {"DATABASE_URL": f"{SHOP}?channel_binding=require"},
    {"DATABASE_URL": f"{SHOP}?connect_timeout=5"},
    {"DATABASE_URL": f"{SHOP}?sslmode=verify-full&sslrootcert=/nonexistent/ca.pem"},
    {"REDIS_URL": "redis://127.0.0.1:0"},
    {"REDIS_URL": "redis://no..host"},
    {"REDIS_URL": "redis://:100%@127.0.0.1"},
    {"REDIS_URL": "redis://127.0.0.1/first"},
    {"GATEWAY_URL": "https://no..host/send"},
    {"UPSTASH_REDIS_CA_FILE": "/nonexistent/ca.pem"},
    {"UPSTASH_REDIS_REST_TOKEN": "t\N{LATIN SMALL LETTER U WITH DIAERESIS}"},
    {"UPSTASH_REDIS_REST_TOKEN": "", "UPSTASH_REDIS_REST_URL": "https://name.upstash.io"},
    {"UPSTASH_REDIS_REST_URL": "http://name.upstash.io", "UPSTASH_REDIS_REST_TOKEN": "t"},
    {"CLEANUP_TOKEN": "two words"},
)
HOPEFUL: tuple[dict[str, str], ...] = (
    {"PORT": "65535"},
    {"DB_POOL_ALERT_PERCENT": "100"},
    {"HOST": "::1"},
    {"DATABASE_URL": "postgresql://app:p%40ss@[::1]:65535/shop?sslmode=prefer"},
    {"DATABASE_URL": "postgresql://app@first,second:5433/shop?target_session_attrs=any"},
    {"REDIS_URL": "redis://:p%25@redis.example:6380/2"},
    {"UPSTASH_REDIS_REST_URL": "https://name.upstash.io", "UPSTASH_REDIS_REST_TOKEN": "t"},
)


def test_a_setting_that_can_never_work_ends_the_start_and_others_do_not() -> None:
    """A wrong URL would look like an outage, for which the service waits."""
    base = {"DATABASE_URL": SHOP}
    wrong = []
    for values in HOPELESS:
        try:
            ServiceSettings.from_environment(base | values)
        except SettingsError as error:
            if error.name not in values:
                wrong.append(f"{values} can never work, and {error.name} is blamed")
        else:
            wrong.append(f"{values} can never work, and the service starts with it")
    for values in HOPEFUL:
        try:
            ServiceSettings.from_environment(base | values)
        except SettingsError as error:
            wrong.append(f"{values} can work, and ends the start ({error.name})")
    assert not wrong, "; ".join(wrong)


# A library warns and a thread fails, once the log is set up. No request causes such lines.
WARN_AND_FAIL = """
import sys, threading, time, warnings

def fail():
    while "service.app" not in sys.modules:
        time.sleep(0.005)
    warnings.warn("a library has a warning")
    raise RuntimeError("a thread has an error")

threading.Thread(target=fail, daemon=True).start()
"""


def test_every_line_of_a_json_log_is_json(resilience: Resilience) -> None:
    """An outage, a malformed request and a shutdown each log lines, and so do a warning and an uncaught exception."""
    begun = datetime.now(UTC) - ROUNDED
    with another_instance(resilience, first=WARN_AND_FAIL, LOG_FORMAT="json", HEADER_TIMEOUT="30") as instance:
        with resilience.postgres.refuse(), resilience.redis.refuse():
            wait_until_unready(instance.client, within=3.0)
            instance.client.post("/api/campaigns", json={"name": "line\nbreak\u2028", "message": "m"})
            with connect(instance) as client:
                client.sendall(b"no\x00 request\r\n\r\n")
                assert receive_until_closed(client).startswith(b"HTTP/1.1 400")
        eventually(lambda: instance.client.get("/readyz").json()["status"] == "ready", within=5.0)
        instance.process.signal(signal.SIGTERM)
        eventually_or_fail(
            instance.has_exited,
            within=20.0,
            message=f"the service does not exit after SIGTERM; its log:\n{instance.log}",
        )
        lines = instance.log.splitlines()
    assert len(lines) >= 6, f"an outage of both servers and a shutdown log only {len(lines)} lines"
    for line in lines:
        try:
            fields = json.loads(line)
        except ValueError:
            pytest.fail(f"LOG_FORMAT is json, and a line is not JSON: {line!r}")
        assert {"time", "level", "logger", "message"} <= fields.keys(), f"a line lacks a field: {line}"
        logged = datetime.fromisoformat(fields["time"])
        assert begun <= logged <= datetime.now(UTC), (
            f"it is {datetime.now(UTC):%H:%M:%S} UTC, and the time of a line is wrong: {line}"
        )
    texts = [f"{fields['message']} {fields.get('exception', '')}" for fields in map(json.loads, lines)]
    for event in ("a library has a warning", "a thread has an error"):
        assert any(event in text for text in texts), f"{event}, and no line of the JSON log has it: {texts}"


def test_unexpected_body_fields_get_a_short_422(resilience: Resilience) -> None:
    """Half a surrogate pair in a name used to be a 500, and a megabyte of names got a response of four."""
    create(resilience)
    many = b"{" + b",".join(b'"%d":1' % number for number in range(90_000)) + b"}"
    bodies = {
        "half a surrogate pair": b'{"\\ud800":1}',
        "90000 names": many,
        "a repeated name": b'{"name":"a","message":"m","name":"b"}',
    }
    for kind, body in bodies.items():
        reply = timed(lambda body=body: resilience.service.post("/api/campaigns", content=body))
        assert reply.status == 422, f"a body with {kind} gets {reply.status}, not 422"
        assert reply.reply is not None
        size = len(reply.reply.content)
        assert size < 4096, f"a body with {kind} gets a response of {size} bytes, not less than 4096"


def test_a_delete_with_another_version_is_refused(resilience: Resilience) -> None:
    path = f"/api/campaigns/{create(resilience)['id']}"
    for tag in ('"2"', 'W/"1"', '"01"', '"1'):
        status = resilience.service.delete(path, headers={"If-Match": tag}).status_code
        assert status == 412, f'the version is "1", and DELETE with If-Match: {tag} gets {status}, not 412'
    tags = ", ".join(f'"{number}"' for number in range(50, 0, -1))
    status = resilience.service.delete(path, headers={"If-Match": tags}).status_code
    assert status == 204, f"the right tag is the last of 50, and DELETE gets {status}, not 204"


def test_request_targets_in_absolute_form_are_served(resilience: Resilience) -> None:
    """RFC 9112 requires this of every server, and that the host of the target replaces that of the header."""
    parts = httpx.URL(resilience.service.url)

    def get(target: str, host: str) -> bytes:
        """Request a target with a Host header. Return the response."""
        with socket.create_connection((parts.host, parts.port or 0), timeout=5.0) as client:
            client.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            return receive_until_closed(client)

    response = get(f"http://{parts.netloc.decode()}/health", host="x")
    assert response.startswith(b"HTTP/1.1 200"), f"GET http://host/health gets {response[:40]!r}, not 200"
    response = get("http://rebound.example/api/db-cleanup", host="localhost")
    assert response.startswith(b"HTTP/1.1 403"), (
        f"the target names another host, and only the Host header is local: the cleanup gets {response[:40]!r}, not 403"
    )
