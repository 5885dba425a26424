"""Describe a service that is not ready."""

from __future__ import annotations

import os
import socket

import pytest

from pytest_resilience.targets.not_ready import describe_state, listening
from pytest_resilience.targets.service_spec import Service

SPEC = Service(["shop"], ready="/readyz")


def test_the_ports_that_processes_listen_on_are_listed_and_dead_processes_are_no_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert f"127.0.0.1:{port}" in listening([os.getpid(), 2**22 + 1])


def test_a_service_on_another_address_of_its_port_is_recognised() -> None:
    with socket.create_server(("127.0.0.2", 0)) as server:
        port = server.getsockname()[1]
        request, seen = describe_state(SPEC, port, "ConnectionRefusedError", [os.getpid()])
        assert request == f"GET /readyz on port {port}: ConnectionRefusedError"
        assert f"127.0.0.2:{port}" in seen
        assert seen.endswith(f"the request went to 127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (404, "answered 404 Not Found; does the service have the path of Service(ready=...)?"),
        (500, "answered 500 Internal Server Error; 2xx and 3xx mean ready"),
        (799, "answered 799; 2xx and 3xx mean ready"),
    ],
)
def test_the_response_of_the_service_is_described(status: int, expected: str) -> None:
    assert describe_state(SPEC, 1, status, []) == [f"GET /readyz on port 1 {expected}"]


def test_a_service_without_a_listening_port_is_described() -> None:
    assert describe_state(SPEC, 1, "ConnectionRefusedError", []) == [
        "GET /readyz on port 1: ConnectionRefusedError",
        "it listens on no port",
    ]
