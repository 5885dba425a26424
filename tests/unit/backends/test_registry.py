"""The faults that a kind of backend does not support, before a stack is up."""

from __future__ import annotations

import json

import pytest

from pytest_resilience.backends.docker import backend, engine
from pytest_resilience.backends.docker.backend import DockerBackend
from pytest_resilience.backends.docker.engine import Engine, EngineUnavailable
from pytest_resilience.backends.registry import Docker
from pytest_resilience.backends.settings import Settings
from pytest_resilience.wire.http import HttpResponse

LOOPBACK, FOREIGN = "127.0.0.1", "192.0.2.1"  # an address of this machine, and one of no machine (TEST-NET-1)
FORWARDED = {f"{server}.{fault}" for server in ("postgres", "redis") for fault in ("refuse", "reset", "flap")}
ALWAYS = {
    f"{server}.{fault}"
    for server in ("postgres", "redis")
    for fault in ("half_open", "slow_accept", "protocol_violation", "on", "after")
} | {
    "postgres.commit_in_doubt",
    "postgres.serialization_failure",
    "postgres.deadlock",
    "redis.loading_replies",
}


class FakeEngine(Engine):
    """An engine with the given gateways of its default network, or without that network for None."""

    def __init__(self, gateways: list[str] | None) -> None:
        super().__init__("unix:///nowhere")
        self._gateways = gateways

    def request(self, method: str, path: str, *, within: float = 1.0) -> HttpResponse:
        assert (method, path) == ("GET", "/networks/bridge")
        if self._gateways is None:
            return HttpResponse(404, {}, b'{"message": "network bridge not found"}')
        config = [{"Subnet": "10.0.0.0/8", "Gateway": gateway} for gateway in self._gateways] or None
        return HttpResponse(200, {}, json.dumps({"IPAM": {"Config": config}}).encode())


@pytest.mark.parametrize(
    ("gateways", "unsupported"),
    [
        pytest.param([LOOPBACK], ALWAYS, id="networks of this machine"),
        pytest.param([FOREIGN, LOOPBACK], ALWAYS, id="one of two is enough"),
        pytest.param([FOREIGN], ALWAYS | FORWARDED, id="networks of a virtual machine"),
        pytest.param([], ALWAYS, id="a default network without a gateway"),
        pytest.param(None, ALWAYS, id="no default network"),
    ],
)
def test_the_kind_and_its_backend_agree_before_a_network_exists(
    monkeypatch: pytest.MonkeyPatch, gateways: list[str] | None, unsupported: set[str]
) -> None:
    monkeypatch.setattr(engine, "find_engine", lambda: FakeEngine(gateways))
    monkeypatch.setattr(backend.sys, "platform", "linux")
    assert Docker().unsupported(Settings()).keys() == unsupported
    started = DockerBackend()
    monkeypatch.setattr(started, "_network", object())
    monkeypatch.setattr(started, "_network_reachable", not unsupported & FORWARDED)
    assert started.unsupported == Docker().unsupported(Settings())


def test_an_engine_that_does_not_answer_supports_what_toxiproxy_supports(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_engine() -> Engine:
        raise EngineUnavailable("none here")

    monkeypatch.setattr(engine, "find_engine", find_engine)
    assert Docker().unsupported(Settings()).keys() == ALWAYS


def test_the_proxy_of_this_package_supports_every_fault_and_needs_no_image_of_toxiproxy():
    settings = Settings(proxy="ours")
    assert Docker().unsupported(settings) == DockerBackend(settings).unsupported == {}
    assert settings.images == [settings.postgres_image, settings.redis_image]
    assert Settings().images[2:] == [settings.toxiproxy_image]
    assert "proxy of this package" in Docker().describe(settings)
