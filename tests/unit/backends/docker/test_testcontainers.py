"""The parts of testcontainers that the docker backend uses exist, in the lowest version too.

Without an engine no container can be started.
"""

from __future__ import annotations

import inspect
import re

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "with_network",
        "with_network_aliases",
        "with_command",
        "with_envs",
        "with_kwargs",
        "start",
        "stop",
        "get_docker_client",
        "get_wrapped_container",
    ],
)
def test_a_container_has_the_methods_that_configure_it(name: str) -> None:
    from testcontainers.core.container import DockerContainer

    assert callable(getattr(DockerContainer, name))


def test_a_container_accepts_client_options_and_a_name() -> None:
    from testcontainers.core.container import DockerContainer

    inspect.signature(DockerContainer).bind("image", {}, name="it")


def test_a_container_uses_only_the_name_of_its_network() -> None:
    """So that it accepts a network of docker-py."""
    from testcontainers.core.container import DockerContainer

    used = re.findall(r"self\._network\.(\w+)", inspect.getsource(DockerContainer.start))
    assert set(used) == {"name"}


def test_ryuk_can_be_disabled() -> None:
    from testcontainers.core.config import testcontainers_config

    assert isinstance(testcontainers_config.ryuk_disabled, bool)
