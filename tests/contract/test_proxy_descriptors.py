"""The API answers when descriptors run out, nothing spins, and clients without room wait."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable

import psutil
import pytest

from pytest_resilience import eventually

from .conftest import PATIENCE, ProxyHandle, Server, take
from .test_proxy_data import gone

pytestmark = pytest.mark.addition

LIMIT = 200


@pytest.fixture
def small(own_server: Server, make_proxy: Callable[..., ProxyHandle]) -> ProxyHandle:
    """A proxy in a process with a limit of descriptors that was lowered after the start."""
    proxy = make_proxy(own_server)
    resource.prlimit(own_server.process.pid, resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
    return proxy


@pytest.fixture
def crowd(small: ProxyHandle) -> list[socket.socket]:
    """Connect more clients than the proxy has descriptors for, and keep them."""
    clients = [small.dial() for _ in range(LIMIT)]
    process = psutil.Process(small.server.process.pid)
    assert eventually(lambda: process.num_fds() >= LIMIT - 2, within=PATIENCE)
    return clients


def test_api_answers_while_clients_have_taken_all_descriptors(small: ProxyHandle, crowd: list[socket.socket]) -> None:
    for _ in range(3):
        # A new connection each, as most clients of the API make it; 30 that stay, as pools do
        others = [socket.create_connection(small.server.address.rsplit(":", 1), PATIENCE) for _ in range(30)]
        with socket.create_connection(small.server.address.rsplit(":", 1), PATIENCE) as client:
            client.sendall(b"GET /proxies HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 200"
        for each in others:
            each.close()


def test_process_without_descriptors_does_not_spin(small: ProxyHandle, crowd: list[socket.socket]) -> None:
    process = psutil.Process(small.server.process.pid)
    with socket.create_connection(small.server.address.rsplit(":", 1), PATIENCE) as client:
        before, begun = sum(process.cpu_times()[:2]), time.monotonic()
        client.settimeout(1.0)
        with pytest.raises(TimeoutError):
            client.recv(1)
        share = (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - begun)
    assert share < 0.3, f"the process used {share:.0%} of a core while nothing could be done"


def test_client_without_room_is_served_as_soon_as_another_leaves(
    small: ProxyHandle, crowd: list[socket.socket]
) -> None:
    for client in crowd[:-1]:
        client.close()
    crowd[-1].sendall(b"late")
    while True:
        served = small.accept()
        if take(served, 4) == b"late":
            break
        served.close()  # a client that has left is half-closed until the upstream ends its half too


def test_refusal_that_begins_while_clients_wait_for_room_stays(small: ProxyHandle, crowd: list[socket.socket]) -> None:
    assert small.call("POST", "", {"refuse_after": 0}).status == 200
    for client in crowd:
        client.close()
    deadline = time.monotonic() + 0.3  # six times the pause after which a listener tries again
    while time.monotonic() < deadline:
        with pytest.raises(ConnectionRefusedError):
            small.dial()


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "0.0.0.0:0"])
def test_proxy_that_leads_to_itself_closes_its_clients_and_takes_no_descriptors(
    own_server: Server, listen: str
) -> None:
    made = own_server.call("POST", "/proxies", {"name": "self", "listen": listen, "upstream": "127.0.0.1:1"})
    port = int(made.json["listen"].rsplit(":", 1)[1])
    own_server.call("POST", "/proxies/self", {"upstream": f"localhost:{port}"})
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        assert gone(client) in ("end", "reset")
    assert own_server.call("GET", "/proxies/self/counters").json["accepted"]["count"] == 1


def test_circle_of_proxies_is_cut_and_a_chain_is_not(own_server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        port = upstream.getsockname()[1]
        for name in "abc":
            body = {"name": name, "listen": "127.0.0.1:0", "upstream": f"127.0.0.1:{port}"}
            listen = own_server.call("POST", "/proxies", body).json["listen"]
            port = int(listen.rsplit(":", 1)[1])
        for _ in range(2):  # the second time after the first one's ports were forgotten
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
                served, _ = upstream.accept()
                with served:
                    client.sendall(b"through three")
                    assert take(served, 13) == b"through three"
    own_server.call("POST", "/proxies/a", {"upstream": listen})
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        assert gone(client) in ("end", "reset")
    assert own_server.call("GET", "/proxies/a/counters").json["accepted"]["count"] == 3
