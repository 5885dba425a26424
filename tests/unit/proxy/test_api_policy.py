"""Requests that a web page may have made are refused, and so are bodies that name a path."""

from __future__ import annotations

import _socket
import socket
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from pytest_resilience.proxy.api_policy import CrossOriginProtection, refuse_paths
from pytest_resilience.wire.api_error import ApiError
from pytest_resilience.wire.go_json import decode
from pytest_resilience.wire.toxiproxy import read_proxy


@pytest.fixture
def listener() -> Iterator[_socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def refused(guard: CrossOriginProtection, target: str = "/", **headers: str) -> bool:
    sent = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return bool(guard.refusal(sent, target))


@pytest.mark.parametrize(
    ("host", "taken"),
    [
        ("localhost", True),
        ("LocalHost.:80", True),
        ("127.0.0.1", True),
        ("127.255.0.1:5", True),
        ("[::1]:5", True),
        ("[::1]", True),
        ("[::ffff:127.0.0.1]:5", True),
        ("toxi.test:5", True),
        ("Toxi.Test", True),
        ("", False),
        (":80", False),
        ("localhost:", False),
        ("localhost:x", False),
        ("localhost:\xb2", False),
        ("localhost:123456", False),
        ("local host", False),
        ("localhost,evil.example", False),
        ("user@localhost", False),
        ("[localhost]", False),
        ("[::2]", False),
        ("::1", False),
        ("0x7f000001", False),
        ("2130706433", False),
        ("127.1", False),
        ("127.evil.example", False),
        ("sub.localhost", False),
        ("0.0.0.0", False),
        ("[::]", False),
        ("toxi.test.evil.example", False),
        ("\xff", False),
    ],
)
def test_host_is_loopback_or_the_named_host(listener: _socket.socket, host: str, taken: bool) -> None:
    assert refused(CrossOriginProtection("toxi.test", listener), host=host) is not taken


def test_a_request_of_http_1_0_needs_no_host(listener: _socket.socket) -> None:
    assert not refused(CrossOriginProtection("localhost", listener))


@pytest.mark.parametrize(("target", "taken"), [("http://localhost/x", True), ("http://evil.example/x", False), ("http://evil.example?localhost", False),
                                               ("/x?http://evil.example/", True), ("ftp://evil.example", False), ("http:///x", False)])  # fmt: skip
def test_the_host_of_a_whole_url_is_looked_at(listener: _socket.socket, target: str, taken: bool) -> None:
    assert refused(CrossOriginProtection("localhost", listener), target, host="localhost") is not taken


@pytest.mark.parametrize("origin", ["null", "", "http://evil.example", "http://localhost:{other}", "https://localhost:{port}", "localhost:{port}",
                                    "http://localhost", "http://localhost:{port}/x", "http://localhost:{port}.evil.example", "*"])  # fmt: skip
def test_an_origin_that_is_not_the_apis_own_is_refused(listener: _socket.socket, origin: str) -> None:
    port = listener.getsockname()[1]
    sent = origin.format(port=port, other=port + 1)
    assert refused(CrossOriginProtection("localhost", listener), host=f"localhost:{port}", origin=sent)


@pytest.mark.parametrize("origin", ["http://localhost:{port}", "http://127.0.0.1:{port}", "http://[::1]:{port}"])
def test_the_apis_own_origin_is_taken(listener: _socket.socket, origin: str) -> None:
    port = listener.getsockname()[1]
    assert not refused(
        CrossOriginProtection("localhost", listener), host=f"localhost:{port}", origin=origin.format(port=port)
    )


def test_each_of_several_origins_counts(listener: _socket.socket) -> None:
    guard = CrossOriginProtection("localhost", listener)
    own = f"http://localhost:{listener.getsockname()[1]}".encode()
    assert guard.refusal([(b"host", b"localhost"), (b"origin", own), (b"origin", b"null")], "/")


@pytest.mark.parametrize(("site", "taken"), [("none", True), ("same-origin", True), ("same-site", False), ("cross-site", False), ("", False)])  # fmt: skip
def test_sec_fetch_site_of_another_page_is_refused(listener: _socket.socket, site: str, taken: bool) -> None:
    assert refused(CrossOriginProtection("localhost", listener), host="localhost", sec_fetch_site=site) is not taken


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::"])
def test_for_all_interfaces_any_host_is_taken_and_only_an_origin_of_loopback(
    listener: _socket.socket, host: str
) -> None:
    guard = CrossOriginProtection(host, listener)
    assert not refused(guard, host="toxiproxy:8474")
    assert refused(guard, host="toxiproxy:8474", origin="http://toxiproxy:8474")


EXISTING = SimpleNamespace(  # what a proxy of the config file shows
    listen="unix:/a",
    upstream=SimpleNamespace(text="unix:/b"),
    tls=SimpleNamespace(as_json={"client": {"cert": "/c", "key": "/k"}}),
)


@pytest.mark.parametrize(
    "body",
    [
        '{"listen":"unix:/a"}',
        '{"upstream":"unix:/b"}',
        '{"tls":{"client":{"cert":"/c","key":"/k"}}}',
        '{"tls":null}',
        '{"tls":{"upstream":{"verify":false,"alpn":["x"],"server_name":"y"}}}',
        '{"listen":"127.0.0.1:0","upstream":"UNIX:/x"}',
        "{}",
    ],
)
def test_a_proxys_own_paths_may_be_repeated_or_removed(body: str) -> None:
    refuse_paths(read_proxy(decode(body.encode())), EXISTING)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "body",
    [
        '{"listen":"unix:/b"}',
        '{"upstream":"unix:/a"}',
        '{"LISTEN":"unix:/other"}',
        '{"listen":"127.0.0.1:0","listen":"unix:/x"}',
        '{"tls":{"client":{"cert":"/c","key":"/other"}}}',
        '{"tls":{"client":{"cert":"/c","key":"/k","ca":"/x"}}}',
        '{"TLS":{"Client":{"Cert":"/c2","KEY":"/k"}}}',
    ],
)
def test_another_path_is_refused(body: str) -> None:
    with pytest.raises(ApiError, match=r"-allow-paths"):
        refuse_paths(read_proxy(decode(body.encode())), EXISTING)  # type: ignore[arg-type]
