"""Addresses as Go reads them."""

from __future__ import annotations

import re

import pytest

from pytest_resilience.proxy.address import AddressError, join_host_port, resolve_listen_address, split_host_port


@pytest.mark.parametrize(
    ("text", "parts"),
    [("", ("", "")), (":80", ("", "80")), ("h:1", ("h", "1")), ("[::1]:2", ("::1", "2")), ("h:", ("h", ""))],
)
def test_split(text: str, parts: tuple[str, str]) -> None:
    assert split_host_port(text) == parts


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
        resolve_listen_address(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost:80", "127.0.0.1:80"),
        ("127.0.0.1:", "127.0.0.1:0"),
        ("[::1]:80", "[::1]:80"),
        ("0.0.0.0:80", "[::]:80"),
        (":80", "[::]:80"),
        ("unix:/a/b", "unix:/a/b"),
    ],
)
def test_resolved(text: str, expected: str) -> None:
    assert str(resolve_listen_address(text)) == expected


def test_show() -> None:
    assert (join_host_port("a", 1), join_host_port("::1", 1)) == ("a:1", "[::1]:1")
