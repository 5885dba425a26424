"""The cases that microburst 0.10 documents for Postgres, and those that it leaves out, on the proxy of this package.

| case of microburst | here |
| --- | --- |
| refuse a session with 53300 | test_statements_postgres.py: test_a_refused_session_is_an_error_of_the_driver |
| 40001 for a statement whose text matches | test_an_error_for_a_statement_whose_text_matches |
| slow, then cancelled with 57014 | test_a_statement_is_slow_and_then_cancelled |
| two rows of a result, then the end | test_statements_postgres.py: test_an_answer_is_cut_behind_its_rows |
| hang until the client gives up | test_a_client_gives_up_a_statement_that_hangs |
| stall for some time | test_statements_postgres.py: test_a_delayed_statement_is_done_after_the_delay |
| reset | test_a_reset_statement_does_not_reach_the_server |
| FATAL inside a transaction | test_statements_postgres.py: test_fatal_ends_the_session_and_the_transaction |
| fail once, and let the retry succeed | test_a_transaction_that_is_repeated_succeeds |
| prepared statements, by their text | test_statements_postgres.py: test_a_rule_for_connections_that_were_there_before_it |
| batches of the extended protocol | test_statements_postgres.py: test_a_pipeline_of_several_groups_fails_in_one |
| COPY passes | test_statements_postgres.py: test_a_copy_passes_and_a_rule_works_behind_it |
| left out: COPY with an answer that is lost | test_the_lost_answer_to_a_copy_leaves_its_rows_there |
| left out: COPY of drivers | test_the_lost_answer_to_a_copy_into_a_table_of_asyncpg, test_the_answer_to_a_copy_out_of_asyncpg_is_cut |
| the first statement of several in one query | test_several_statements_in_one_query_count_as_their_first |
| the log of what fired | test_an_error_for_a_statement_whose_text_matches |
| left out: ERROR inside a transaction, which is skipped | test_statements_postgres.py: test_error_inside_a_transaction_is_the_servers_own |
| left out: the state of a transaction afterwards (25P02) | test_an_error_behind_a_savepoint_leaves_the_transaction_usable |
| left out: COMMIT that fails | test_statements_postgres.py: test_a_commit_that_fails_leaves_no_transaction_and_no_row |
| left out: TLS, which is refused | test_proxy_tls_postgres.py: test_statements_are_read_where_tls_ends |
"""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from pytest_resilience.clients import postgres as own_client
from pytest_resilience.wire import postgres as own_wire
from pytest_resilience.wire import postgres_stream as stream
from tests.support.backends import ENDED
from tests.support.statements import PATIENCE
from tests.support.waiting import until

from .test_statements_postgres import SYNC, Gate, gate, run, server

__all__ = ["gate", "server"]  # fixtures


def test_an_error_for_a_statement_whose_text_matches(gate: Gate) -> None:
    async def client(connection: asyncpg.Connection) -> None:
        await connection.execute("insert into statements values (1)")
        for statement in ("insert INTO  statements select 2", "select 3 as id into temp other"):
            with pytest.raises(asyncpg.SerializationError, match="could not serialize access"):
                await connection.execute(statement)

    gate.rule(
        "*", "error", code="40001", message="could not serialize access", matching=r"re:into\s+(statements select|temp)"
    )
    run(gate, client)
    assert gate.rows() == [1]
    shown = gate.counters["toxics"]["rule"]["shown"]
    assert shown == ["insert INTO statements select ?", "select ? as id into temp other"]


def test_a_statement_is_slow_and_then_cancelled(gate: Gate) -> None:
    async def client(connection: asyncpg.Connection) -> float:
        before = asyncio.get_running_loop().time()
        with pytest.raises(asyncpg.QueryCanceledError, match="due to statement timeout"):
            await connection.execute("update statements set id = 2")
        return asyncio.get_running_loop().time() - before

    slow = {"name": "slow", "type": "latency", "stream": "upstream", "attributes": {"latency": 100}}
    assert gate.call("POST", "/statements/toxics", slow).status == 200
    gate.rule("update", "error", code="57014", message="canceling statement due to statement timeout")
    try:
        assert run(gate, client) >= 0.1
    finally:
        gate.heal("slow")


def test_a_client_gives_up_a_statement_that_hangs(gate: Gate) -> None:
    async def client(connection: asyncpg.Connection) -> None:
        with pytest.raises(TimeoutError):
            await connection.execute("insert into statements values (1)", timeout=0.1)

    gate.rule("insert", "hang")
    run(gate, client)
    assert (gate.acted, gate.rows()) == (1, [])
    gate.heal()
    until(lambda: gate.rows() == [1])  # the network delivers what the client has given up


def test_a_reset_statement_does_not_reach_the_server(gate: Gate) -> None:
    async def client(connection: asyncpg.Connection) -> None:
        await connection.execute("begin")
        await connection.execute("insert into statements values (1)")
        with pytest.raises(ENDED):
            await connection.execute("insert into statements values (2)")
        assert connection.is_closed()

    gate.rule("insert", "reset", nth=2)
    run(gate, client)
    assert gate.rows() == []


def test_a_transaction_that_is_repeated_succeeds(gate: Gate) -> None:
    async def client(connection: asyncpg.Connection) -> int:
        for attempt in range(1, 4):
            try:
                async with connection.transaction(isolation="serializable"):
                    await connection.execute("insert into statements values ($1)", attempt)
                return attempt
            except asyncpg.SerializationError:
                continue
        raise AssertionError("the rule acted more than once")

    gate.rule("insert", "error", code="40001", first=1)
    assert run(gate, client) == 2
    assert gate.rows() == [2]


def test_several_statements_in_one_query_count_as_their_first(gate: Gate) -> None:
    async def client(connection: asyncpg.Connection) -> None:
        await connection.execute("select 1; insert into statements values (1)")
        with pytest.raises(asyncpg.SerializationError):
            await connection.execute("insert into statements values (2); insert into statements values (3)")

    gate.rule("insert", "error", code="40001")
    run(gate, client)
    assert gate.rows() == [1]
    assert gate.counters["toxics"]["rule"]["matched"] == 1


def test_an_error_behind_a_savepoint_leaves_the_transaction_usable(gate: Gate) -> None:
    async def client(connection: asyncpg.Connection) -> None:
        async with connection.transaction():
            await connection.execute("insert into statements values (1)")
            with pytest.raises(asyncpg.DeadlockDetectedError):
                async with connection.transaction():  # a savepoint
                    await connection.execute("insert into statements values (2)")
            await connection.execute("insert into statements values (3)")

    gate.rule("insert", "error", code="40P01", nth=2)
    run(gate, client)
    assert gate.rows() == [1, 3]


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_the_lost_answer_to_a_copy_leaves_its_rows_there(gate: Gate, extended: bool) -> None:
    sql = "copy statements from stdin"
    prepared = (
        stream.message(b"P", f"\0{sql}\0\0\0".encode()) + stream.message(b"B", bytes(8)) + stream.execute("") + SYNC
    )
    data = stream.message(b"d", b"1\n2\n") + stream.message(b"c", b"") + (SYNC if extended else b"")

    async def client() -> list[bytes]:
        session = await own_client.connect(gate.url, application_name="copy", within=PATIENCE)
        session._transport.write(prepared if extended else own_wire.query(sql))
        kinds: list[bytes] = []
        try:
            while True:
                kinds.append((await asyncio.wait_for(session._next_message(), PATIENCE)).kind)
                if kinds[-1] == b"G":
                    session._transport.write(data)
        except own_client.SessionEnded:
            return kinds
        finally:
            session.terminate()

    gate.rule("copy", "lose_answer")
    assert asyncio.run(client()) == ([b"1", b"2", b"G"] if extended else [b"G"])
    assert (gate.acted, gate.rows()) == (1, [1, 2])


@pytest.mark.parametrize("close", ["reset", "silence"])
def test_the_lost_answer_to_a_copy_into_a_table_of_asyncpg(gate: Gate, close: str) -> None:
    async def client(connection: asyncpg.Connection) -> None:
        async def copy() -> None:
            with pytest.raises(ENDED):
                await connection.copy_records_to_table("statements", records=[(1,), (2,)])

        copying = asyncio.create_task(copy())
        await asyncio.to_thread(gate.until_acted)
        assert await asyncio.to_thread(gate.rows) == [1, 2]
        await asyncio.to_thread(gate.heal)
        await copying

    gate.rule("copy", "lose_answer", close=close)
    run(gate, client)


async def copied(connection: asyncpg.Connection, **options: str) -> bytes:
    """Copy 1000 rows out until the connection ends, and return the data."""
    received = bytearray()

    async def write(data: bytes) -> None:
        received.extend(data)

    with pytest.raises(ENDED):
        await connection.copy_from_query("select generate_series(1000, 1999)", output=write, **options)
    assert connection.is_closed()
    return bytes(received)


def test_the_lost_answer_to_a_copy_out_of_asyncpg(gate: Gate) -> None:
    gate.rule("copy", "lose_answer")
    assert run(gate, copied) == b""
    assert gate.acted == 1


@pytest.mark.parametrize(("limit", "passed"), [({"rows": 2}, b"1000\n1001\n"), ({"rows": 0}, b"")])
def test_the_answer_to_a_copy_out_of_asyncpg_is_cut(gate: Gate, limit: dict[str, int], passed: bytes) -> None:
    gate.rule("copy", "cut_answer", **limit)
    assert run(gate, copied) == passed
    assert gate.acted == 1


def test_the_answer_to_a_copy_out_is_cut_behind_bytes(gate: Gate) -> None:
    async def client() -> list[tuple[bytes, bytes]]:
        session = await own_client.connect(gate.url, application_name="copy", within=PATIENCE)
        session._transport.write(own_wire.query("copy (select generate_series(1000, 1999)) to stdout"))
        messages: list[tuple[bytes, bytes]] = []
        with pytest.raises(own_client.SessionEnded):
            while True:
                message = await asyncio.wait_for(session._next_message(), PATIENCE)
                messages.append((message.kind, message.body))
        session.terminate()
        return messages

    gate.rule("copy", "cut_answer", bytes=10 + 2 * 10 + 3)  # CopyOutResponse, two rows and a part of the third
    assert asyncio.run(client()) == [(b"H", b"\0\0\1\0\0"), (b"d", b"1000\n"), (b"d", b"1001\n")]
    assert gate.acted == 1


@pytest.mark.parametrize("limit", [{"bytes": 3}, {"bytes": 100}, {"rows": 5}])
def test_a_copy_into_a_table_whose_answer_is_cut_ends(gate: Gate, limit: dict[str, int]) -> None:
    """Three bytes are a part of the answer that waits for data. The answer is shorter than 100 bytes, and has no row."""

    async def client(connection: asyncpg.Connection) -> None:
        with pytest.raises(ENDED):
            await connection.copy_records_to_table("statements", records=[(1,)])

    gate.rule("copy", "cut_answer", **limit)
    run(gate, client)
    assert gate.acted == 1
    if limit != {"bytes": 3}:  # asyncpg sends the data without waiting, so either the data or the end comes first
        assert gate.rows() == [1]
