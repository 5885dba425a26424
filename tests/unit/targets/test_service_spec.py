"""The description of a service is checked when it is made."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pytest_resilience import Service, SetupError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ready": "readyz"}, "is a path such as '/readyz', got 'readyz', which does not begin with /"),
        ({"ready": "api/health"}, "is a path such as"),
        ({"ready": ""}, "is a path such as"),
        ({"ready": 0}, "is a path such as"),
        ({"ready": True}, "is a path such as"),
        ({"ready": "https://localhost/"}, "only http:// is requested"),
        ({"timeout": 0}, r"Service\(timeout=...\) is seconds above 0"),
        ({"setup_within": -1}, r"Service\(setup_within=...\) is seconds above 0"),
        ({"within": "10"}, r"Service\(within=...\) is seconds above 0, got '10'"),
        ({"timeout": "10"}, r"Service\(timeout=...\) is seconds above 0, got '10'"),
        ({"env": ["PORT=1"]}, r"Service\(env=...\) is a mapping of names to texts, got a list"),
        ({"env": {1: "a"}}, "takes strings; these are not: 1"),
        ({"env": {"A=B": "1"}}, "without = and NUL, and no value with NUL; these are wrong: A=B"),
        ({"env": {"": "1"}}, "these are wrong: ''"),
        ({"env": {"A": "s3cr\0et"}}, "these are wrong: A$"),
        ({"port_variable": ""}, r"Service\(port_variable=...\) is the name of a variable or None, got ''"),
        ({"restart": "sometimes"}, "is 'always', 'struck', 'never' or None, got 'sometimes'"),
        ({"restart": "struck", "restart_between_tests": False}, "the second means restart='never'"),
        ({"ports": "http"}, "is a list of names such as"),
        ({"ports": ()}, "is a list of names such as"),
        ({"ports": ("http", "http")}, "each name is once there"),
        ({"ports": ("HTTP",)}, "each name is once there"),
        ({"after": "web"}, "is a list of names such as"),
        ({"port_pattern": r"port \d+"}, "needs a group around the number"),
        ({"port_pattern": "("}, "missing"),
        ({"port_pattern": r"(\d+)", "ports": ("http", "metrics")}, "each port needs a group"),
        ({"setup": ["alembic upgrade head", ["x"]]}, r"Service\(setup=...\) is a list such as"),
        ({"setup": [[]]}, r"Service\(setup=...\) is a list such as"),
    ],
)
def test_a_wrong_argument_is_an_error_that_names_it(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SetupError, match=message):
        Service(["shop"], **arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "always"),
        ({"restart_between_tests": False}, "never"),
        ({"restart": "struck"}, "struck"),
        ({"restart": "never", "restart_between_tests": False}, "never"),
    ],
)
def test_the_older_form_of_restart_is_an_alias(arguments: dict[str, Any], expected: str) -> None:
    assert Service(["shop"], **arguments).restarts == expected


def test_one_command_or_several_are_a_setup() -> None:
    assert Service(["shop"], setup=["alembic", "upgrade", "head"]).setup_commands == [["alembic", "upgrade", "head"]]
    assert Service(["shop"], setup=[["a", "b"], ["c"]]).setup_commands == [["a", "b"], ["c"]]
    assert Service(["shop"]).setup_commands == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, True),
        ({"port_variable": None, "ready": None}, False),
        ({"port_variable": None, "ready": "ready"}, False),
        ({"port_variable": None, "ready": "/"}, True),
        ({"port_variable": None, "ready": "{port}"}, True),
        ({"port_variable": None, "ready": None, "env": {"LISTEN": ":{port}"}}, True),
        ({"port_variable": None, "ready": None, "ports": ("metrics",), "setup": ["x", "{metrics}"]}, True),
        ({"port_variable": None, "ready": re.compile(r"port (?P<port>\d+)")}, True),
        ({"port_variable": None, "ready": re.compile(r"port (\d+)")}, False),
    ],
)
def test_a_service_has_a_port_if_anything_names_it(arguments: dict[str, Any], expected: bool) -> None:
    assert Service(["shop"], **arguments).has_port == expected
