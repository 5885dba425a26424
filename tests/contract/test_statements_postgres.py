"""Rules for single statements in front of a real Postgres: what clients raise, and the state that the server is in afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from pytest_resilience.backends.embedded.backend import EmbeddedBackend
from pytest_resilience.clients import postgres as own_client
from pytest_resilience.wire import postgres as own_wire
from pytest_resilience.wire import postgres_stream as stream
from tests.support.backends import ENDED
from tests.support.statements import PATIENCE, Rules
from tests.support.waiting import until


class Gate(Rules):
    """A proxy with the protocol of Postgres in front of an embedded server."""

    def __init__(self, api: tuple[str, int], direct: str, upstream: str) -> None:
        super().__init__(api, upstream, "postgres")
        self.direct = direct
        parts = urlsplit(direct)
        self.url = parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@{self.listen}").geturl()

    def until_acted(self) -> None:
        """Wait until the rule has acted."""
        until(lambda: self.acted)

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
        yield Gate(
            (backend.api.host, backend.api.port), postgres.url(postgres.direct_address), str(postgres.upstream_address)
        )


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


def test_an_error_has_the_text_of_the_rule(gate: Gate) -> None:
    async def client(connection: asyncpg.Connection) -> None:
        for statement in ("insert into statements values (1)", "insert into statements values (1) returning id"):
            with pytest.raises(asyncpg.DeadlockDetectedError) as simple:
                await connection.execute(statement)
            with pytest.raises(asyncpg.DeadlockDetectedError) as extended:
                await connection.fetch(statement)
            assert str(simple.value) == str(extended.value) == text

    text = "it's a \\ $resilience$ deadlock"
    gate.rule("insert", "error", code="40P01", message=text)
    run(gate, client)
    assert gate.rows() == []
    assert gate.acted == 4


@pytest.mark.parametrize("prepared", [False, True], ids=["simple", "prepared"])
def test_a_commit_that_fails_leaves_no_transaction_and_no_row(gate: Gate, prepared: bool) -> None:
    async def client(connection: asyncpg.Connection) -> None:
        await connection.execute("begin")
        await connection.execute("insert into statements values (1)")
        with pytest.raises(asyncpg.SerializationError):
            await (connection.fetch("commit") if prepared else connection.execute("commit"))
        assert not connection.is_in_transaction()
        assert await connection.fetchval("select count(*) from statements") == 0

    gate.rule("commit", "error", code="40001")
    run(gate, client)
    assert gate.acted == 1


def test_the_true_error_of_a_failed_transaction_is_kept(gate: Gate) -> None:
    async def client(connection: asyncpg.Connection) -> None:
        await connection.execute("begin")
        with pytest.raises(asyncpg.DivisionByZeroError):
            await connection.execute("select 1 / 0")
        for statement in (connection.execute, connection.fetch):
            with pytest.raises(asyncpg.InFailedSQLTransactionError):
                await statement("insert into statements values (1)")

    gate.rule("insert", "error", code="40001")
    run(gate, client)
    counts = gate.counters["toxics"]["rule"]
    assert (counts["matched"], counts["acted"]) == (1, 0)  # a Parse fails in such a transaction, and has no Execute


def pipeline(gate: Gate, *groups: bytes) -> list[tuple[str, str]]:
    """Send groups at once. Return the answers: kinds and texts of CommandComplete, ErrorResponse (its SQLSTATE) and ReadyForQuery."""

    async def client() -> list[tuple[str, str]]:
        session = await own_client.connect(gate.url, application_name="pipeline", within=PATIENCE)
        session._transport.write(b"".join(groups))
        answers: list[tuple[str, str]] = []
        while len([kind for kind, _ in answers if kind == "Z"]) < len(groups):
            message = await asyncio.wait_for(session._next_message(), PATIENCE)
            if message.kind == b"E":
                answers.append(("E", own_wire.error_fields(message.body)["C"]))
            elif message.kind in b"CZ":
                answers.append((message.kind.decode(), message.body.rstrip(b"\0").decode()))
        session.terminate()
        return answers

    return asyncio.run(client())


def insert(number: int, name: str = "") -> bytes:
    """Return Parse, Bind and Execute of an insert."""
    sql = f"insert into statements values ({number})"
    return (
        stream.message(b"P", f"{name}\0{sql}\0".encode() + b"\0\0")
        + stream.message(b"B", f"\0{name}\0".encode() + b"\0\0\0\0\0\0")
        + stream.execute("")
    )


def again(name: str) -> bytes:
    """Return Bind and Execute of a statement that was prepared before."""
    return stream.message(b"B", f"\0{name}\0".encode() + b"\0\0\0\0\0\0") + stream.execute("")


SYNC = stream.message(b"S", b"")
FLUSH = stream.message(b"H", b"")
INSERTED = ("C", "INSERT 0 1")


def test_a_pipeline_of_one_group_fails_as_a_whole(gate: Gate) -> None:
    gate.rule("insert", "error", code="40P01", nth=2)
    assert pipeline(gate, insert(1) + insert(2) + insert(3) + SYNC) == [INSERTED, ("E", "40P01"), ("Z", "I")]
    assert gate.rows() == []
    assert gate.acted == 1


def test_a_pipeline_of_several_groups_fails_in_one(gate: Gate) -> None:
    gate.rule("insert", "error", code="40P01", nth=2)
    answers = pipeline(gate, insert(1) + SYNC, insert(2) + SYNC, insert(3) + SYNC)
    assert answers == [INSERTED, ("Z", "I"), ("E", "40P01"), ("Z", "I"), INSERTED, ("Z", "I")]
    assert gate.rows() == [1, 3]


def test_a_group_with_an_error_of_its_own_keeps_it(gate: Gate) -> None:
    gate.rule("insert", "error", code="40001", nth=3)
    answers = pipeline(gate, insert(1) + SYNC, insert(1) + insert(2) + SYNC, insert(4) + SYNC)
    assert answers == [INSERTED, ("Z", "I"), ("E", "23505"), ("Z", "I"), INSERTED, ("Z", "I")]
    assert gate.acted == 0


def test_a_statement_that_was_prepared_in_a_group_that_failed_is_there(gate: Gate) -> None:
    gate.rule("insert", "error", code="40001", nth=1)
    answers = pipeline(gate, insert(1, "named") + SYNC, again("named") + SYNC)
    assert answers == [("E", "40001"), ("Z", "I"), INSERTED, ("Z", "I")]
    assert gate.rows() == [1]


def test_a_group_with_flush_fails_without_a_ready_of_its_own(gate: Gate) -> None:
    gate.rule("insert", "error", code="40001", nth=1)
    answers = pipeline(gate, insert(1) + FLUSH + SYNC, insert(2) + FLUSH + insert(3) + SYNC)
    assert answers == [("E", "40001"), ("Z", "I"), INSERTED, INSERTED, ("Z", "I")]
    assert gate.rows() == [2, 3]


def test_a_prepared_commit_fails_inside_a_pipeline(gate: Gate) -> None:
    commit = (
        stream.message(b"P", b"\0commit\0\0\0") + stream.message(b"B", b"\0\0\0\0\0\0\0\0") + stream.execute("") + SYNC
    )
    gate.rule("commit", "error", code="40001")
    answers = pipeline(gate, own_wire.query("begin"), insert(1) + SYNC, commit, insert(2) + SYNC)
    assert answers == [
        ("C", "BEGIN"),
        ("Z", "T"),
        INSERTED,
        ("Z", "T"),
        ("E", "40001"),
        ("Z", "I"),
        INSERTED,
        ("Z", "I"),
    ]
    assert gate.rows() == [2]


def test_a_refused_session_is_an_error_of_the_driver(gate: Gate) -> None:
    async def client() -> None:
        with pytest.raises(asyncpg.TooManyConnectionsError):
            await asyncpg.connect(gate.url, timeout=PATIENCE)
        with pytest.raises(asyncpg.CannotConnectNowError):
            await asyncpg.connect(gate.url, timeout=PATIENCE)
        connection = await asyncpg.connect(gate.url, timeout=PATIENCE)
        await connection.close()

    gate.rule("connect", "error", code="53300", nth=1)
    body = {
        "type": "statement",
        "name": "second",
        "attributes": {"verb": "connect", "act": "fatal", "code": "57P03", "nth": 2},
    }
    gate.call("POST", "/statements/toxics", body)
    try:
        asyncio.run(client())
    finally:
        gate.call("DELETE", "/statements/toxics/second")


def test_fatal_ends_the_session_and_the_transaction(gate: Gate) -> None:
    async def client(connection: asyncpg.Connection) -> None:
        await connection.execute("begin")
        await connection.execute("insert into statements values (1)")
        with pytest.raises(ENDED, match="terminating connection due to administrator command"):
            await connection.execute("insert into statements values (2)")
        assert connection.is_closed()

    gate.rule("insert", "fatal", code="57P01", nth=2)
    run(gate, client)
    assert gate.rows() == []


def test_a_held_statement_goes_on_at_the_heal(gate: Gate) -> None:
    async def client(connection: asyncpg.Connection) -> None:
        held = asyncio.create_task(connection.execute("insert into statements values (1)"))
        await asyncio.to_thread(gate.until_acted)
        assert await asyncio.to_thread(gate.rows) == []
        assert not held.done()
        await asyncio.to_thread(gate.heal)
        assert await held == "INSERT 0 1"

    gate.rule("insert", "hang")
    run(gate, client)
    assert gate.rows() == [1]


def test_a_held_session_begins_at_the_heal(gate: Gate) -> None:
    async def client() -> None:
        connecting = asyncio.create_task(asyncpg.connect(gate.url, timeout=PATIENCE))
        await asyncio.to_thread(gate.until_acted)
        assert not connecting.done()
        await asyncio.to_thread(gate.heal)
        connection = await connecting
        assert await connection.fetchval("select 1") == 1
        await connection.close()

    gate.rule("connect", "hang")
    asyncio.run(client())


def test_a_delayed_statement_is_done_after_the_delay(gate: Gate) -> None:
    async def client(connection: asyncpg.Connection) -> float:
        before = asyncio.get_running_loop().time()
        await connection.execute("insert into statements values (1)")
        return asyncio.get_running_loop().time() - before

    gate.rule("insert", "delay", delay_ms=100)
    assert run(gate, client) >= 0.1
    assert gate.rows() == [1]


def test_silence_ends_in_a_reset_at_the_heal(gate: Gate) -> None:
    async def client(connection: asyncpg.Connection) -> None:
        waiting = asyncio.create_task(connection.execute("insert into statements values (1)"))
        await asyncio.to_thread(gate.until_acted)
        assert await asyncio.to_thread(gate.rows) == [1]
        assert not waiting.done()
        await asyncio.to_thread(gate.heal)
        with pytest.raises(ENDED):
            await waiting

    gate.rule("insert", "lose_answer", close="silence")
    run(gate, client)


def test_an_answer_is_cut_behind_its_rows(gate: Gate) -> None:
    async def client() -> list[bytes]:
        session = await own_client.connect(gate.url, application_name="cut", within=PATIENCE)
        session._transport.write(own_wire.query("select generate_series(1, 1000)"))
        kinds: list[bytes] = []
        with pytest.raises(own_client.SessionEnded):
            while True:
                kinds.append((await asyncio.wait_for(session._next_message(), PATIENCE)).kind)
        return kinds

    gate.rule("select", "cut_answer", rows=2)
    assert asyncio.run(client()) == [b"T", b"D", b"D"]
    assert gate.acted == 1


def test_a_rule_chooses_by_client(gate: Gate) -> None:
    async def client() -> None:
        for name in ("service:1", "worker:1"):
            connection = await asyncpg.connect(gate.url, server_settings={"application_name": name})
            if name == "service:1":
                with pytest.raises(asyncpg.SerializationError):
                    await connection.execute("insert into statements values (1)")
            else:
                await connection.execute("insert into statements values (2)")
            await connection.close()

    gate.rule("insert", "error", code="40001", client="service:*")
    asyncio.run(client())
    assert gate.rows() == [2]


def test_a_copy_passes_and_a_rule_works_behind_it(gate: Gate) -> None:
    async def client(connection: asyncpg.Connection) -> None:
        await connection.copy_records_to_table("statements", records=[(1,), (2,)])
        with pytest.raises(asyncpg.SerializationError):
            await connection.execute("insert into statements values (3)")
        assert await connection.fetchval("select count(*) from statements") == 2

    gate.rule("insert", "error", code="40001")
    run(gate, client)


def test_a_rule_for_connections_that_were_there_before_it(gate: Gate) -> None:
    async def client(connection: asyncpg.Connection) -> None:
        statement = await connection.prepare("insert into statements values ($1)")
        await connection.fetch("select repeat('x', 100) from generate_series(1, 2000)")
        gate.rule("insert", "lose_answer", matching="statements")
        with pytest.raises(ENDED):
            await statement.fetch(1)

    run(gate, client)
    assert gate.rows() == [1]
