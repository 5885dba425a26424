"""The client of RabbitMQ's control port, with a broker of a few lines."""

from __future__ import annotations

import socket
import struct
import threading

import pytest

from pytest_resilience.backends.backend import Address
from pytest_resilience.redaction import redacted
from pytest_resilience.systems.rabbitmq.control import (
    SCRIPT_VARIABLE,
    TOKEN_BYTES,
    TOKEN_VARIABLE,
    Control,
    ControlError,
)
from pytest_resilience.systems.rabbitmq.program import RabbitmqProgram


def answer(control: Control, reply: bytes) -> tuple[bytes, str]:
    """Let a broker give this reply, and return the request and the result."""
    requests: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                size = struct.unpack(">I", connection.recv(4))[0]
                while len(b"".join(requests)) < size:
                    requests.append(connection.recv(size))
                connection.sendall(struct.pack(">I", len(reply)) + reply if reply else b"")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            result = control.evaluate(Address(*listener.getsockname()), "hd(Args)", "one", "two")
        finally:
            thread.join(5)
    return b"".join(requests), result


def test_a_request_has_the_token_the_expression_and_its_arguments() -> None:
    control = Control()
    request, result = answer(control, b"\0one")
    token = control.environment()[TOKEN_VARIABLE]
    assert len(token) == TOKEN_BYTES
    assert request.decode() == f"{token}hd(Args)\0one\0two"
    assert result == "one"


def test_a_failure_has_its_reason() -> None:
    with pytest.raises(ControlError, match="RabbitMQ could not do that: badarg"):
        answer(Control(), b"\1badarg")


def test_no_answer_is_an_error_of_the_connection() -> None:
    with pytest.raises(ConnectionError, match="without an answer"):
        answer(Control(), b"")


def test_token_and_password_are_random_and_redacted() -> None:
    program, other = RabbitmqProgram("rabbitmq:4"), RabbitmqProgram("rabbitmq:4")
    secrets = {program.password, program.environment()[TOKEN_VARIABLE]}
    assert secrets.isdisjoint({other.password, other.environment()[TOKEN_VARIABLE]})
    assert not [secret for secret in secrets if secret in redacted(f"{program.url(Address('a', 1))} {secrets}")]
    assert not [secret for secret in secrets if secret in " ".join(program.command())], (
        "all users can read a command line"
    )
    assert program.environment()[SCRIPT_VARIABLE]
