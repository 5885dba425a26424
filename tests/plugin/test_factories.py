"""Further Postgres and Redis servers, and a schema with which each test begins."""

from __future__ import annotations

import pytest

ASK = """
import asyncio, asyncpg, pytest, redis
from pytest_resilience import SetupError, factories

def execute(url, *queries):
    async def work():
        connection = await asyncpg.connect(url, timeout=2)
        try:
            return [await connection.fetchval(query) for query in queries][-1]
        finally:
            await connection.close()
    return asyncio.run(work())
"""


def test_further_servers_are_struck_separately_and_begin_clean(project: pytest.Pytester) -> None:
    project.makepyfile(
        ASK
        + """
replica = factories.postgres("replica", init="create table t (x int); insert into t values (1), (2)")
sessions = factories.redis("sessions")

@pytest.mark.parametrize("turn", [1, 2])
def test_apart(resilience, replica, sessions, turn):
    assert execute(replica.url, "select count(*) from t") == 2, "schema and rows in each test"
    execute(replica.url, "insert into t values (3)", "create table u ()")
    assert execute(resilience.postgres.url, "select to_regclass('t') is null")
    with redis.Redis.from_url(sessions.url) as client, redis.Redis.from_url(resilience.redis.url) as other:
        assert client.dbsize() == 0
        client.set("key", "value")
        assert other.get("key") is None
    with replica.refuse() as strike:
        with pytest.raises(OSError):
            execute(replica.url, "select 1")
        assert execute(resilience.postgres.url, "select 1") == 1
    assert strike.label == "replica.refuse" and strike.receipt.touched
    sessions.kill()
    with pytest.raises(redis.ConnectionError):
        redis.Redis.from_url(sessions.url, retry=None).ping()

def test_healed(sessions):
    with redis.Redis.from_url(sessions.url) as client:
        assert client.ping()

@pytest.mark.fault("replica.latency", seconds=0.05)
def test_marker(resilience, replica):
    execute(replica.url, "select 1")
    assert [s.label for s in resilience.strikes] == ["replica.latency(seconds=0.05)"]

def test_session(resilience_stack, replica):
    assert resilience_stack.add_postgres("replica").url == replica.url
    assert replica.direct_url != resilience_stack.postgres.direct_url

@pytest.mark.parametrize("name", ["postgres", "service", "No", "", "../up", "sessions"])
def test_names(resilience_stack, sessions, name):
    with pytest.raises(SetupError, match="can't be the name"):
        resilience_stack.add_postgres(name)
"""
    )
    project.runpytest_subprocess("--resilience-strict").assert_outcomes(passed=11)


def test_each_test_begins_with_the_schema_of_the_user(project: pytest.Pytester) -> None:
    project.makefile(".sql", schema="create table plans (name text); insert into plans values ('free'), ('paid');")
    project.makepyfile(
        ASK
        + """
from pathlib import Path

def migrate(url):
    execute(url, "create table migrated (x int)")

@pytest.fixture(scope="session")
def resilience_schema():
    return [Path("schema.sql"), "create index on plans (name)", migrate]

@pytest.mark.parametrize("turn", [1, 2])
def test_it(resilience, turn):
    assert execute(resilience.postgres.url, "select count(*) from plans") == 2
    assert execute(resilience.postgres.url, "select count(*) from migrated") == 0
    execute(resilience.postgres.url, "delete from plans", "drop table migrated")
"""
    )
    project.runpytest_subprocess().assert_outcomes(passed=2)


def test_a_wrong_schema_is_an_error_at_once(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="session")
        def resilience_schema():
            return "create tabel plans ()"

        def test_it(resilience):
            pass
        """
    )
    result = project.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*SetupError: the schema could not be created: 'create tabel plans ()': syntax error at*"]
    )
