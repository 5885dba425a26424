"""The client of MySQL, with servers of a few lines: the logins that a MariaDB of the contract tests does not demand."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import trustme

from pytest_resilience.backends.backend import Address
from pytest_resilience.systems.mysql import protocol
from pytest_resilience.systems.mysql.client import Connection
from tests.unit.systems.test_mysql_protocol import CAPABILITIES, SCRAMBLE, greeting

OK = b"\0\0\0\x02\0\0\0"
Peer = Callable[["Server"], None]


class Server:
    """One connection of a server."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.number = 0

    def send(self, payload: bytes) -> None:
        self.connection.sendall(protocol.packet(self.number, payload))
        self.number += 1

    def receive(self) -> bytes:
        head = self._read(4)
        assert head[3] == self.number, "packets are numbered"
        self.number += 1
        return self._read(int.from_bytes(head[:3], "little"))

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = self.connection.recv(size - len(data))
            assert chunk, "the client is still there"
            data += chunk
        return data


@contextmanager
def serving(peer: Peer) -> Iterator[Address]:
    """Serve one connection, and pass on what the server asserts."""
    failures: list[Exception] = []

    def serve() -> None:
        try:
            connection, _ = listener.accept()
            connection.settimeout(5)
            server = Server(connection)
            try:
                peer(server)
            finally:
                server.connection.close()
        except (AssertionError, OSError) as failure:
            failures.append(failure)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        thread = threading.Thread(target=serve)
        thread.start()
        yield Address(*listener.getsockname())
        thread.join(5)
    assert not failures, failures


def proof(plugin: str, scramble: bytes = SCRAMBLE) -> bytes:
    return protocol.proof(plugin, "secret", scramble)


def test_mysql_gets_the_password_inside_of_tls() -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("elsewhere.test").configure_cert(context)

    def peer(server: Server) -> None:
        server.send(greeting("8.4.3", protocol.CACHING_SHA2, CAPABILITIES | protocol.TLS))
        assert server.receive() == protocol.tls_request()
        server.connection = context.wrap_socket(server.connection, server_side=True)
        assert proof(protocol.CACHING_SHA2) in server.receive()
        server.send(b"\x01\x04")
        assert server.receive() == b"secret\0"
        server.send(OK)

    with serving(peer) as address:
        connection = Connection(address, "root", "secret")
        assert connection.version == "8.4.3"
        connection.close()


def test_mysql_that_remembers_the_user_needs_the_proof_only() -> None:
    def peer(server: Server) -> None:
        server.send(greeting("8.4.3", protocol.CACHING_SHA2))
        server.receive()
        server.send(b"\x01\x03")
        server.send(OK)

    with serving(peer) as address:
        Connection(address, "root", "secret").close()


def test_the_password_is_not_sent_without_tls() -> None:
    def peer(server: Server) -> None:
        server.send(greeting("8.4.3", protocol.CACHING_SHA2))
        server.receive()
        server.send(b"\x01\x04")
        assert server.connection.recv(100) == b""

    with (
        serving(peer) as address,
        pytest.raises(ConnectionError, match="demands TLS for this login and does not offer it"),
    ):
        Connection(address, "root", "secret")


def test_a_server_can_demand_another_method() -> None:
    other = b"ABCDEFGHIJKLMNOPQRST"

    def peer(server: Server) -> None:
        server.send(greeting("11.4.2-MariaDB", protocol.CACHING_SHA2))
        server.receive()
        server.send(b"\xfe" + protocol.NATIVE_PASSWORD.encode() + b"\0" + other + b"\0")
        assert server.receive() == proof(protocol.NATIVE_PASSWORD, other)
        server.send(OK)

    with serving(peer) as address:
        Connection(address, "root", "secret").close()


def test_a_refused_login_is_an_error_without_the_password() -> None:
    def peer(server: Server) -> None:
        server.send(greeting("10.11.6-MariaDB", protocol.NATIVE_PASSWORD))
        server.receive()
        server.send(b"\xff\x15\x04#28000Access denied")

    with serving(peer) as address, pytest.raises(protocol.ServerError, match="Access denied") as refused:
        Connection(address, "root", "secret")
    assert "secret" not in str(refused.value)


def test_a_server_that_closes_is_an_error_of_the_connection() -> None:
    with serving(lambda _: None) as address, pytest.raises(ConnectionError, match="the server has closed"):
        Connection(address, "root", "secret")
