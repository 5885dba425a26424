"""A test sees nothing of the data and sessions of earlier tests."""

from __future__ import annotations

import pytest

ASK = """
import asyncio, asyncpg, pytest, redis

def execute(url, *queries, fetch=None):
    async def work():
        connection = await asyncpg.connect(url)
        try:
            for query in queries:
                await connection.execute(query)
            return await connection.fetchval(fetch) if fetch else None
        finally:
            await connection.close()
    return asyncio.run(work())
"""


def test_rows_tables_types_sequences_databases_and_keys_are_gone(project: pytest.Pytester) -> None:
    project.makepyfile(
        ASK
        + """
@pytest.mark.parametrize("turn", [1, 2, 3])
def test_it(resilience, turn):
    url = resilience.postgres.url
    client = redis.Redis.from_url(resilience.redis.url)
    assert client.dbsize() == 0 and not client.script_exists("a" * 40)[0]
    execute(url, "create table t (id serial primary key, x int)", "create type mood as enum ('good', 'bad')",
        "create schema side", "create table side.s (id int generated always as identity)", "insert into t (x) values (1)",
        "create function f() returns int language sql as 'select 1'", "create database another")
    assert execute(url, fetch="select id from t") == 1
    client.set("key", "value")
    redis.Redis.from_url(resilience.redis.url, db=3).set("key", "value")
    client.close()
"""
    )
    project.runpytest_subprocess().assert_outcomes(passed=3)


def test_the_baseline_has_what_session_fixtures_created(project: pytest.Pytester) -> None:
    project.makepyfile(
        ASK
        + """
@pytest.fixture(scope="session", autouse=True)
def schema(resilience_stack):
    execute(resilience_stack.postgres.url, "create table parent (id serial primary key, name text)",
        "create table child (parent int references parent)", "insert into parent (name) values ('root')",
        "create table empty (id serial)")

@pytest.mark.parametrize("spoil", [
    "insert into parent (name) values ('more')", "update parent set name = 'other'", "delete from parent",
    "insert into child values (1)", "insert into empty default values", "drop table child", "alter table empty add column y int",
    "truncate parent cascade", "select nextval('parent_id_seq')", "create index on parent (name)",
    "alter table parent alter column name set not null", "create view v as select * from parent",
])
def test_it(resilience, spoil):
    url = resilience.postgres.url
    assert execute(url, fetch="select string_agg(name, ',') from parent") == "root"
    assert execute(url, fetch="select count(*) from child") == 0
    execute(url, spoil)

def test_sequences_continue_from_the_baseline(resilience):
    url = resilience.postgres.url
    assert execute(url, fetch="insert into empty default values returning id") == 1
    assert execute(url, fetch="insert into parent (name) values ('x') returning id") == 2
    assert execute(url, fetch="select count(*) from information_schema.columns where table_name = 'empty'") == 1
"""
    )
    project.runpytest_subprocess().assert_outcomes(passed=13)


def test_a_transaction_or_lock_ends_with_its_test(project: pytest.Pytester) -> None:
    project.makepyfile(
        ASK
        + """
LEFT = []

def test_leaves(resilience):
    execute(resilience.postgres.url, "create table t (x int)")
    runner = asyncio.Runner()
    connection = runner.run(asyncpg.connect(resilience.postgres.url))
    runner.run(connection.execute("begin; lock table t; select pg_advisory_lock(7)"))
    LEFT.append((runner, connection))

def test_finds_nothing(resilience):
    assert execute(resilience.postgres.url, fetch="select pg_try_advisory_lock(7)") is True
    runner, connection = LEFT[0]
    connection.terminate()
    runner.close()
"""
    )
    project.runpytest_subprocess().assert_outcomes(passed=2)


def test_a_service_that_was_used_or_struck_is_restarted_for_the_next_test(shop: pytest.Pytester) -> None:
    shop.makepyfile(
        """
        PIDS = []

        def test_uses(resilience):
            assert resilience.service.get("/memory").text == "2", "one request for its readiness, and this one"
            assert resilience.service.get("/orders").text == "1"
            PIDS.append(resilience.service.process.pid)

        def test_finds_a_new_process(resilience):
            assert resilience.service.get("/memory").text == "2"
            assert resilience.service.get("/orders").text == "1"
            assert resilience.service.process.pid != PIDS[0]
            assert resilience.service.log.count("shop: open") == 1
        """
    )
    shop.runpytest_subprocess().assert_outcomes(passed=2)


def test_a_service_may_be_kept_between_tests(shop: pytest.Pytester) -> None:
    shop.makeconftest(
        (shop.path / "conftest.py").read_text().replace("within=10.0,", "within=10.0, restart_between_tests=False,")
    )
    shop.makepyfile(
        """
        PIDS = set()

        def test_uses(resilience):
            assert resilience.service.get("/orders").text == "1"
            PIDS.add(resilience.service.process.pid)

        def test_kills(resilience):
            assert resilience.service.get("/orders").text == "1"
            PIDS.add(resilience.service.process.pid)
            with resilience.service.kill():
                pass
            PIDS.add(resilience.service.process.pid)

        def test_finds_it_up(resilience):
            assert resilience.service.get("/orders").text == "1"
            assert len(PIDS) == 2
        """
    )
    shop.runpytest_subprocess().assert_outcomes(passed=3)


def test_the_log_of_a_kept_service_has_no_line_of_the_service_of_another_module(shop: pytest.Pytester) -> None:
    """The second module replaces the service, so that the third test starts a new process of the first one."""
    module = """
        import pytest, services

        @pytest.fixture(scope="session")
        def resilience_service():
            return services.%s

        def test_log(resilience):
            assert resilience.service.log.split() == ["%s"]
    """
    shop.makepyfile(
        services="""
        import sys
        from pytest_resilience import Service

        def described(word):
            return Service([sys.executable, "-c", f"print({word!r}, flush=True); import time; time.sleep(60)"],
                port_variable=None, ready=word, restart="never")

        KEPT, ANOTHER = described("kept"), described("another")
        """,
        test_1=module % ("KEPT", "kept"),
        test_2=module % ("ANOTHER", "another"),
        test_3=module % ("KEPT", "kept"),
    )
    result = shop.runpytest_subprocess("-p", "no:randomly", "-p", "no:xdist")
    result.assert_outcomes(passed=3)
