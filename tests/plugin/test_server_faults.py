"""Faults inside the servers: they answer, and the answer is an error; afterwards they are as before."""

from __future__ import annotations

import pytest


def test_redis_answers_with_errors_and_heals(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest, redis

        @pytest.fixture
        def client(resilience):
            with redis.Redis.from_url(resilience.redis.url, retry=None, socket_timeout=2) as client:
                client.set("key", "value")
                yield client

        def test_oom(resilience, client):
            with resilience.redis.oom() as strike:
                with pytest.raises(redis.exceptions.OutOfMemoryError):
                    client.set("key", "other")
                assert client.get("key") == b"value"
            assert client.set("key", "other")
            assert (strike.receipt.touched, strike.receipt.unit) == (1, "commands")
            assert client.config_get("maxmemory") == {"maxmemory": "0"}

        def test_readonly(resilience, client):
            with resilience.redis.readonly() as strike:
                with pytest.raises(redis.exceptions.ReadOnlyError):
                    client.set("key", "other")
                assert client.get("key") == b"value"
            assert client.set("key", "other")
            assert client.info("replication")["role"] == "master"
            assert strike.receipt.touched == 1

        def test_max_clients(resilience, client):
            client.ping()
            with resilience.redis.max_clients(left=1) as strike:
                with redis.Redis.from_url(resilience.redis.url, retry=None) as one, redis.Redis.from_url(resilience.redis.url, retry=None) as two:
                    assert one.ping()
                    with pytest.raises(redis.ConnectionError, match="max number of clients"):
                        two.ping()
                assert client.ping()
            assert (strike.receipt.touched, strike.receipt.unit) == (1, "connections")
            with redis.Redis.from_url(resilience.redis.url, retry=None) as one:
                assert one.ping()

        def test_flush(resilience, client):
            client.select(3)
            client.set("other", 1)
            with resilience.redis.flush() as strike:
                assert client.get("key") is None
            assert (strike.receipt.touched, strike.receipt.unit) == (2, "keys")

        @pytest.mark.fault("redis.flush")
        def test_flush_of_nothing_is_vacuous(resilience):
            pass
        """
    )
    result = project.runpytest_subprocess()
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["*4 passed, 1 vacuous*"])


def test_postgres_ends_sessions_refuses_writes_and_crashes(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import asyncio, asyncpg, pytest

        @pytest.fixture
        def runner():
            with asyncio.Runner() as runner:
                yield runner

        @pytest.fixture
        def connection(resilience, runner):
            connection = runner.run(asyncpg.connect(resilience.postgres.url))
            runner.run(connection.execute("create table t (x int)"))
            yield connection
            connection.terminate()

        def ask(resilience, runner, query):
            async def work():
                connection = await asyncpg.connect(resilience.postgres.url)
                try:
                    return await connection.fetchval(query)
                finally:
                    await connection.close()
            return runner.run(work())

        def test_terminate_backends(resilience, runner, connection):
            strike = resilience.postgres.terminate_backends()
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
                runner.run(connection.fetchval("select 1"))
            assert strike.receipt.touched == 1
            assert ask(resilience, runner, "select count(*) from t") == 0

        def test_crash(resilience, runner, connection):
            runner.run(connection.execute("insert into t values (7)"))
            strike = resilience.postgres.crash()
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
                runner.run(connection.fetchval("select 1"))
            assert strike.receipt.touched == 1
            assert ask(resilience, runner, "select x from t") == 7, "what was acknowledged survives"

        def test_read_only(resilience, runner, connection):
            with resilience.postgres.read_only() as strike:
                assert ask(resilience, runner, "select count(*) from t") == 0
                with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                    ask(resilience, runner, "insert into t values (1) returning x")
            assert strike.receipt.touched is None
            assert ask(resilience, runner, "insert into t values (1) returning x") == 1
        """
    )
    project.runpytest_subprocess("--resilience-strict").assert_outcomes(passed=3)
