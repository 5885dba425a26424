"""The proxy of TCP systems on the docker backend, which is a process of this machine and needs no engine."""

from __future__ import annotations

import socket

from pytest_resilience.backends.docker.backend import DockerBackend
from pytest_resilience.proxy_client.client import ToxiproxyClient
from pytest_resilience.proxy_client.handle import create_proxy
from tests.support.backends import listening
from tests.support.waiting import until


def test_a_proxy_of_this_machine_reaches_its_loopback_and_ends_with_the_session() -> None:
    backend = DockerBackend()
    backend._open()
    try:
        api = backend.tcp_api()
        assert backend.tcp_api() == api, "one for all systems"
        client = ToxiproxyClient(*api)
        with socket.create_server(("127.0.0.1", 0)) as upstream:
            handle = create_proxy(
                client, "echo", backend.tcp_listen_address(), f"127.0.0.1:{upstream.getsockname()[1]}"
            )
            with socket.create_connection(backend.tcp_client_address(handle.listen), timeout=5) as connection:
                accepted, _ = upstream.accept()
                with accepted:
                    connection.sendall(b"x")
                    assert accepted.recv(1) == b"x"
        assert handle.counters().accepted.connections == 1, "exact receipts"
        client.close()
    finally:
        backend.close()
    until(lambda: not listening(api.port))
