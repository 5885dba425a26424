"""Describe a service that is not ready."""

from __future__ import annotations

import os
import socket

import pytest

from pytest_resilience.targets.not_ready import answer_line, listening, listening_lines
from pytest_resilience.targets.service_spec import Service

ASKED = "GET /readyz on port 1: ConnectionRefusedError"
PORTS = {"http": 1, "metrics": 2}


def test_the_ports_that_processes_listen_on_are_listed_and_dead_processes_are_no_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert f"127.0.0.1:{port}" in listening([os.getpid(), 2**22 + 1])


def test_a_service_on_another_address_of_its_port_is_recognised() -> None:
    with socket.create_server(("127.0.0.2", 0)) as server:
        port = server.getsockname()[1]
        _, seen = listening_lines(Service(["shop"]), {"http": port}, ("127.0.0.1", port), ASKED, [os.getpid()])
        assert f"127.0.0.2:{port}" in seen
        assert seen.endswith(f"the request went to 127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("service", "port", "expected"),
    [
        (
            Service(["shop"]),
            1,
            "not on 1, the value of PORT; Service(port_variable=...) names the variable that it reads",
        ),
        (
            Service(["shop"], port_variable=None),
            1,
            "not on 1, the port 'http'; {port} in the command or in a value of env is its number",
        ),
        (
            Service(["shop"]),
            2,
            "not on 2, the port 'metrics'; {metrics} in the command or in a value of env is its number",
        ),
        (Service(["shop"]), 3, "not on 3"),
    ],
)
def test_a_service_on_another_port_is_shown_how_it_gets_its_own(service: Service, port: int, expected: str) -> None:
    with socket.create_server(("127.0.0.1", 0)):
        _, seen = listening_lines(service, PORTS, ("127.0.0.1", port), ASKED, [os.getpid()])
        assert seen.endswith(expected)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (404, "answered 404 Not Found; does the service have the path of Service(ready=...)?"),
        (500, "answered 500 Internal Server Error; 2xx and 3xx mean ready"),
        (799, "answered 799; 2xx and 3xx mean ready"),
    ],
)
def test_the_response_of_the_service_is_described(status: int, expected: str) -> None:
    assert answer_line("GET /readyz on port 1", status) == f"GET /readyz on port 1 {expected}"


def test_a_service_without_a_listening_port_is_described() -> None:
    assert listening_lines(Service(["shop"]), PORTS, ("127.0.0.1", 1), ASKED, []) == [ASKED, "it listens on no port"]
