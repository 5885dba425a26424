"""The docker backend with the proxy of this package in place of Toxiproxy."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest
import redis

from pytest_resilience.backends.docker.backend import DockerBackend
from pytest_resilience.backends.settings import Settings
from pytest_resilience.resilience import Resilience
from pytest_resilience.stack import Stack
from tests.support.backends import unavailable_reason


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    if reason := unavailable_reason("docker-ours"):
        pytest.skip(reason)
    stack = Stack(DockerBackend(Settings(proxy="ours")), seed=1)
    yield stack
    stack.close()


def ping(stack: Stack) -> bool:
    with redis.Redis.from_url(stack.redis.url, socket_timeout=5) as client:
        return bool(client.ping())


def select(stack: Stack, query: str = "select 1") -> object:
    async def run() -> object:
        connection = await asyncpg.connect(stack.postgres.url, timeout=10)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return asyncio.run(run())


def test_it_runs_no_toxiproxy_and_can_inject_every_fault(stack: Stack) -> None:
    backend = stack.backend_for_processes
    assert isinstance(backend, DockerBackend)
    assert [container.name for container in backend._containers] == ["postgres", "redis"]
    assert backend.unsupported == {}


def test_refusals_are_counted_by_the_kernel(stack: Stack, resilience: Resilience) -> None:
    with resilience.redis.refuse() as strike:
        for _ in range(2):
            with pytest.raises(redis.ConnectionError):
                redis.Redis.from_url(stack.redis.url, retry=None).ping()
        assert strike.receipt.touched == 2


def test_a_statement_of_a_container_can_be_struck(stack: Stack, resilience: Resilience) -> None:
    attributes = {"verb": "select", "matching": "41", "act": "error", "code": "40001"}
    toxic = {"name": "rule", "type": "statement", "attributes": attributes}
    stack.proxy_client.request("POST", "/proxies/postgres/toxics", toxic)
    with pytest.raises(asyncpg.SerializationError):
        select(stack, "select 41")
    assert select(stack, "select 42") == 42
    counted = stack.proxy_client.request("GET", "/proxies/postgres/counters")["toxics"]["rule"]
    assert (counted["matched"], counted["acted"]) == (1, 1)


def test_proxies_follow_containers_that_start_again_with_swapped_addresses(
    stack: Stack, resilience: Resilience
) -> None:
    assert ping(stack)
    assert select(stack) == 1
    servers = stack.backend_for_processes.servers
    addresses = {name: server.private_address for name, server in servers.items()}  # type: ignore[attr-defined]
    resilience.postgres.kill()
    resilience.redis.kill()
    for name in sorted(servers, key=lambda each: addresses[each], reverse=True):  # so that they swap, as a rule
        servers[name].start()
    assert ping(stack)
    assert select(stack) == 1


def test_connections_are_attributed_to_the_clients_of_the_proxy(stack: Stack, resilience: Resilience) -> None:
    with redis.Redis.from_url(stack.redis.url) as client:
        client.ping()
        mine = client.connection_pool._available_connections[0]._sock.getsockname()[1]
        assert mine in (stack.redis.proxy_handle.by_upstream_port() or {}).values()
        seen = {each["addr"].rpartition(":")[2] for each in client.client_list()}
        assert {str(port) for port in stack.redis.proxy_handle.by_upstream_port() or {}} <= seen
