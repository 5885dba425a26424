from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from pytest_resilience.closing_connections import wait_until_closed


@pytest.fixture
def accepted() -> Iterator[tuple[int, socket.socket]]:
    """The port of a server, and its end of a connection that the client has closed."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        client = socket.create_connection(listener.getsockname())
        connection = stack.enter_context(listener.accept()[0])
        client.close()
        yield listener.getsockname()[1], connection


def test_waits_for_the_server_to_close(accepted):
    port, connection = accepted
    closer = threading.Timer(0.05, connection.close)
    closer.start()
    wait_until_closed({port}, within=10)
    assert connection.fileno() == -1
    closer.join()


def test_a_connection_that_stays_ends_the_wait(accepted):
    port, connection = accepted
    begun = time.monotonic()
    wait_until_closed({port}, within=0.02)
    assert time.monotonic() - begun >= 0.02
    assert connection.fileno() != -1


def test_other_ports_do_not_matter(accepted):
    port, _ = accepted
    begun = time.monotonic()
    wait_until_closed({port + 1}, within=60)
    assert time.monotonic() - begun < 60
