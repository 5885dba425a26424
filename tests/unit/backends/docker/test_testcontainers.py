"""What the docker backend takes of testcontainers is there, also in the lowest version. Without an engine nothing more can be tried."""

from __future__ import annotations

import inspect

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
def test_a_container_can_be_set_up(name: str) -> None:
    from testcontainers.core.container import DockerContainer

    assert callable(getattr(DockerContainer, name))


def test_containers_and_networks_take_an_engine_and_what_goes_with_it() -> None:
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.network import Network

    inspect.signature(DockerContainer).bind("image", {}, name="it")
    inspect.signature(Network).bind({}, {"labels": {}})
    assert "_unwrap_network" in vars(Network), "its gateway tells whether clients are on its network"


def test_ryuk_can_be_switched_off() -> None:
    from testcontainers.core.config import testcontainers_config

    assert isinstance(testcontainers_config.ryuk_disabled, bool)
