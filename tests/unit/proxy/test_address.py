"""Addresses as Go reads them."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest

from pytest_resilience.proxy.address import Address, AddressError, Listener, resolve, show, split


@pytest.mark.parametrize(
    ("text", "parts"),
    [("", ("", "")), (":80", ("", "80")), ("h:1", ("h", "1")), ("[::1]:2", ("::1", "2")), ("h:", ("h", ""))],
)
def test_split(text: str, parts: tuple[str, str]) -> None:
    assert split(text) == parts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "address nonsense: missing port in address"),
        ("[::1]", "address [::1]: missing port in address"),
        ("[::1:80", "address [::1:80: missing ']' in address"),
        ("::1:80", "address ::1:80: too many colons in address"),
        ("127.0.0.1:99999", "address 99999: invalid port"),
        ("127.0.0.1:-1", "address -1: invalid port"),
        ("127.0.0.1:notaport", "lookup tcp/notaport: unknown port"),
        ("no.such.host.invalid:80", "lookup no.such.host.invalid: no such host"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(AddressError, match=f"^{re.escape(message)}$"):
        resolve(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("localhost:80", "127.0.0.1:80"),
        ("127.0.0.1:", "127.0.0.1:0"),
        ("[::1]:80", "[::1]:80"),
        ("0.0.0.0:80", "[::]:80"),
        (":80", "[::]:80"),
        ("unix:/a/b", "unix:/a/b"),
    ],
)
def test_resolved(text: str, shown: str) -> None:
    assert str(resolve(text)) == shown


def test_show() -> None:
    assert (show("a", 1), show("::1", 1)) == ("a:1", "[::1]:1")


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener(Address(socket.AF_INET, "127.0.0.1", 0))
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
    listener.step_aside()
    Listener(Address(socket.AF_INET6, "::", listener.address.port)).close()
    listener.step_back(listening=True)
    socket.create_connection(listener.address.sockaddr, 1).close()


def test_port_in_use_says_so_in_gos_words(listener: Listener) -> None:
    listener.listen()
    with pytest.raises(AddressError) as caught:
        Listener(listener.address)
    assert str(caught.value) == f"listen tcp {listener.address}: bind: address already in use"
