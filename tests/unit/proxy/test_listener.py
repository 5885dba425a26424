"""A listener that keeps its port while it refuses."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from pytest_resilience.proxy.address import AddressError, SocketAddress
from pytest_resilience.proxy.listener import Listener


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener(SocketAddress(socket.AF_INET, "127.0.0.1", 0))
    yield listener
    listener.close()


def test_listener_refuses_keeps_its_port_and_listens_again(listener: Listener) -> None:
    address = listener.address.sockaddr
    listener.listen()
    listener.refuse()
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, 1)
        with pytest.raises(AddressError, match="in use"):
            Listener(listener.address)
        listener.listen()
        socket.create_connection(address, 1).close()
        listener.refuse()


def test_listener_that_steps_aside_lets_another_one_bind(listener: Listener) -> None:
    listener.listen()
    listener.yield_port()
    Listener(SocketAddress(socket.AF_INET6, "::", listener.address.port)).close()
    listener.reclaim_port(listening=True)
    socket.create_connection(listener.address.sockaddr, 1).close()


def test_port_in_use_is_an_error_in_gos_words(listener: Listener) -> None:
    listener.listen()
    with pytest.raises(AddressError) as caught:
        Listener(listener.address)
    assert str(caught.value) == f"listen tcp {listener.address}: bind: address already in use"
