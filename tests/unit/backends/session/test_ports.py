"""Free ports."""

import socket

import pytest

from pytest_resilience.backends.session import ports


def test_ports_are_below_those_of_outgoing_connections():
    found = {ports.free_port() for _ in range(50)}
    assert all(10000 <= port < 32768 for port in found)
    assert len(found) > 40, "sessions that start at once must not all try the same"


def test_a_port_in_use_is_passed_over(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(ports, "FIRST", taken.getsockname()[1])
        monkeypatch.setattr(ports, "LAST", taken.getsockname()[1])
        with pytest.raises(OSError, match="no free port"):
            ports.free_port()
