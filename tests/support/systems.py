"""The stack of the tests of MySQL and RabbitMQ, which need Docker and their images."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_resilience.backends.docker import engine
from pytest_resilience.backends.docker.backend import DockerBackend
from pytest_resilience.backends.settings import Settings
from pytest_resilience.stack import Stack
from tests.support.backends import unavailable_reason


def assert_one_fails_without_its_password(pytester: pytest.Pytester, name: str, scheme: str, fault: str) -> None:
    """Run a project with a test that passes, one with a vacuous strike, and one whose failure shows the URL of a system.

    Args:
        pytester: has the project.
        name: of the system.
        scheme: of its URL.
        fault: that is vacuous.
    """
    result = pytester.runpytest_subprocess("--resilience-backend=docker", "--resilience-proxy=ours", "-rA", timeout=120)
    result.assert_outcomes(passed=1, failed=1)  # and the vacuous ones
    result.stdout.fnmatch_lines(
        [f"*{scheme}://resilience:*@127.0.0.1*", f"VACUOUS*{name}.{fault} affected no connections"]
    )
    result.stdout.no_re_match_line(rf".*{scheme}://resilience:[0-9a-f]{{8}}.*")


def docker_stack(*images: str) -> Iterator[Stack]:
    """Yield a stack on the docker backend, or skip if Docker or an image is missing."""
    if reason := unavailable_reason("docker"):
        pytest.skip(reason)
    if missing := engine.find_engine().missing_images([*images]):
        pytest.skip(f"Docker has no image {', '.join(missing)}: scripts/images builds them where there is apt")
    stack = Stack(DockerBackend(Settings(proxy="ours")), seed=1)
    yield stack
    stack.close()
