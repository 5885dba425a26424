"""The docker backend with the proxy of this package in place of Toxiproxy."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

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


def client_of(stack: Stack) -> redis.Redis:
    return redis.Redis.from_url(stack.redis.url, socket_timeout=5, retry=None)


def test_silence_and_moments_of_a_container_are_seen(stack: Stack, resilience: Resilience) -> None:
    with client_of(stack) as client, client_of(stack) as waiting, ThreadPoolExecutor(1) as thread:
        client.ping()
        resilience.when("redis", idle=1).wait()
        assert resilience.silence(0.1).receipt.touched == 1
        popped = thread.submit(waiting.blpop, ["queue"], 10)
        resilience.when("redis", waits="BLPOP").wait()
        client.rpush("queue", "job")
        assert popped.result() == (b"queue", b"job")
        with resilience.when("redis", answer=1).strike("redis.reset"), pytest.raises(redis.ConnectionError):
            client.get("key")


def test_the_protocol_of_a_container_can_be_violated_and_its_buffer_limited(
    stack: Stack, resilience: Resilience
) -> None:
    with client_of(stack) as client:
        client.rpush("list", *["x" * 1000] * 2000)
        with resilience.redis.client_kill_output_buffer(bytes=100_000) as strike, pytest.raises(redis.ConnectionError):
            client.lrange("list", 0, -1)
        assert strike.receipt.touched == 1
        client.ping()
        with resilience.redis.protocol_violation() as strike, pytest.raises(redis.RedisError):
            client.get("key")
        assert strike.receipt.touched == 1


def test_an_operation_on_a_container_is_cancelled_everywhere(stack: Stack, resilience: Resilience) -> None:
    async def run() -> int:
        async with asyncpg.create_pool(stack.postgres.url, min_size=1, max_size=1) as pool:
            done = await resilience.postgres.cancel_everywhere(
                lambda: pool.fetchval("select 1"), then=lambda: pool.fetchval("select 2"), size=1
            )
            return int(done.messages)

    assert asyncio.run(run()) > 0


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
