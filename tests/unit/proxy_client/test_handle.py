"""Attribution of server connections to the clients of a proxy that does not report them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_resilience.proxy_client.client import ToxiproxyClient, ToxiproxyError
from pytest_resilience.proxy_client.counters import ProxiedClients
from pytest_resilience.proxy_client.handle import ProxyHandle


class RealToxiproxy(ToxiproxyClient):
    """A server without the additions of our proxy."""

    def request(self, method: str, path: str, body: object = None) -> object:
        raise ToxiproxyError(404, "page not found")


def proxy_handle(
    behind: Callable[[str], ProxiedClients | None] | None = None,
) -> ProxyHandle:
    return ProxyHandle(RealToxiproxy("127.0.0.1", 1, proxied_clients=behind), "redis", "0.0.0.0:20001")


KNOWN = [("10.0.0.1", 7001), ("10.0.0.9", 500), ("10.0.0.9", 90)]  # a forwarded client, and two through the proxy


def test_clients_are_paired_in_the_order_in_which_they_connected() -> None:
    assert proxy_handle(lambda _: ProxiedClients("10.0.0.9", [31, 32])).by_upstream_port(KNOWN) == {500: 31, 90: 32}


@pytest.mark.parametrize("ports", [[31], [31, 32, 33]], ids=["one has closed", "one has connected"])
def test_no_client_is_paired_when_one_side_has_one_more(ports: list[int]) -> None:
    assert proxy_handle(lambda _: ProxiedClients("10.0.0.9", ports)).by_upstream_port(KNOWN) == {}


@pytest.mark.parametrize("behind", [None, lambda _: None], ids=["no backend", "no log"])
def test_unknown_clients_are_reported_as_unknown(behind: Callable[[str], ProxiedClients | None] | None) -> None:
    assert proxy_handle(behind).by_upstream_port(KNOWN) is None


class RecordingToxiproxy(ToxiproxyClient):
    """A server that records the bodies of requests."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1", 1)
        self.bodies: list[object] = []

    def request(self, method: str, path: str, body: object = None) -> object:
        self.bodies.append(body)
        return None


def test_overlapping_delays_add_up_and_end_independently() -> None:
    server = RecordingToxiproxy()
    handle = ProxyHandle(server, "redis", "0.0.0.0:20001")
    handle.add_accept_delay(1000)
    handle.add_accept_delay(50)
    handle.remove_accept_delay(1000)
    handle.remove_accept_delay(50)
    assert server.bodies == [{"accept_delay": delay} for delay in (1000, 1050, 50, 0)]


def test_a_delay_can_be_removed_again_after_a_failure() -> None:
    server = RecordingToxiproxy()
    handle = ProxyHandle(server, "redis", "0.0.0.0:20001")
    handle.add_accept_delay(1000)
    handle.remove_accept_delay(1000)
    handle.remove_accept_delay(1000)
    assert server.bodies[-1] == {"accept_delay": 0}
