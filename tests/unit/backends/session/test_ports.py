"""Free ports."""

import socket

import pytest

from pytest_resilience.backends.session import ports


def test_ports_are_below_those_of_outgoing_connections():
    found = {ports.free_port() for _ in range(50)}
    assert all(10000 <= port < 32768 for port in found)
    assert len(found) > 40, "sessions that start at once must not all try the same"


def test_a_port_in_use_is_skipped(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(ports, "FIRST", taken.getsockname()[1])
        monkeypatch.setattr(ports, "LAST", taken.getsockname()[1])
        with pytest.raises(OSError, match="no free port"):
            ports.free_port()


def test_a_port_that_was_taken_is_replaced_by_another():
    tries = []

    def attempt(number):
        tries.append(number)
        if number < 2:
            raise ports.PortTaken(OSError("taken"))
        return "bound"

    assert ports.with_free_port(attempt) == "bound"
    assert tries == [0, 1, 2]


def test_the_last_port_that_was_taken_raises_its_error():
    def attempt(number):
        raise ports.PortTaken(OSError(f"port {number} is taken"))

    with pytest.raises(OSError, match="port 2 is taken"):
        ports.with_free_port(attempt)
    with pytest.raises(OSError, match="port 0 is taken"):
        ports.with_free_port(attempt, tries=1)


def test_another_error_can_stand_for_a_taken_port():
    def attempt(number):
        raise KeyError(number)

    with pytest.raises(KeyError, match="2"):
        ports.with_free_port(attempt, taken=KeyError)


def test_other_errors_end_the_tries():
    def attempt(number):
        raise ValueError(number)

    with pytest.raises(ValueError, match="0"):
        ports.with_free_port(attempt)
