"""Faults by statement on a proxy that relays the TLS of clients to a server, and so sees cipher text only.

The servers are those of an embedded backend with TLS, and the proxies with the rules stand before them without TLS, as those of an
external backend do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import asyncpg
import pytest
import redis

from pytest_resilience import CannotInject, Resilience, Stack
from pytest_resilience.backends.embedded.backend import EmbeddedBackend
from pytest_resilience.backends.external.backend import ExternalBackend
from pytest_resilience.backends.settings import Settings

from .conftest import Server

PATIENCE = 10.0  # seconds after which an operation counts as hanging


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with ExitStack() as closing:
        inner = Stack(EmbeddedBackend(tls=True), seed=0)
        closing.callback(inner.close)
        inner.prepare_test(None)
        server = Server("ours")
        closing.callback(server.stop)
        settings = Settings(
            toxiproxy=f"http://{server.address}",
            postgres_upstream=inner.postgres.url,
            redis_upstream=inner.redis.url,
        )
        outer = Stack(ExternalBackend(settings), seed=0)
        closing.callback(outer.close)
        yield outer


def test_a_command_of_a_tls_client_of_redis_can_not_be_struck(resilience: Resilience) -> None:
    assert resilience.redis.url.startswith("rediss://")
    with redis.Redis.from_url(resilience.redis.url, socket_timeout=PATIENCE) as client:
        assert client.set("key", "value")
        with pytest.raises(
            CannotInject, match=r"redis\.on\('get'\)\.error\('LOADING'\): .* are encrypted, so their commands"
        ):
            resilience.redis.on("get").error("LOADING")
        with pytest.raises(CannotInject, match="are encrypted"):
            resilience.redis.after("get").refuse()
        assert client.get("key") == b"value"


def test_the_receipt_of_a_rule_has_the_reason_when_tls_comes_later(resilience: Resilience) -> None:
    with (
        resilience.redis.on("get").error("LOADING") as strike,
        redis.Redis.from_url(resilience.redis.url, socket_timeout=PATIENCE) as client,
    ):
        assert client.get("none") is None
    assert str(strike.receipt) == "affected no commands (1 connection encrypted, of which the commands can't be read)"


@pytest.mark.parametrize("direct", [False, True], ids=["SSLRequest", "direct"])
def test_a_statement_of_a_tls_client_of_postgres_can_not_be_struck(resilience: Resilience, direct: bool) -> None:
    assert "sslmode=verify-full" in resilience.postgres.url

    async def run() -> None:
        connection = await asyncpg.connect(resilience.postgres.url, timeout=PATIENCE, direct_tls=direct)
        try:
            with pytest.raises(CannotInject, match=r"are encrypted, so their statements can't be read"):
                resilience.postgres.commit_in_doubt()
            assert await connection.fetchval("select 1") == 1
        finally:
            await connection.close()

    asyncio.run(run())
