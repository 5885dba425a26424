"""Rules for single statements in front of a real Postgres: what clients raise, and the state that the server is in afterwards."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import asyncpg
import pytest

from pytest_resilience.backends.embedded.backend import EmbeddedBackend
from tests.support.backends import ENDED

PATIENCE = 10.0  # seconds after which an operation counts as hanging


class Reply(NamedTuple):
    status: int
    json: Any


class Gate:
    """A proxy with the protocol of Postgres in front of an embedded server."""

    def __init__(self, api: tuple[str, int], direct: str, upstream: str) -> None:
        self.api = api
        self.direct = direct
        created = self.call(
            "POST", "", {"name": "statements", "listen": "127.0.0.1:0", "upstream": upstream, "protocol": "postgres"}
        )
        parts = urlsplit(direct)
        self.url = parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@{created.json['listen']}").geturl()

    def call(self, method: str, path: str, body: object = None) -> Reply:
        connection = http.client.HTTPConnection(*self.api, timeout=PATIENCE)
        try:
            connection.request(method, f"/proxies{path}", None if body is None else json.dumps(body))
            response = connection.getresponse()
            text = response.read()
            return Reply(response.status, json.loads(text) if text else None)
        finally:
            connection.close()

    def rule(self, verb: str, act: str, **attributes: object) -> None:
        body = {"name": "rule", "type": "statement", "attributes": {"verb": verb, "act": act, **attributes}}
        reply = self.call("POST", "/statements/toxics", body)
        assert reply.status == 200, reply

    def heal(self) -> None:
        self.call("DELETE", "/statements/toxics/rule")

    @property
    def counters(self) -> Any:
        return self.call("GET", "/statements/counters").json

    @property
    def acted(self) -> int:
        return int(self.counters["toxics"]["rule"]["acted"])

    def rows(self) -> list[int]:
        """Return the table, by a connection that does not come through the proxy."""

        async def read() -> list[int]:
            connection = await asyncpg.connect(self.direct)
            rows = await connection.fetch("select id from statements order by id")
            await connection.close()
            return [row["id"] for row in rows]

        return asyncio.run(read())


@pytest.fixture(scope="module")
def server() -> Iterator[Gate]:
    with EmbeddedBackend() as backend:
        postgres = backend.servers["postgres"]
        yield Gate(tuple(backend.api), postgres.url(postgres.direct_address), str(postgres.upstream_address))


@pytest.fixture
def gate(server: Gate) -> Iterator[Gate]:
    server.heal()

    async def clean() -> None:
        connection = await asyncpg.connect(server.direct)
        await connection.execute("drop table if exists statements; create table statements (id int primary key)")
        await connection.close()

    asyncio.run(clean())
    yield server
    server.heal()


def run(gate: Gate, client: Callable[[asyncpg.Connection], Awaitable[Any]]) -> Any:
    """Run a client on a new connection through the proxy."""

    async def connected() -> Any:
        connection = await asyncpg.connect(gate.url, timeout=PATIENCE)
        try:
            return await asyncio.wait_for(client(connection), PATIENCE)
        finally:
            connection.terminate()

    return asyncio.run(connected())


def test_error_inside_a_transaction_is_the_servers_own(gate: Gate) -> None:
    async def client(connection: asyncpg.Connection) -> None:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("insert into statements values ($1)", 1)
        with pytest.raises(asyncpg.SerializationError):
            await connection.execute("insert into statements values ($1)", 2)
        assert connection.is_in_transaction()
        with pytest.raises(asyncpg.InFailedSQLTransactionError):
            await connection.execute("select 1")
        await transaction.rollback()
        assert await connection.fetchval("select 1") == 1

    gate.rule("insert", "error", code="40001", nth=2)
    run(gate, client)
    assert gate.rows() == []
    assert gate.acted == 1


def test_lost_answer_to_a_commit_leaves_the_row_there(gate: Gate) -> None:
    async def client(connection: asyncpg.Connection) -> None:
        with pytest.raises(ENDED):
            async with connection.transaction():
                await connection.execute("insert into statements values (1)")

    gate.rule("commit", "lose_answer")
    run(gate, client)
    assert gate.rows() == [1]
    assert gate.acted == 1
