"""The plugin's own clients, with servers that behave as real servers seldom do."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable

import pytest
import trustme

from pytest_resilience.clients import postgres
from pytest_resilience.clients.redis import RedisClient
from pytest_resilience.wire.redis import ErrorReply


class Fake:
    """A server that calls `serve` with each connection."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.connections = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                if self._listener.fileno() < 0 or self._stopped:
                    return
                self.connections += 1
                self._serve(connection)

    _stopped = False

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join()
        self._listener.close()


def responding(*answers: bytes) -> Callable[[socket.socket], None]:
    """Return a `serve` that responds to each request with the next answer and then closes."""

    def serve(connection: socket.socket) -> None:
        for answer in answers:
            if connection.recv(65536):
                connection.sendall(answer)

    return serve


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    authority = trustme.CA()
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context, path


# -- Redis


def redis(server: Fake, scheme: str = "redis", query: str = "") -> RedisClient:
    return RedisClient(f"{scheme}://127.0.0.1:{server.port}/0{query}", name="it", timeout=10)


def test_a_server_of_another_protocol_is_an_error_with_its_address():
    with (
        Fake(responding(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as server,
        redis(server) as client,
        pytest.raises(ConnectionError, match=rf"127.0.0.1:{server.port} does not speak the protocol of Redis.*HTTP"),
    ):
        client.call("PING")


def test_a_connection_closed_before_the_reply_is_not_tried_again():
    with (
        Fake(responding(b"+OK\r\n", b"+PO")) as server,
        redis(server) as client,
        pytest.raises(ConnectionResetError, match="closed the connection"),
    ):
        client.call("PING")
    assert server.connections == 1


def test_a_late_reply_is_not_taken_for_the_reply_to_the_next_command():
    released = threading.Event()

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"+OK\r\n")
        if b"LATE" in connection.recv(65536):
            released.wait(30)
            return
        connection.sendall(b"+PONG\r\n")

    with Fake(serve) as server, RedisClient(f"redis://127.0.0.1:{server.port}", name="it", timeout=0.2) as client:
        with pytest.raises(TimeoutError):
            client.call("LATE")
        released.set()
        assert client.call("PING") == "PONG"
    assert server.connections == 2


def test_a_failed_login_is_repeated_with_the_next_command():
    with Fake(responding(b"-LOADING wait\r\n")) as server, redis(server) as client:
        for _ in range(2):
            with pytest.raises(ErrorReply, match="LOADING"):
                client.call("PING")
    assert server.connections == 2


@pytest.mark.parametrize(
    "query", ["?ssl_ca_certs={ca}", "?ssl_cert_reqs=none", "?ssl_ca_certs={ca}&ssl_check_hostname=false"]
)
def test_redis_is_reached_by_tls(authority, query):
    context, path = authority

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as encrypted:
            responding(b"+OK\r\n", b"+PONG\r\n", b"+PONG\r\n")(encrypted)

    with Fake(serve) as server, redis(server, "rediss", query.format(ca=path)) as client:
        assert [client.call("PING"), client.call("PING")] == ["PONG", "PONG"]
        assert server.connections == 1, "a ticket of TLS does not end the connection"


def test_a_certificate_of_an_unknown_authority_is_refused(authority):
    context, _ = authority

    def serve(connection: socket.socket) -> None:
        with pytest.raises(ssl.SSLError), context.wrap_socket(connection, server_side=True) as encrypted:
            encrypted.recv(1)

    with Fake(serve) as server, redis(server, "rediss") as client, pytest.raises(ssl.SSLCertVerificationError):
        client.call("PING")


# -- Postgres

READY = b"R\0\0\0\x08\0\0\0\0" + b"K\0\0\0\x0c\0\0\0\1\0\0\0\2" + b"Z\0\0\0\5I"
ONE = b"C\0\0\0\x0dSELECT 1\0" + b"Z\0\0\0\5I"


def select_one(server: Fake, query: str = "?sslmode=disable", password: str = "secret") -> int:
    async def work() -> int:
        url = f"postgresql://ann:{password}@127.0.0.1:{server.port}/shop{query}"
        session = await postgres.connect(url, application_name="it", within=10)
        await session.execute("select 1")
        session.terminate()
        return session.get_server_pid()

    return asyncio.run(work())


@pytest.mark.parametrize(
    ("challenge", "answer"),
    [
        (b"R\0\0\0\x08\0\0\0\3", b"p\0\0\0\x0bsecret\0"),
        (b"R\0\0\0\x0c\0\0\0\5salt", b"p\0\0\0\x28md5b8f5ba9f485dba302ec0963f7ee9ba8f\0"),
    ],
    ids=["clear text", "md5"],
)
def test_the_password_is_sent_in_the_requested_form(challenge, answer):
    sent = []

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(challenge)
        sent.append(connection.recv(65536))
        connection.sendall(READY)
        responding(ONE)(connection)

    with Fake(serve) as server:
        assert select_one(server) == 1
    assert sent == [answer]


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (b"R\0\0\0\x08\0\0\0\7", r"an authentication method that the plugin does not support \(7\)"),
        (b"R\0\0\0\x12\0\0\0\x0aOTHER-1\0\0\0", r"does not support \(10\)"),
        (b"R\0\0\0\x10\0\0\0\x0bnonsense", "127.0.0.1"),
        (b"", "closed the connection"),
    ],
)
def test_a_failed_login_is_reported(response, message):
    with Fake(responding(response)) as server, pytest.raises(ConnectionError, match=message):
        select_one(server)


@pytest.mark.parametrize(
    "query", ["", "?sslmode=require", "?sslmode=verify-full&sslrootcert={ca}", "?sslmode=verify-ca&sslrootcert={ca}"]
)
def test_postgres_is_reached_by_tls(authority, query):
    context, path = authority

    def serve(connection: socket.socket) -> None:
        assert connection.recv(8) == b"\0\0\0\x08\x04\xd2\x16\x2f"
        connection.sendall(b"S")
        with context.wrap_socket(connection, server_side=True) as encrypted:
            responding(READY, ONE)(encrypted)

    with Fake(serve) as server:
        assert select_one(server, query.format(ca=path)) == 1


def test_a_postgres_certificate_of_an_unknown_authority_is_refused(authority):
    context, _ = authority

    def serve(connection: socket.socket) -> None:
        connection.recv(8)
        connection.sendall(b"S")
        with pytest.raises(ssl.SSLError), context.wrap_socket(connection, server_side=True) as encrypted:
            encrypted.recv(1)

    with Fake(serve) as server, pytest.raises(ssl.SSLCertVerificationError):
        select_one(server, "?sslmode=verify-full")


def test_a_session_that_ends_within_a_result_is_closed():
    error = b"SFATAL\0C57P01\0Mterminating connection\0\0"
    message = b"E" + (len(error) + 4).to_bytes(4, "big") + error
    with Fake(responding(READY, message)) as server, pytest.raises(postgres.SessionEnded, match="57P01"):
        select_one(server)
