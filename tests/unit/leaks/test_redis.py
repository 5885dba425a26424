"""The description of a client of Redis, and the channels of new subscriptions."""

from __future__ import annotations

import pytest

from pytest_resilience.leaks.redis import ClientRow, channel_names, client_endpoints, resources

ROW = {"id": "7", "name": "", "addr": "127.0.0.1:5000", "cmd": "subscribe", "sub": "2", "psub": "1"}


def test_a_client_and_its_subscriptions_are_resources() -> None:
    client = ClientRow.from_row(ROW)
    assert client.port == 5000
    assert client.describe() == "a client, last command: subscribe"
    kinds = [resource.kind for resource in resources([client], "redis")]
    assert kinds == ["redis", "subscription", "subscription", "pattern"]
    assert {resource.name for resource in resources([client], "redis")} == {"unnamed"}


def test_a_client_that_has_sent_no_command() -> None:
    client = ClientRow.from_row({"id": 1, "addr": "/run/redis.sock:x", "cmd": "NULL"})
    assert client.describe() == "a client"
    assert client.port is None


def test_clients_are_in_the_order_of_their_numbers() -> None:
    clients = [
        ClientRow.from_row({**ROW, "id": number, "addr": f"10.0.0.1:{port}"}) for number, port in (("10", 2), ("9", 1))
    ]
    assert client_endpoints(clients) == [("10.0.0.1", 1), ("10.0.0.1", 2)]


@pytest.mark.parametrize(
    ("count", "before", "after", "names"),
    [
        (1, [], ["news"], ["news"]),
        (2, ["old"], ["old", "b", "a"], ["a", "b"]),
        (1, ["news"], ["news"], ["news"]),
        (1, [], ["mine", "of the service"], ["mine or of the service"]),
        (1, [], [], ["unnamed"]),
    ],
)
def test_new_subscriptions_have_the_names_of_new_channels(
    count: int, before: list[str], after: list[str], names: list[str]
) -> None:
    assert channel_names(count, before, after) == names
