"""The owners of connections with client ports that no socket of this machine has."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_resilience.leaks.descriptors import Descriptor
from pytest_resilience.leaks.owners import ClientEndpoints, ConnectionOwners, Owner

PROXY = "10.0.0.9"
KNOWN = [("10.0.0.1", 7), (PROXY, 500), (PROXY, 501)]  # a forwarded client, and two clients through the proxy
OWN = Descriptor(23, "socket:[1]", ("10.0.0.1", 31), (PROXY, 20001))


@dataclass(eq=False)
class Stack:
    """The attributes of a stack that attribution needs."""

    targets: dict[str, Any]
    services: list[Any]
    backend_for_processes: Any


def owners(
    pairs: dict[int, int] | None,
    *,
    services: tuple[Any, ...] = (),
    now: ClientEndpoints = KNOWN,
    own: Descriptor = OWN,
    address: tuple[str, int] = (PROXY, 20001),
) -> ConnectionOwners:
    """Return the owners for a server in a container, with these pairs of upstream port and client port.

    The proxy has `address`.
    """
    server = SimpleNamespace(
        direct_address=SimpleNamespace(port=5432), upstream_address="another address", exclusive=True
    )
    proxy = SimpleNamespace(by_upstream_port=lambda known=(): pairs if known == KNOWN else {} if known == () else None)
    target = SimpleNamespace(host=address[0], port=address[1], server=server, proxy_handle=proxy)
    stack: Any = Stack({"postgres": target}, list(services), SimpleNamespace(servers={"postgres": server}))
    return ConnectionOwners(stack, [own], {"postgres": KNOWN}, lambda _: now)


SERVICE = SimpleNamespace(tree=list)


def test_a_client_that_is_paired_with_a_socket_of_this_process_belongs_to_it() -> None:
    owner = owners({500: 31, 501: 32}, services=(SERVICE,)).of("postgres", PROXY, 500)
    assert owner == Owner("held by this process (descriptor 23)", OWN)


@pytest.mark.parametrize("pairs", [{}, None], ids=["not paired", "unknown"])
def test_a_client_that_is_not_paired_may_be_the_service(pairs: dict[int, int] | None) -> None:
    assert owners(pairs, services=(SERVICE,)).of("postgres", PROXY, 500) is None
    assert owners(pairs).of("postgres", PROXY, 500) == Owner("")


def test_no_client_is_paired_when_another_connects_between_the_queries() -> None:
    changed = owners({500: 31, 501: 32}, services=(SERVICE,), now=[*KNOWN, (PROXY, 502)])
    assert changed.of("postgres", PROXY, 500) is None


def test_a_direct_client_is_no_service_unless_a_service_connects_directly() -> None:
    assert owners({}, services=(SERVICE,)).of("postgres", "10.0.0.1", 7) == Owner("")
    around = owners({}, services=(SERVICE,))
    around.__dict__["_service_ports"] = {(9, 5432)}
    assert around.of("postgres", "10.0.0.1", 7) is None


def test_a_connection_of_the_service_is_found_without_the_table_of_all_connections() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
    ):
        running = SimpleNamespace(tree=lambda: [os.getpid()])
        search = owners({500: client.getsockname()[1]}, services=(running,), address=listener.getsockname())
        assert search.of("postgres", PROXY, 500) is None
    assert "_service_ports" not in search.__dict__
