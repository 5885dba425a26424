"""Upstreams of TCP systems as text."""

from __future__ import annotations

import pytest

from pytest_resilience.errors import SetupError
from pytest_resilience.targets.tcp_upstream import TcpUpstream, read_hosts, read_upstream


@pytest.mark.parametrize(
    ("text", "address", "url"),
    [
        ("127.0.0.1:9000", "127.0.0.1:9000", "http://h:1"),
        ("127.9.9.9:9000", "127.9.9.9:9000", "http://h:1"),
        ("LocalHost:80", "localhost:80", "http://h:1"),
        ("[::1]:9000", "[::1]:9000", "http://h:1"),
        ("http://127.0.0.1/v1?a=b#c", "127.0.0.1:80", "http://h:1/v1?a=b#c"),
        ("https://localhost", "localhost:443", "https://h:1"),
        ("amqp://u:p%40w@127.0.0.1:5672/vhost", "127.0.0.1:5672", "amqp://u:p%40w@h:1/vhost"),
        ("mysql://[::1]:3306/shop", "[::1]:3306", "mysql://h:1/shop"),
    ],
)
def test_host_port_and_urls_are_read(text: str, address: str, url: str) -> None:
    found = read_upstream("payments", text, ())
    assert (found.address, found.url("h", 1)) == (address, url)


def test_the_url_of_an_ipv6_proxy_has_brackets() -> None:
    assert TcpUpstream("localhost", 1).url("::1", 2) == "http://[::1]:2"


@pytest.mark.parametrize(
    "wrong",
    [
        9000,
        None,
        b"127.0.0.1:9000",
        "",
        "9000",
        ":9000",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:http",
        "127.0.0.1:9000/v1",
        "127.0.0.1: 9000",
        "redis://127.0.0.1",
        "unix:/run/x.sock",
        "http://:80",
    ],
)
def test_what_is_no_address_is_an_error_that_shows_the_form(wrong: object) -> None:
    with pytest.raises(SetupError, match=r"payments: the upstream must be host:port, such as '127\.0\.0\.1:9000'"):
        read_upstream("payments", wrong, ())


def test_the_password_of_a_wrong_upstream_is_not_shown() -> None:
    with pytest.raises(SetupError) as caught:
        read_upstream("payments", "amqp://user:hunter2hunter2@host", ())
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("host", ["api.test", "10.0.0.7", "[fe80::1]", "0.0.0.0", "128.0.0.1", "localhost.test"])
def test_a_host_beyond_loopback_has_to_be_named(host: str) -> None:
    with pytest.raises(SetupError, match="resilience_hosts"):
        read_upstream("payments", f"{host}:9000", read_hosts(["other.test"]))
    assert read_upstream("payments", f"{host.upper()}:9000", read_hosts([host])).address == f"{host}:9000"


@pytest.mark.parametrize("wrong", ["http://api.test", "api.test:80", "", " ", "*", "*.test", "a b", 7])
def test_what_is_no_host_is_an_error(wrong: object) -> None:
    with pytest.raises(SetupError, match="resilience_hosts: must be a host without scheme and port"):
        read_hosts([wrong])


def test_a_text_is_no_list_of_hosts() -> None:
    with pytest.raises(SetupError, match=r"such as \['api.test'\]"):
        read_hosts("api.test")
