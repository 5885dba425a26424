"""Changes of a server's settings, roles and schema are undone after the test."""

from __future__ import annotations

import pytest

REDIS = """
import pytest, redis, threading, time

SPOILS = {
    "maxmemory": [("CONFIG", "SET", "maxmemory", "1")],
    "requirepass": [("CONFIG", "SET", "requirepass", "hunter2")],
    "maxclients": [("CONFIG", "SET", "maxclients", "1")],
    "timeout": [("CONFIG", "SET", "timeout", "1")],
    "appendonly": [("CONFIG", "SET", "appendonly", "yes")],
    "save": [("CONFIG", "SET", "save", "3600 1")],
    "events": [("CONFIG", "SET", "notify-keyspace-events", "Ex")],
    "several": [("CONFIG", "SET", "hz", "10", "maxmemory-policy", "allkeys-lru", "slowlog-log-slower-than", "0")],
    "user": [("ACL", "SETUSER", "alice", "on", ">secret", "~*", "+@all")],
    "default off": [("ACL", "SETUSER", "default", "off")],
    "default without rights": [("ACL", "SETUSER", "default", "-@all")],
    "default with a selector": [("ACL", "SETUSER", "default", "(+get ~x)", "-set")],
    "replica": [("REPLICAOF", "127.0.0.1", "1")],
    "pause writes": [("CLIENT", "PAUSE", "100000", "WRITE")],
    "pause all": [("CLIENT", "PAUSE", "100000", "ALL")],
    "kill all clients": [("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")],
    "swap": [("SELECT", "3"), ("SET", "x", "1"), ("SWAPDB", "0", "3")],
    "script": [("SCRIPT", "LOAD", "return 1")],
    "function": [("FUNCTION", "LOAD", "#!lua name=mine\\nredis.register_function('f', function() return 1 end)")],
    "open transaction": [("WATCH", "x"), ("MULTI",)],
    "busy script": "busy",
    "no password, no clients": [("CONFIG", "SET", "requirepass", "x"), ("CONFIG", "SET", "maxclients", "1"),
                                ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")],
}
KEPT = []

@pytest.fixture(scope="session", autouse=True)
def session_settings(resilience_stack):
    with redis.Redis.from_url(resilience_stack.redis.url) as client:
        client.config_set("notify-keyspace-events", "KEA")
        client.execute_command("ACL", "SETUSER", "kept", "on", ">word", "+@read", "~a*")

def check(resilience):
    with redis.Redis.from_url(resilience.redis.url, socket_timeout=5) as client:
        assert client.dbsize() == 0
        assert client.set("x", "1")
        config, users = client.config_get("*"), client.acl_list()
        assert config["notify-keyspace-events"] in ("AKE", "KEA")
        assert len(users) == 2
        assert client.role()[0] in ("master", b"master")
        assert client.info("memory")["number_of_cached_scripts"] == 0
        assert client.info("memory")["number_of_functions"] == 0
        assert client.slowlog_len() <= 20
        BEFORE.setdefault("it", (config, users))
        assert BEFORE["it"] == (config, users)

BEFORE = {}

@pytest.mark.parametrize("name", SPOILS)
def test_it(resilience, name):
    check(resilience)
    client = redis.Redis.from_url(resilience.redis.url, single_connection_client=True, socket_timeout=5)
    KEPT.append(client)
    if SPOILS[name] == "busy":
        client.config_set("busy-reply-threshold", 1)
        connection = client.connection
        connection.send_command("EVAL", "redis.call('set', 'x', '1') while true do end", "0")
        return
    for command in SPOILS[name]:
        client.execute_command(*command)

def test_last(resilience):
    check(resilience)
    for client in KEPT:
        client.connection.disconnect()
"""


def test_settings_of_redis_are_restored(project: pytest.Pytester) -> None:
    project.makepyfile(REDIS)
    result = project.runpytest_subprocess("--resilience-leaks=off", "-W", "ignore", "--durations=5")
    result.assert_outcomes(passed=REDIS.count('": [') + REDIS.count('": "busy"') + 1)


def test_a_fault_of_the_session_is_kept(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest, redis

        @pytest.fixture(scope="class")
        def full(resilience_stack):
            with resilience_stack.redis.oom():
                yield

        class TestFull:
            @pytest.mark.parametrize("turn", [1, 2])
            def test_it(self, full, resilience, turn):
                with redis.Redis.from_url(resilience.redis.url) as client, pytest.raises(redis.ResponseError, match="memory"):
                    client.set("x", "1")

        def test_after_it(resilience):
            with redis.Redis.from_url(resilience.redis.url) as client:
                client.set("x", "1")
        """
    )
    project.runpytest_subprocess().assert_outcomes(passed=3)


POSTGRES = '''
import asyncio, asyncpg, os, pytest

def execute(url, *queries, fetch=None, **settings):
    async def work():
        connection = await asyncpg.connect(url, **settings)
        try:
            for query in queries:
                await connection.execute(query)
            return await connection.fetchval(fetch) if fetch else None
        finally:
            await connection.close()
    return asyncio.run(work())

SPOILS = {
    "schema public": ["drop schema public cascade"],
    "schema renamed": ["alter schema public rename to other"],
    "table renamed": ["alter table kept rename to other"],
    "view replaced": ["create or replace view seen as select 8 as x"],
    "comment": ["comment on table kept is 'changed'"],
    "policy": ["create policy p on kept using (true)"],
    "grant": ["grant all on kept to public"],
    "reloptions": ["alter table kept set (fillfactor = 50)"],
    "statistics": ["alter table kept alter x set statistics 5"],
    "statistics object": ["create statistics s on x, y from kept"],
    "database set": ["alter database resilience set work_mem = '1MB'"],
    "database read-only": ["alter database resilience set default_transaction_read_only = on"],
    "database hindered": ["alter database resilience set statement_timeout = 1", "alter database resilience set search_path = nowhere"],
    "database settings reset": ["alter database resilience reset all"],
    "database connections": ["alter database resilience connection limit 0"],
    "database closed": ["revoke connect on database resilience from public"],
    "database comment": ["comment on database resilience is 'mine'"],
    "role set": ["alter role postgres set work_mem = '1MB'"],
    "role set, list": ["alter role postgres set search_path = 'a b', \\"$user\\", nowhere"],
    "role in database": ["alter role postgres in database resilience set work_mem = '2MB'"],
    "all roles": ["alter role all set work_mem = '2MB'"],
    "role read-only": ["alter role postgres set default_transaction_read_only = on"],
    "new role": ["create role alice login password 'x'", "grant select on kept to alice"],
    "new role that owns": ["create role bob login superuser", "set role bob", "create table hers ()", "create schema hers"],
    "new role that owns elsewhere": ["create role carol", "grant all on database postgres to carol"],
    "role changed": ["alter role kept with nologin connection limit 3 valid until '2030-01-01'"],
    "role of the word changed": ["alter role kept password 'other'"],
    "password of postgres": ["alter role postgres password 'other'"],
    "role dropped": ["drop role kept"],
    "role comment": ["comment on role kept is 'mine'"],
    "member": ["create role dora", "grant kept to dora", "grant pg_monitor to kept"],
    "alter system": ["alter system set work_mem = '1MB'", "select pg_reload_conf()"],
    "alter system, at start": ["alter system set max_connections = 50"],
    "alter system, started": ["alter system set max_connections = 50", "RESTART"],
    "alter system, read-only": ["alter system set default_transaction_read_only = on", "select pg_reload_conf()"],
    "database": ["create database another"],
    "template database": ["create database another is_template true"],
    "database dropped": ["drop database postgres"],
    "extension": ["create extension if not exists pg_trgm"],
    "event trigger": ["create function no() returns event_trigger language plpgsql as $$begin raise 'no'; end$$",
                      "create event trigger t on ddl_command_start execute function no()"],
    "default privileges": ["alter default privileges grant all on tables to public"],
    "publication": ["create publication p for all tables"],
    "slot": ["select pg_create_physical_replication_slot('s')"],
    "large object": ["select lo_create(4711)"],
    "large object written": ["select lowrite(lo_open(815, 131072), 'changed')"],
    "server": ["create foreign data wrapper w", "create server s foreign data wrapper w"],
    "tablespace": ["set allow_in_place_tablespaces = on", "create tablespace t location ''", "create table x () tablespace t"],
    "operator": ["create function f(int, int) returns int language sql as 'select 1'", "create operator ### (leftarg = int, rightarg = int, function = f)"],
    "domain": ["alter domain name_of add check (value <> 'x')"],
}

@pytest.fixture(scope="session")
def resilience_schema():
    return """create table kept (x int, y int); create view seen as select 7 as x; create role kept login password 'word';
        create domain name_of as text; select lo_from_bytea(815, 'first'); comment on database resilience is 'kept';
        alter database resilience set datestyle = 'German'; alter role kept set work_mem = '3MB'"""

LOOK = """select md5(concat_ws('|', (select string_agg(relname, ',' order by relname) from pg_class where oid >= 16384),
  (select string_agg(nspname || coalesce(nspacl::text, ''), ',' order by nspname) from pg_namespace where nspname not like 'pg\\\\_t%'),
  (select string_agg(rolname, ',' order by rolname) from pg_roles),
  (select string_agg(concat_ws(',', rolname, rolcanlogin, rolconnlimit, rolpassword, rolvaliduntil), ';' order by rolname) from pg_authid),
  (select string_agg(concat_ws(',', setconfig, datname, setrole::regrole), ';' order by datname, setrole::regrole::text) from pg_db_role_setting left join pg_database d on d.oid = setdatabase),
  (select string_agg(concat_ws(',', datname, datconnlimit, datacl, shobj_description(oid, 'pg_database')), ';' order by datname) from pg_database
     where datname <> 'postgres'),
  (select count(*) from pg_auth_members), (select string_agg(spcname, ',' order by 1) from pg_tablespace), (select count(*) from pg_replication_slots),
  (select string_agg(concat_ws('=', name, setting), ';' order by name) from pg_settings where name in
    ('work_mem', 'default_transaction_read_only', 'search_path', 'max_connections', 'statement_timeout', 'DateStyle')),
  (select string_agg(name, ',') from pg_file_settings where sourcefile like '%auto.conf'),
  (select x from seen), obj_description('kept'::regclass), shobj_description('kept'::regrole, 'pg_authid'),
  (select count(*) from pg_policy), (select count(*) from pg_extension), (select count(*) from pg_event_trigger), (select count(*) from pg_publication),
  (select count(*) from pg_default_acl), (select count(*) from pg_foreign_server), (select count(*) from pg_statistic_ext),
  (select count(*) from pg_operator), convert_from(lo_get(815), 'UTF8'), (select count(*) from pg_largeobject_metadata),
  (select string_agg(concat_ws(',', relacl, reloptions), '') from pg_class where relname = 'kept'), (select count(*) from pg_constraint)))"""
FIRST = {}

def check(resilience):
    now = execute(resilience.postgres.url, "create table probe ()", "drop table probe", fetch=LOOK)
    assert FIRST.setdefault("it", now) == now
    execute(resilience.postgres.url, user="kept", password="word", fetch="select 1")
    execute(resilience.postgres.url.replace("/resilience", "/postgres"), fetch="select 1")

@pytest.mark.parametrize("name", SPOILS)
def test_it(resilience, name):
    check(resilience)
    *queries, last = SPOILS[name]
    execute(resilience.postgres.url, *queries, *([] if last == "RESTART" else [last]))
    if last == "RESTART":
        resilience.postgres.restart()

@pytest.mark.parametrize("name", ["dropped", "renamed"])
def test_the_database_itself(resilience, name):
    check(resilience)
    other = resilience.postgres.url.replace("/resilience", "/postgres")
    end = "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'resilience'"
    execute(other, *([end, "alter database resilience rename to mine"] if name == "renamed" else ["drop database resilience with (force)"]))

def test_last(resilience):
    check(resilience)
'''


def test_settings_of_postgres_are_restored(project: pytest.Pytester) -> None:
    project.makepyfile(POSTGRES)
    result = project.runpytest_subprocess("--resilience-leaks=off", "-W", "ignore", "--resilience-backend=embedded")
    outcomes = result.parseoutcomes()
    assert outcomes == {"passed": POSTGRES.count('": ["') + 3}, outcomes
