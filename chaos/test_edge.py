"""The edge of the process: who may ask, how slowly, how many at once, and what the service says when it cannot start."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import re
import resource
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

import healthy
from instances import Instance, another_instance, start_process
from pytest_resilience import Resilience, eventually
from service.errors import SettingsError
from service.settings import ServiceSettings
from workload import TimedReply, create, eventually_or_fail, timed

TIMEOUT = 0.5  # HEADER_TIMEOUT and BODY_TIMEOUT, in seconds; 10 in production
SILENT = 60  # clients that say nothing, or half of something
MOST = 20  # connections, where MAX_CONNECTIONS is set
HALF = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Half: "
SLOW_BODY = b"POST /api/campaigns HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
BEARER = {"Authorization": f"Bearer {healthy.CLEANUP_TOKEN}"}


def connect(instance: Instance) -> socket.socket:
    """A client that has said nothing yet."""
    return socket.create_connection((instance.client.base_url.host, instance.client.base_url.port or 0), timeout=10.0)


def until_closed(client: socket.socket) -> bytes:
    """All that comes until the service closes the connection."""
    came = b""
    with contextlib.suppress(ConnectionResetError):
        while more := client.recv(65_536):
            came += more
    return came


def test_silent_and_half_sent_requests_are_closed_after_their_timeout(resilience: Resilience) -> None:
    with (
        another_instance(resilience, HEADER_TIMEOUT=str(TIMEOUT), BODY_TIMEOUT=str(TIMEOUT)) as instance,
        ExitStack() as clients,
    ):
        silent, half, kept, slow = (clients.enter_context(connect(instance)) for _ in range(4))
        begin = time.monotonic()
        half.sendall(HALF)
        kept.sendall(HALF + b"\r\n\r\n" + HALF)
        slow.sendall(SLOW_BODY)
        for client in (silent, half, kept, slow):
            client.settimeout(0.05)
        said = {"nothing": b"", "half a head": b"", "half a head after a request": b"", "a slow body": b""}
        open_ = dict(zip(said, (silent, half, kept, slow), strict=True))
        while open_ and time.monotonic() - begin < TIMEOUT + 5.0:
            for who, client in list(open_.items()):
                try:
                    more = client.recv(65_536)
                    said[who] += more
                    if not more:
                        del open_[who]
                    elif who == "nothing":
                        pytest.fail(f"a client that says nothing is answered {more!r}")
                except TimeoutError:
                    if who != "nothing":
                        with contextlib.suppress(OSError):
                            client.sendall(b"x")  # a byte now and then: its time is for all of it
                except ConnectionResetError:
                    del open_[who]
        assert not open_, (
            f"HEADER_TIMEOUT and BODY_TIMEOUT are {TIMEOUT} s, and clients hold on with {', '.join(open_)}"
        )
        for who, answers in (("half a head", 1), ("half a head after a request", 2), ("a slow body", 1)):
            told = re.findall(rb"HTTP/1\.1 (\d+)", said[who])
            assert told == [b"200", b"408"][-answers:], f"a client with {who} is told 408 in the end, and not {told}"


def test_at_max_connections_idle_clients_are_evicted_and_health_still_answers(resilience: Resilience) -> None:
    with (
        another_instance(resilience, MAX_CONNECTIONS=str(MOST), HEADER_TIMEOUT="30", BODY_TIMEOUT="30") as instance,
        ExitStack() as clients,
    ):
        for number in range(SILENT):
            client = clients.enter_context(connect(instance))
            if number % 2:
                client.sendall(HALF)

        def ask(path: str) -> TimedReply:
            """By a connection of its own: one that was kept says nothing either, and makes room."""
            url = instance.client.base_url.copy_with(raw_path=path.encode())
            return timed(lambda: httpx.get(url, trust_env=False, timeout=10.0))

        asked = [ask("/health") for _ in range(5)]
        asked += [ask("/api/campaigns?limit=1") for _ in range(5)]
        told = [each.status for each in asked]
        assert told == [200] * 10, (
            f"{SILENT} clients say nothing, MAX_CONNECTIONS is {MOST}, and others are answered {told}"
        )
        held = len(
            [each for each in psutil.Process(instance.process.pid).net_connections() if each.status == "ESTABLISHED"]
        )
        assert held < MOST + 10, f"MAX_CONNECTIONS is {MOST}, and {held} connections are held"

        def busy() -> bool:
            clients.enter_context(connect(instance)).sendall(SLOW_BODY)
            return ask("/api/campaigns?limit=1").status == 503

        message = f"MAX_CONNECTIONS is {MOST}, more are busy, and work is not refused"
        eventually_or_fail(busy, within=5.0, message=message)
        for path in ("/health", "/livez", "/readyz"):
            answer = ask(path)
            assert answer.status == 200, f"all connections are busy, and {path} is answered {answer.status}"


def test_the_default_of_max_connections_leaves_descriptors_for_postgres_and_redis(resilience: Resilience) -> None:
    """A thousand clients that say nothing took all descriptors, and every request that needed Postgres failed."""
    few = 256
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
        try:
            instance = stack.enter_context(another_instance(resilience, ready=False))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(few + 50):
            stack.enter_context(connect(instance))
        told = [timed(lambda: instance.client.get("/health")).status for _ in range(3)]
        assert told == [200] * 3, f"more clients than descriptors, and /health is answered {told}"
        eventually(lambda: timed(lambda: instance.client.get("/readyz")).status == 200, within=5.0)
        reply = timed(lambda: instance.client.post("/api/campaigns", json={"name": "n", "message": "m"}))
        assert reply.status == 201, f"clients took the descriptors that Postgres needs: {reply.status}"
        assert "no file descriptor is left" not in instance.log, f"clients took all descriptors:\n{instance.log}"
        assert "Too many open files" not in instance.log, f"clients took all descriptors:\n{instance.log}"


def test_forwarding_headers_do_not_change_who_the_caller_is(resilience: Resilience) -> None:
    """At the server itself: it may believe headers before the application sees the request."""
    forwarded = {"X-Forwarded-For": "127.0.0.1"}, {"Forwarded": "for=127.0.0.1"}, {"X-Real-IP": "127.0.0.1"}
    elsewhere = [a.address for each in psutil.net_if_addrs().values() for a in each if a.family is socket.AF_INET]
    outside = next((address for address in elsewhere if not address.startswith("127.")), None)
    with another_instance(resilience, HOST="0.0.0.0") as instance:
        here = instance.client.base_url.copy_with(path="/api/db-cleanup")
        for headers in forwarded:
            reply = instance.client.post(here, headers=headers)
            assert reply.status_code == 403, (
                f"a request on loopback that came through a proxy needs the token; with {headers} it is answered"
                f" {reply.status_code}"
            )
        # The address stays that of the socket: were it the header's, this caller would be one from elsewhere, 401.
        reply = instance.client.post(here, headers={"X-Forwarded-For": "203.0.113.7"})
        assert reply.status_code == 403, f"X-Forwarded-For decides who asks: {reply.status_code} and not 403"
        if outside is not None:
            there = here.copy_with(host=outside)
            for headers in ({}, *forwarded):
                reply = instance.client.post(there, headers=headers)
                assert reply.status_code == 401, (
                    f"a caller from elsewhere with {headers} is answered {reply.status_code}"
                )
        assert "[GC] Freed" not in instance.log, "a caller was refused, and the cleanup ran nevertheless"
        assert instance.client.post(here, headers={**BEARER, **forwarded[0]}).status_code == 200


FOREIGN_PAGES: tuple[dict[str, str], ...] = (
    {"Host": "rebound.example"},
    {"Host": "localhost.rebound.example"},
    {"Origin": "https://elsewhere.example"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
)


def test_cross_site_requests_cannot_trigger_a_cleanup(resilience: Resilience) -> None:
    log = len(resilience.service.log)
    for headers in FOREIGN_PAGES:
        for method in ("GET", "POST"):
            reply = resilience.service.request(method, "/api/db-cleanup", headers=headers)
            assert reply.status_code == 403, (
                f"a page of another site may clean up: {method} {headers} {reply.status_code}"
            )
    assert "[GC] Freed" not in resilience.service.log[log:], "a page was refused, and the cleanup ran nevertheless"
    mine = {"Origin": resilience.service.url, "Sec-Fetch-Site": "same-origin"}
    assert resilience.service.post("/api/db-cleanup", headers=mine).status_code == 200, "a page of its own may clean up"


def test_only_the_exact_token_is_accepted(resilience: Resilience) -> None:
    token = healthy.CLEANUP_TOKEN
    wrong = [
        *(
            token[:-1],
            token[:1],
            token[1:],
            f"{token}x",
            f"x{token}",
            token * 2,
            token.upper(),
            token.swapcase(),
            token[::-1],
        ),
        *(
            f"{token[:-1]}é",
            token.replace("a", "\N{CYRILLIC SMALL LETTER A}"),
            f'"{token}"',
            f"{token},{token}",
            f"{token} x",
        ),
        *("*", "%", "None", "null", "undefined"),
    ]
    # A proxy on this machine, so that the token alone decides.
    through = {"X-Forwarded-For": "203.0.113.7"}
    log = len(resilience.service.log)
    for each in wrong:
        sent = [("Authorization", b"Bearer " + each.encode()), *through.items()]
        status = resilience.service.post("/api/db-cleanup", headers=sent).status_code  # type: ignore[arg-type]
        assert status == 403, f"the token is {len(token)} characters, and {each!r} is answered {status}"
    assert "[GC] Freed" not in resilience.service.log[log:], "a caller was refused, and the cleanup ran nevertheless"
    right = resilience.service.post("/api/db-cleanup", headers={**BEARER, **through})
    assert right.status_code == 200, f"the right token is answered {right.status_code}: {right.text}"


@contextmanager
def tls_server(subject: str) -> Iterator[tuple[int, Path, list[bytes]]]:
    """A server with a certificate for `subject` that is its own authority: port, certificate, and what comes after the handshake."""
    import ssl
    import threading

    came: list[bytes] = []
    with tempfile.TemporaryDirectory() as scratch, socket.create_server(("127.0.0.1", 0)) as listener:
        key, certificate = Path(scratch, "key.pem"), Path(scratch, "certificate.pem")
        command = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "1",
        ]
        names = ["-subj", f"/CN={subject}", "-addext", f"subjectAltName=DNS:{subject}"]
        try:
            subprocess.run([*command, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no certificate can be made here: {error}")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return  # closed
                client.settimeout(2.0)
                with client, contextlib.suppress(OSError):
                    came.append(context.wrap_socket(client, server_side=True).recv(4096))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1], certificate, came
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("flaw", ["its authority is unknown", "it is for another name"])
def test_no_token_is_sent_to_a_server_whose_certificate_does_not_verify(resilience: Resilience, flaw: str) -> None:
    subject = "localhost" if flaw.startswith("its") else "elsewhere.example"
    with tls_server(subject) as (port, certificate, came):
        settings = {
            "UPSTASH_REDIS_REST_URL": "https://localhost",
            "UPSTASH_REDIS_REST_TOKEN": "a-token-for-upstash-alone",
            "UPSTASH_REDIS_PORT": str(port),
        }
        if subject != "localhost":
            settings["UPSTASH_REDIS_CA_FILE"] = str(certificate)
        with another_instance(resilience, **settings) as instance:
            message = f"Upstash's certificate does not verify, because {flaw}, and the log says nothing"
            eventually_or_fail(lambda: "falling back to in-memory cache" in instance.log, within=5.0, message=message)
            path = instance.client.post("/api/campaigns", json={"name": "n", "message": "m"}).headers["Location"]
            source = instance.client.get(path).headers["X-Cache-Source"]
        told = [each for each in came if each]
        assert not told, f"the certificate does not verify, because {flaw}, and the service sent {told[0][:80]!r}"
        assert source == "memory", f"the certificate does not verify, and {source} serves"


def test_a_port_in_use_ends_the_start_with_one_log_line(resilience: Resilience) -> None:
    """In either format of the log; the other server keeps the port."""
    with socket.create_server(("127.0.0.1", 0)) as taken, tempfile.TemporaryDirectory() as scratch:
        port = str(taken.getsockname()[1])
        good = healthy.settings(resilience.postgres.url, resilience.redis.url) | {"PORT": port}
        logs = {log_format: Path(scratch, log_format) for log_format in ("console", "json")}
        processes = {name: start_process(good | {"LOG_FORMAT": name}, log) for name, log in logs.items()}
        try:
            codes = {name: process.wait(10.0) for name, process in processes.items()}
        except subprocess.TimeoutExpired:
            pytest.fail("its port is taken, and the service starts nevertheless")
        finally:
            for process in processes.values():
                process.kill()
        for name, code in codes.items():
            text = logs[name].read_text()
            assert code != 0, f"its port is taken, and it ends as if all were well ({name}): {text}"
            assert text.count("\n") == 1, f"a taken port is told in one line ({name}), not: {text}"
            if name == "json":
                assert text.startswith("{"), f"LOG_FORMAT is json, and the line that ends the start is none: {text}"
            message = json.loads(text)["message"] if name == "json" else text
            assert "PORT" in message, f"the line does not name PORT: {text}"
            assert "Address already in use" in message, f"the line does not say why: {text}"


ODD = ("nan", "inf", "-inf", "-1", "1e400", "0x10", "1_0", "1,5", "many", "٣", "1e")


def test_every_numeric_setting_rejects_malformed_and_out_of_range_values() -> None:
    base = {"DATABASE_URL": "postgresql://nobody@127.0.0.1/nothing"}
    numbers = [
        f.name.upper() for f in dataclasses.fields(ServiceSettings) if "int" in str(f.type) or "float" in str(f.type)
    ]
    assert len(numbers) > 20
    wrong = []
    for name, value in itertools.product(numbers, ODD):
        try:
            settings = ServiceSettings.from_environment({**base, name: value})
        except SettingsError as error:
            if error.name != name:
                wrong.append(f"{name}={value} blames {error.name}")
        else:
            wrong.append(f"{name}={value} is {getattr(settings, name.lower())}")
    assert not wrong, f"what is no number in range is taken for one: {', '.join(wrong)}"


def test_every_line_of_a_json_log_is_json(resilience: Resilience) -> None:
    """Whatever happens: an outage, a wrong request, an alert, the end."""
    with another_instance(resilience, LOG_FORMAT="json", HEADER_TIMEOUT="30") as instance:
        with resilience.postgres.refuse(), resilience.redis.refuse():
            eventually_or_fail(
                lambda: instance.client.get("/readyz").status_code == 503, within=3.0, message="Postgres is away"
            )
            instance.client.post("/api/campaigns", json={"name": "line\nbreak\u2028", "message": "m"})
            with connect(instance) as client:
                client.sendall(b"no\x00 request\r\n\r\n")
                assert until_closed(client).startswith(b"HTTP/1.1 400")
        eventually(lambda: instance.client.get("/readyz").json()["status"] == "ready", within=5.0)
        instance.process.terminate()
        eventually_or_fail(
            instance.has_exited,
            within=20.0,
            message=f"it does not stop; its log:\n{instance.log}",
        )
        lines = instance.log.splitlines()
    assert len(lines) >= 6, f"an outage of both and the end make more than {len(lines)} lines"
    for line in lines:
        try:
            told = json.loads(line)
        except ValueError:
            pytest.fail(f"LOG_FORMAT is json, and a line is none: {line!r}")
        assert {"time", "level", "logger", "message"} <= told.keys(), f"a line lacks a field: {line}"


def test_unexpected_body_fields_get_a_short_422(resilience: Resilience) -> None:
    """And never as an error of the service: half a surrogate pair in a name was one, and a megabyte of names four of answer."""
    create(resilience)
    many = b"{" + b",".join(b'"%d":1' % number for number in range(90_000)) + b"}"
    for what, body in (
        ("half a pair", b'{"\\ud800":1}'),
        ("90000 names", many),
        ("a name twice", b'{"name":"a","name":"b"}'),
    ):
        reply = timed(lambda body=body: resilience.service.post("/api/campaigns", content=body))
        assert reply.status == 422, f"a body with {what} is 422, not {reply.status}"
        assert reply.reply is not None
        assert len(reply.reply.content) < 4096, f"a body with {what} is answered with {len(reply.reply.content)} bytes"


def test_a_delete_with_another_version_is_refused(resilience: Resilience) -> None:
    path = f"/api/campaigns/{create(resilience)['id']}"
    for tag in ('"2"', 'W/"1"', '"01"', '"1'):
        status = resilience.service.delete(path, headers={"If-Match": tag}).status_code
        assert status == 412, f'the version is "1", and DELETE with If-Match: {tag} is answered {status}'
    tags = ", ".join(f'"{number}"' for number in range(50, 0, -1))
    status = resilience.service.delete(path, headers={"If-Match": tags}).status_code
    assert status == 204, f"the right tag stands in the last place of 50, and DELETE is answered {status}"


def test_request_targets_in_absolute_form_are_served(resilience: Resilience) -> None:
    """As RFC 9112 demands of every server."""
    parts = httpx.URL(resilience.service.url)
    with socket.create_connection((parts.host, parts.port or 0), timeout=5.0) as client:
        client.sendall(
            f"GET http://{parts.netloc.decode()}/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        )
        answer = until_closed(client)
    assert answer.startswith(b"HTTP/1.1 200"), f"GET http://host/health is answered {answer[:40]!r}"
