"""The description of the program of MySQL."""

from __future__ import annotations

import pytest

from pytest_resilience.backends.backend import Address
from pytest_resilience.redaction import redacted
from pytest_resilience.systems.mysql.program import MysqlProgram
from pytest_resilience.systems.mysql.schema import quoted, text


def test_passwords_are_random_redacted_and_not_in_the_command_line() -> None:
    program, other = MysqlProgram("mysql:8.4"), MysqlProgram("mysql:8.4")
    secrets = {program.password, *program.environment().values()}
    assert len(secrets) == 2, "one of root, one of the user"
    assert secrets.isdisjoint({other.password, *other.environment().values()})
    assert not [secret for secret in secrets if secret in " ".join(program.command())]
    assert redacted(program.url(Address("127.0.0.1", 3306))) == "mysql://resilience:***@127.0.0.1:3306/resilience"


@pytest.mark.parametrize(("names", "expected"), [(("a", "b"), "`a`.`b`"), (("x`y",), "`x``y`")])
def test_names_are_quoted(names: tuple[str, ...], expected: str) -> None:
    assert quoted(*names) == expected


def test_values_are_quoted() -> None:
    assert text("it's \\") == r"'it''s \\'"
