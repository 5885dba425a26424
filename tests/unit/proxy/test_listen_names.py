"""A name to listen on is looked up without keeping anything else waiting."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import pytest

from pytest_resilience.proxy.address import AddressError
from pytest_resilience.proxy.api_connection import REQUEST_TIMEOUT

from .test_hostile_requests import PATIENCE, Server, _body, _request


class SlowNames:
    """A resolver that waits until the test lets it answer."""

    def __init__(self) -> None:
        self.lookups: list[str] = []
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def find(self, host: str) -> list[tuple[int, str]]:
        self.lookups.append(host)
        self.begun.set()
        assert self.go_on.wait(PATIENCE)
        if host.startswith("no"):
            raise AddressError(f"lookup {host}: no such host")
        return [(socket.AF_INET, "127.0.0.1")]


@pytest.fixture
def names() -> SlowNames:
    return SlowNames()


@pytest.fixture
def server(names: SlowNames) -> Iterator[Server]:
    server = Server()
    server.runtime.resolver._lookup_host = names.find
    yield server
    names.go_on.set()
    server.close()
    assert server.problems == []


def ask_slowly(server: Server, names: SlowNames, method: str, route: str, body: object) -> bytes:
    """Return the response to a request that needs a look-up, while the API answers other requests."""
    with socket.create_connection(server.address, PATIENCE) as client:
        client.sendall(_request(method, route, json.dumps(body).encode()))
        assert names.begun.wait(PATIENCE)
        assert server.status("GET", "/version") == 200
        assert server.relays()
        names.go_on.set()
        answer = bytearray()
        while part := client.recv(65536):
            answer += part
        return bytes(answer)


@pytest.mark.parametrize(
    ("method", "route", "status"), [("POST", "/proxies", 201), ("PATCH", "/proxies/p", 200), ("POST", "/populate", 201)]
)
def test_nothing_waits_for_the_name_of_a_listener(
    server: Server, names: SlowNames, method: str, route: str, status: int
) -> None:
    body: object = {"name": "n", "listen": "slow.example:0", "upstream": "127.0.0.1:1"}
    answer = ask_slowly(server, names, method, route, [body] if route == "/populate" else body)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b'"listen":"127.0.0.1:' in _body(answer)
    assert names.lookups == ["slow.example"]


def test_two_names_are_looked_up_one_after_the_other(server: Server, names: SlowNames) -> None:
    bodies = [{"name": name, "listen": f"{name}.example:0", "upstream": "u:1"} for name in ("a", "b", "a")]
    assert ask_slowly(server, names, "POST", "/populate", bodies).startswith(b"HTTP/1.1 201 ")
    assert names.lookups == ["a.example", "b.example"]


def test_a_name_that_is_none_is_gos_500_and_changes_nothing(server: Server, names: SlowNames) -> None:
    answer = ask_slowly(server, names, "POST", "/proxies", {"name": "n", "listen": "no.example:0", "upstream": "u:1"})
    assert _body(answer) == b'{"error":"listen tcp: lookup no.example: no such host","status":500}\n'
    assert list(server.proxies.by_name) == ["p"]


def test_reset_looks_up_the_name_of_a_proxy_that_never_listened(server: Server, names: SlowNames) -> None:
    body = {"name": "n", "listen": "slow.example:0", "upstream": "u:1", "enabled": False}
    assert server.status("POST", "/proxies", json.dumps(body).encode()) == 201
    assert ask_slowly(server, names, "POST", "/reset", None).startswith(b"HTTP/1.1 204 ")
    assert server.proxies.by_name["n"].enabled


def test_requests_behind_it_on_the_connection_are_answered_in_order(server: Server, names: SlowNames) -> None:
    body = json.dumps({"name": "n", "listen": "slow.example:0", "upstream": "u:1"}).encode()
    first = _request("POST", "/proxies", body).replace(b"Connection: close\r\n", b"")
    with socket.create_connection(server.address, PATIENCE) as client:
        client.sendall(first + _request("GET", "/proxies/n"))
        assert names.begun.wait(PATIENCE)
        names.go_on.set()
        answer = bytearray()
        while part := client.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert answer.count(b"HTTP/1.1 200 OK") == 1


def test_client_past_its_deadline_is_closed_and_the_result_discarded(server: Server, names: SlowNames) -> None:
    body = json.dumps({"name": "n", "listen": "slow.example:0", "upstream": "u:1"}).encode()
    with socket.create_connection(server.address, PATIENCE) as client:
        client.sendall(_request("POST", "/proxies", body))
        assert names.begun.wait(PATIENCE)
        clock, passed = server.loop.now, threading.Event()
        server.loop.now = lambda: clock() + (REQUEST_TIMEOUT + 1 if passed.is_set() else 0)
        passed.set()
        assert server.status("GET", "/version") == 200  # wakes the loop up
        assert client.recv(1) == b""
    names.go_on.set()
    assert server.status("GET", "/proxies/n") == 404
