"""The plugin's own clients, with real servers."""

from __future__ import annotations

import asyncio
import threading

import pytest

from pytest_resilience.backends.embedded.backend import EmbeddedBackend
from pytest_resilience.clients import postgres
from pytest_resilience.clients.redis import RedisClient
from pytest_resilience.wire.redis import ErrorReply

NAME = "client-under-test"


@pytest.fixture(scope="module")
def servers():
    with EmbeddedBackend() as backend:
        yield backend.servers


@pytest.fixture
def url(servers):
    return servers["postgres"].url(servers["postgres"].direct_address)


@pytest.fixture
def client(servers):
    server = servers["redis"]
    with RedisClient(server.url(server.direct_address), name=NAME, timeout=10) as client:
        client.call("FLUSHALL")
        yield client


def in_session(url, body, **settings):
    """Run `body(session)` and close the session."""

    async def work():
        session = await postgres.connect(url, **{"application_name": NAME, "within": 20} | settings)
        try:
            return await body(session)
        finally:
            await session.close()

    return asyncio.run(work())


# -- Postgres


def test_rows_are_read_by_position_and_by_name(url):
    async def body(session):
        rows = await session.fetch("select n, n > 1 as more, array['a', null] as list from generate_series(1, 2) n")
        assert [list(row) for row in rows] == [[1, False, ["a", None]], [2, True, ["a", None]]]
        assert (rows[1]["n"], rows[1]["more"], len(rows[1])) == (2, True, 3)
        assert rows[0].as_dict() == {"n": 1, "more": False, "list": ["a", None]}
        assert repr(rows[0]) == "Row({'n': 1, 'more': False, 'list': ['a', None]})"
        assert await session.fetchval("select current_setting('application_name')") == NAME

    in_session(url, body)


@pytest.mark.parametrize("value", ['it\'s "quoted" \\ größe', "", None])
def test_text_is_sent_and_returned_unchanged(url, value):
    async def body(session):
        assert await session.fetchval("select $1::text", value) == value
        assert await session.fetchval("select $1::text[]", [value, value]) == [value, value]

    in_session(url, body)


def test_several_statements_are_one_script(url):
    async def body(session):
        await session.execute("create temp table t (x int); insert into t values (1), (2)")
        await session.execute("insert into t values ($1)", 3)
        assert await session.fetchval("select sum(x) from t") == 6
        assert await session.fetch("select x from t where false") == []

    in_session(url, body)


def test_an_error_has_its_code_and_the_session_stays_open(url):
    async def body(session):
        for run in (session.fetch, session.execute):
            with pytest.raises(postgres.PostgresError, match=r'relation "nowhere" does not exist \(42P01\)') as caught:
                await run("select * from nowhere")
            assert caught.value.code == "42P01"
        await session.execute("do $$ begin raise notice 'by the way'; end $$")
        assert await session.fetchval("select 1") == 1

    in_session(url, body)


def test_a_wrong_password_is_an_error_that_does_not_contain_it(url):
    secret = url.split(":")[2].split("@")[0]
    wrong = url.replace(secret, "wrong")
    assert wrong != url
    with pytest.raises(postgres.PostgresError, match="28P01") as caught:
        in_session(wrong, lambda session: session.fetch("select 1"))
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize("mode", ["prefer", "disable", "allow"])
def test_a_server_without_tls_is_reached_unless_the_url_requires_tls(url, mode):
    assert in_session(f"{url}?sslmode={mode}", lambda session: session.fetchval("select 1")) == 1
    with pytest.raises(ConnectionError, match="has no TLS, which sslmode=require demands"):
        in_session(f"{url}?sslmode=require", lambda session: session.fetchval("select 1"))


def test_the_environment_changes_nothing(url, monkeypatch):
    for name, value in {
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": "/nowhere",
        "PGTARGETSESSIONATTRS": "standby",
        "PGDATABASE": "no",
    }.items():
        monkeypatch.setenv(name, value)
    assert in_session(url, lambda session: session.fetchval("select current_database()")) == "resilience"
    assert (
        in_session(url, lambda session: session.fetchval("select current_database()"), database="postgres")
        == "postgres"
    )


def test_options_of_the_url_are_settings_of_the_session(url):
    with_options = f"{url}?options=-c%20statement_timeout%3D7s"
    assert in_session(with_options, lambda session: session.fetchval("show statement_timeout")) == "7s"


def test_an_abandoned_statement_is_cancelled_before_the_next(url):
    async def body(session):
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(session.fetch("select pg_sleep(60)"), 0.05)
            assert await session.fetchval("select 7") == 7

    in_session(url, body)


def test_locks_are_released_when_close_returns(url):
    """A session that waits for another lock releases its locks, too."""

    async def work():
        holder = await postgres.connect(url, application_name=NAME, within=20)
        waiter = await postgres.connect(url, application_name=NAME, within=20)
        await holder.execute("create table locked (x int)")
        await holder.execute("begin; lock table locked")
        await waiter.execute("begin; select pg_advisory_lock(7)")
        waiting = asyncio.ensure_future(waiter.execute("lock table locked"))
        while not await holder.fetchval("select exists (select from pg_locks where not granted)"):
            assert not waiting.done()
        waiting.cancel()
        await waiter.close()
        assert await holder.fetchval("select pg_try_advisory_lock(7)") is True
        await holder.execute("rollback; drop table locked")
        await holder.close()
        assert holder.is_closed()
        await holder.close()

    asyncio.run(work())


def test_statements_of_two_tasks_take_turns(url):
    async def body(session):
        assert await asyncio.gather(*(session.fetchval("select $1::int", n) for n in range(20))) == list(range(20))

    in_session(url, body)


def test_the_error_of_a_terminated_session_has_its_reason(url):
    async def work():
        session = await postgres.connect(url, application_name=NAME, within=20)
        other = await postgres.connect(url, application_name=NAME, within=20)
        await other.execute(f"select pg_terminate_backend({session.get_server_pid()})")
        await session.wait_closed()
        with pytest.raises(postgres.SessionEnded, match="57P01"):
            await session.fetch("select 1")
        await session.close()
        ended = asyncio.ensure_future(other.fetch("select pg_terminate_backend(pg_backend_pid())"))
        with pytest.raises(postgres.SessionEnded, match="57P01"):
            await ended

    asyncio.run(work())


# -- Redis


def test_replies_are_text_numbers_and_lists(client):
    assert client.call("SET", "key", "größe") == "OK"
    assert client.text("GET", "key") == "größe"
    assert client.call("GET", "other") is None
    assert client.count("DBSIZE") == 1
    assert client.call("KEYS", "*") == ["key"]
    assert client.info("keyspace")["db0"].startswith("keys=1,")
    assert [each["name"] for each in client.clients()] == [NAME]


def test_an_error_of_one_command_is_raised_and_among_several_returned(client):
    with pytest.raises(ErrorReply, match="unknown command"):
        client.call("NONSENSE")
    replies = client.call_all([("PING",), ("NONSENSE",), ("PING",)])
    assert [type(reply) for reply in replies] == [str, ErrorReply, str]
    assert client.call("PING") == "PONG"


def test_settings_are_read_and_changed(client):
    before = client.setting("timeout")
    client.configure("timeout", "77")
    assert client.setting("timeout") == "77"
    client.configure("timeout", before)
    assert client.setting("no-such-setting") is None


def test_a_closed_connection_is_opened_again(client):
    other = client.duplicate(timeout=10)
    for _ in range(3):
        client.call("PING")
        assert other.count("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") == 1
        assert client.call("PING") == "PONG"
    other.close()


def test_the_database_and_the_login_of_the_url_are_used_on_each_connection(servers, client):
    client.call("ACL", "SETUSER", "ann", "on", ">s3cr:t", "~*", "+@all")
    host, port = servers["redis"].direct_address
    try:
        with RedisClient(f"redis://ann:s3cr%3At@{host}:{port}/3", name=NAME, timeout=10) as third:
            third.call("SET", "here", "1")
            third.close()
            assert third.count("DBSIZE") == 1
            assert "s3cr" not in repr(third)
        assert client.count("DBSIZE") == 0
        with (
            RedisClient(f"redis://ann:wrong@{host}:{port}/3", name=NAME, timeout=10) as wrong,
            pytest.raises(ErrorReply, match="WRONGPASS"),
        ):
            wrong.call("PING")
    finally:
        client.call("ACL", "DELUSER", "ann")


def test_threads_take_turns(client):
    wrong = []

    def echo(number):
        for turn in range(50):
            reply = client.text("ECHO", f"{number}-{turn}")
            if reply != f"{number}-{turn}":
                wrong.append(reply)

    threads = [threading.Thread(target=echo, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
