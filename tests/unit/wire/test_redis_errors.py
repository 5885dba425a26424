"""The texts of the errors of Redis."""

import pytest

from pytest_resilience.wire.redis_errors import error_of_exec, error_text, failing_command, fails_when_queued


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("LOADING", "LOADING Redis is loading the dataset in memory"),
        ("-LOADING", "LOADING Redis is loading the dataset in memory"),
        ("LOADING wait", "LOADING wait"),
        ("MOVED 3999 127.0.0.1:6381", "MOVED 3999 127.0.0.1:6381"),
        ("FOO", "FOO"),
    ],
)
def test_a_known_code_stands_for_the_text_of_redis(code, text):
    assert error_text(code) == text


def test_errors_that_reject_a_command_fail_the_transaction():
    assert fails_when_queued(error_text("OOM"))
    assert not fails_when_queued(error_text("WRONGTYPE"))
    assert error_of_exec("OOM no") == "EXECABORT Transaction discarded because of: OOM no"
    assert error_of_exec("EXECABORT no") == "EXECABORT no"


def test_the_failing_command_has_the_text_as_its_argument():
    assert failing_command("OOM no").endswith(b"$1\r\n0\r\n$6\r\nOOM no\r\n")
