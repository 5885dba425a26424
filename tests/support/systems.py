"""The stack of the tests of MySQL and RabbitMQ, which need Docker and their images."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_resilience.backends.docker import engine
from pytest_resilience.backends.docker.backend import DockerBackend
from pytest_resilience.backends.settings import Settings
from pytest_resilience.stack import Stack
from tests.support.backends import unavailable_reason


def docker_stack(*images: str) -> Iterator[Stack]:
    """Yield a stack on the docker backend, or skip if Docker or an image is missing."""
    if reason := unavailable_reason("docker"):
        pytest.skip(reason)
    if missing := engine.find_engine().missing_images([*images]):
        pytest.skip(f"Docker has no image {', '.join(missing)}: scripts/images builds them where there is apt")
    stack = Stack(DockerBackend(Settings(proxy="ours")), seed=1)
    yield stack
    stack.close()
