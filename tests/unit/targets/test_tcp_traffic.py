"""TCP traffic to a service is certainly present, certainly absent, or unknown."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest

from pytest_resilience.targets.process_tree import ForeignProcessTree
from pytest_resilience.targets.tcp_traffic import TcpTraffic
from tests.support.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sock_diag is Linux'")

SERVER = """
import socket
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    while True:
        with server.accept()[0] as connection:
            try:
                while data := connection.recv(100):
                    connection.sendall(data)
            except ConnectionResetError:
                continue
"""
RESET = b"\1\0\0\0\0\0\0\0"


@pytest.fixture
def server() -> Iterator[tuple[ForeignProcessTree, int]]:
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield ForeignProcessTree(psutil.Process(process.pid)), int(process.stdout.readline())
        process.kill()


def echo(connection: socket.socket) -> None:
    connection.sendall(b"word")
    assert connection.recv(100) == b"word"


def visit(port: int, *, reset: bool = False) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        echo(connection)
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def is_quiet(tree: ForeignProcessTree) -> bool:
    traffic = TcpTraffic(tree)
    try:
        return traffic.none()
    finally:
        traffic.close()


def quiet(tree: ForeignProcessTree) -> TcpTraffic:
    """Return the traffic from a moment on at which its absence is certain.

    Other programs may overflow the kernel's notices before.
    """

    def attempt() -> TcpTraffic | None:
        traffic = TcpTraffic(tree)
        if traffic.none():
            return traffic
        traffic.close()
        return None

    return until(attempt, within=20)


def test_without_traffic_the_absence_is_certain(server: tuple[ForeignProcessTree, int]) -> None:
    tree, port = server
    for _ in range(5):
        visit(port)  # the kernel may report its end late; then nothing is certain
        assert until(lambda: is_quiet(tree), within=20)


@pytest.mark.parametrize("come", [visit, lambda port: visit(port, reset=True)], ids=["closed", "reset"])
def test_a_connection_between_two_samples_is_detected(
    server: tuple[ForeignProcessTree, int], come: Callable[[int], None]
) -> None:
    tree, port = server
    for _ in range(20):
        traffic = TcpTraffic(tree)
        come(port)
        assert not traffic.none()
        assert not traffic.none(), "once is enough"
        traffic.close()


def test_data_on_an_existing_connection_is_detected(server: tuple[ForeignProcessTree, int]) -> None:
    tree, port = server
    with socket.create_connection(("127.0.0.1", port)) as connection:
        echo(connection)
        traffic = quiet(tree)
        echo(connection)
        assert not traffic.none()
        traffic.close()


def test_a_connection_that_is_not_accepted_is_detected(server: tuple[ForeignProcessTree, int]) -> None:
    tree, port = server
    with socket.create_connection(("127.0.0.1", port)) as first:
        echo(first)
        traffic = quiet(tree)
        with socket.create_connection(("127.0.0.1", port)):  # the server is busy with the first one
            assert not traffic.none()
        traffic.close()


def test_without_a_listening_port_the_absence_of_traffic_is_unknown() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        traffic = TcpTraffic(ForeignProcessTree(psutil.Process(process.pid)))
        assert not traffic.none()
        traffic.close()
        process.kill()


def test_many_connections_of_other_programs_are_no_traffic(server: tuple[ForeignProcessTree, int]) -> None:
    """The kernel reports the sockets of all programs, so their number must not overflow the buffer."""
    number = 400 if os.geteuid() == 0 else 40  # root may have a larger buffer
    tree, _ = server
    with socket.create_server(("127.0.0.1", 0)) as listener:
        traffic = quiet(tree)
        for _ in range(number):
            socket.create_connection(listener.getsockname()).close()
            listener.accept()[0].close()
        assert traffic.none()
        traffic.close()
