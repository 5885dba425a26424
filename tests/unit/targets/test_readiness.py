"""Conditions under which a service that starts is ready."""

from __future__ import annotations

import functools
import re
import socket
import threading
from typing import Any

import pytest

from pytest_resilience import Service
from pytest_resilience.targets.readiness import (
    SETTLED,
    CheckedReadiness,
    HttpReadiness,
    LogReadiness,
    RunningReadiness,
    ServiceStart,
    TcpReadiness,
    readiness_of,
)
from pytest_resilience.targets.starting import LoggedPorts
from tests.support.clocks import FakeClock


class Child:
    """A process that has logged a text."""

    def __init__(self, log: str) -> None:
        self.log, self.pid = log, 7

    def log_text(self, since: int = 0) -> str:
        return self.log[since:]

    def processes(self) -> list[int]:
        return []


def start_of(log: str = "", *, begins: int = 0, ports: dict[str, int] | None = None, **arguments: Any) -> ServiceStart:
    child: Any = Child(log)
    return ServiceStart(Service(["shop"], **arguments), child, ports or {"http": 8000, "metrics": 8001}, begins)


@pytest.mark.parametrize(
    ("ready", "kind"),
    [
        ("/readyz", HttpReadiness),
        ("http://127.0.0.1:{metrics}/", HttpReadiness),
        ("http://127.0.0.1:{metrics}", HttpReadiness),
        ("{port}", TcpReadiness),
        (":{metrics}", TcpReadiness),
        ("127.0.0.1:{metrics}", TcpReadiness),
        ("tcp:{port}", TcpReadiness),
        ("tcp://[::1]:{port}", TcpReadiness),
        (8000, TcpReadiness),
        ("worker ready", LogReadiness),
        ("ready on {port}", LogReadiness),
        (re.compile("ready"), LogReadiness),
        (lambda: True, CheckedReadiness),
        (None, RunningReadiness),
    ],
)
def test_each_form_of_ready_is_one_kind_of_condition(ready: Any, kind: type) -> None:
    assert type(readiness_of(start_of(ready=ready), FakeClock(), is_first=True)) is kind


@pytest.mark.parametrize(
    ("log", "expected", "is_ready"),
    [
        ("ready on 8000\n", "ready on {port}", True),
        ("ready on 9000\n", "ready on {port}", False),
        ("a (b\n", "(b", True),
        ("job 12 ready\n", re.compile(r"job \d+ ready"), True),
        ("", "ready", False),
    ],
)
def test_a_text_is_searched_as_it_is_and_a_pattern_as_a_pattern(log: str, expected: Any, is_ready: bool) -> None:
    assert LogReadiness(start_of(log), expected).is_ready() is is_ready


def test_the_log_of_an_earlier_start_does_not_count() -> None:
    old = "ready\n"
    assert not LogReadiness(start_of(old, begins=len(old)), "ready").is_ready()


def test_a_port_that_accepts_is_ready_and_one_that_refuses_is_described() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert TcpReadiness(start_of(), "127.0.0.1", port).is_ready()
    closed = TcpReadiness(start_of(), "127.0.0.1", port)
    assert not closed.is_ready()
    assert closed.describe() == [f"TCP port {port}: ConnectionRefusedError", "it listens on no port"]


def test_a_function_gets_the_start_if_it_takes_an_argument() -> None:
    start, seen = start_of(), list[object]()

    def takes_one(given: object) -> bool:
        seen.append(given)
        return True

    for function in (
        takes_one,
        lambda: True,
        lambda default=1: default,
        functools.partial(takes_one, start),
        list[int],
    ):
        CheckedReadiness(start, function).is_ready()
    assert seen == [start, start]


def test_a_function_that_raises_or_returns_nothing_is_not_ready_and_is_described() -> None:
    def is_up() -> None:
        return None

    nothing = CheckedReadiness(start_of(), is_up)
    assert not nothing.is_ready()
    assert nothing.describe() == ["the function is_up of Service(ready=...) returned None"]
    broken = CheckedReadiness(start_of(), lambda: 1 / 0)
    assert not broken.is_ready()
    assert broken.describe() == [
        "the function <lambda> of Service(ready=...) raised ZeroDivisionError: division by zero"
    ]


def test_only_the_first_process_without_a_condition_has_to_run_for_a_while() -> None:
    clock = FakeClock()
    first, later = RunningReadiness(clock, is_first=True), RunningReadiness(clock, is_first=False)
    assert later.is_ready()
    assert not first.is_ready()
    clock.time += SETTLED
    assert first.is_ready()


@pytest.mark.parametrize(
    ("log", "pattern", "expected"),
    [
        ("on port 41000\n", r"port (\d+)", {"http": 41000, "metrics": 0}),
        ("on port 410", r"port (\d+)", {"http": 0, "metrics": 0}),
        ("port 1\nport 2\n", r"port (\d+)", {"http": 2, "metrics": 0}),
        (
            "port 41000, metrics 41001\n",
            r"port (?P<port>\d+), metrics (?P<metrics>\d+)",
            {"http": 41000, "metrics": 41001},
        ),
        ("http 5\nmetrics 6\n", r"http (?P<http>\d+)|metrics (?P<metrics>\d+)", {"http": 5, "metrics": 6}),
    ],
)
def test_ports_are_read_from_complete_lines(log: str, pattern: str, expected: dict[str, int]) -> None:
    ports = {"http": 0, "metrics": 0}
    condition = LoggedPorts(start_of(log, ports=ports), re.compile(pattern), ports)
    assert condition.is_ready() is all(expected.values())
    assert ports == expected


def test_an_answer_is_read_until_the_service_closes_the_connection() -> None:
    """Otherwise the kernel resets the connection, and the service logs an error and keeps the descriptor for a while."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        reset: list[OSError] = []

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.0 200 OK\r\n" + b"X: long\r\n" * 50)
                try:
                    for _ in range(20):
                        connection.sendall(b"\r\n" * 30_000)
                except OSError as error:
                    reset.append(error)

        thread = threading.Thread(target=serve)
        thread.start()
        readiness = HttpReadiness(start_of(), "127.0.0.1", server.getsockname()[1], "/")
        assert readiness.is_ready()
        thread.join(timeout=5)
        assert not reset


def test_a_service_that_keeps_its_connection_open_is_ready_all_the_same() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted: list[socket.socket] = []

        def serve() -> None:
            accepted.append(server.accept()[0])
            accepted[0].recv(1 << 16)
            accepted[0].sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        assert HttpReadiness(start_of(), "127.0.0.1", server.getsockname()[1], "/").is_ready()
        thread.join(timeout=5)
        accepted[0].close()
