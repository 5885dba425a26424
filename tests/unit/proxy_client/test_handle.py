"""Clients and upstream ports behind a proxy that does not report them: paired in order, or not at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_resilience.proxy_client.client import ToxiproxyClient, ToxiproxyError
from pytest_resilience.proxy_client.counters import ProxiedClients
from pytest_resilience.proxy_client.handle import ProxyHandle


class Real(ToxiproxyClient):
    """An API without our additions."""

    def request(self, method: str, path: str, body: object = None) -> object:
        raise ToxiproxyError(404, "page not found")


def proxy_handle(
    behind: Callable[[str], ProxiedClients | None] | None = None,
) -> ProxyHandle:
    return ProxyHandle(Real("127.0.0.1", 1, proxied_clients=behind), "redis", "0.0.0.0:20001")


KNOWN = [("10.0.0.1", 7001), ("10.0.0.9", 500), ("10.0.0.9", 90)]  # somebody forwarded, and two through the proxy


def test_clients_are_paired_in_the_order_in_which_they_came() -> None:
    assert proxy_handle(lambda _: ProxiedClients("10.0.0.9", [31, 32])).by_upstream_port(KNOWN) == {500: 31, 90: 32}


@pytest.mark.parametrize("ports", [[31], [31, 32, 33]], ids=["one has gone", "one has come"])
def test_nobody_is_paired_when_there_is_one_more_on_either_side(ports: list[int]) -> None:
    assert proxy_handle(lambda _: ProxiedClients("10.0.0.9", ports)).by_upstream_port(KNOWN) == {}


@pytest.mark.parametrize("behind", [None, lambda _: None], ids=["no backend", "no log"])
def test_it_is_said_when_nobody_can_tell(behind: Callable[[str], ProxiedClients | None] | None) -> None:
    assert proxy_handle(behind).by_upstream_port(KNOWN) is None
