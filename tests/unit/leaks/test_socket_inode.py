"""The lookup of a socket by its two ends."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from pytest_resilience.leaks.socket_inode import socket_inode


@pytest.fixture(params=["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def connection(request: pytest.FixtureRequest) -> Iterator[tuple[str, socket.socket, socket.socket]]:
    """Return the address, the client's end and the server's end of a connection. The third client has an IPv6 socket for IPv4."""
    mapped = request.param.startswith("::ffff:")
    with ExitStack() as stack:
        address = "127.0.0.1" if mapped else request.param
        listener = stack.enter_context(socket.create_server((address, 0), family=_family(address)))
        client = stack.enter_context(socket.socket(_family(request.param)))
        client.connect((request.param, listener.getsockname()[1]))
        server = stack.enter_context(listener.accept()[0])
        yield address, client, server


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def test_each_end_of_a_connection_has_its_inode(connection: tuple[str, socket.socket, socket.socket]):
    address, client, server = connection
    ports = client.getsockname()[1], client.getpeername()[1]
    assert socket_inode(address, *ports) == os.fstat(client.fileno()).st_ino
    assert socket_inode(address, *reversed(ports)) == os.fstat(server.fileno()).st_ino


def test_a_closed_socket_has_none(connection: tuple[str, socket.socket, socket.socket]):
    address, client, server = connection
    ports = client.getsockname()[1], client.getpeername()[1]
    client.close()  # first, so that the system keeps this end in TIME_WAIT
    server.close()
    assert socket_inode(address, *ports) is None


def test_a_host_name_has_none(connection: tuple[str, socket.socket, socket.socket]):
    _, client, _ = connection
    assert socket_inode("localhost", client.getsockname()[1], client.getpeername()[1]) is None


def test_a_system_without_the_lookup_has_none(
    connection: tuple[str, socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
):
    address, client, _ = connection
    monkeypatch.delattr(socket, "AF_NETLINK")
    assert socket_inode(address, client.getsockname()[1], client.getpeername()[1]) is None
