"""MySQL and MariaDB in containers: their faults, and the state in which each test begins."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from pytest_resilience import MysqlTarget, Resilience, SetupError, Stack
from pytest_resilience.backends.docker import engine
from pytest_resilience.systems.mysql.program import MARIADB_IMAGE, MYSQL_IMAGE
from tests.support.systems import assert_one_fails_without_its_password, docker_stack
from tests.support.waiting import until

SCHEMA = """
create table products (id int primary key auto_increment, name varchar(40) not null, price int, total int as (price * 2) stored);
insert into products (name, price) values ('lamp', 950), ('chair', 4900);
create table sales (id int primary key auto_increment, product int, foreign key (product) references products (id));
create view cheap as select name from products where price < 1000;
create procedure sell(which int) insert into sales (product) values (which);
create trigger counted after insert on sales for each row update products set price = price + 1 where id = new.product
"""
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    yield from docker_stack(MYSQL_IMAGE, MARIADB_IMAGE)


@pytest.fixture
def mysql(resilience: Resilience) -> MysqlTarget:
    return resilience.add_mysql("mysql", SCHEMA)


Connect = Callable[[], Any]


@pytest.fixture
def connect(mysql: MysqlTarget) -> Iterator[Connect]:
    """Open connections of a client through the proxy."""
    with contextlib.ExitStack() as opened:

        def connect() -> Any:
            connection = pymysql.connect(
                host=mysql.host,
                port=mysql.port,
                user=mysql.user,
                password=mysql.password,
                database=mysql.database,
                connect_timeout=5,
                read_timeout=5,
                autocommit=True,
            )
            opened.callback(lambda: connection.open and connection.close())
            return connection

        yield connect


def run(connection: Any, *statements: str) -> list[Any]:
    """Run statements, and return the rows of the last one."""
    with connection.cursor() as cursor:
        for each in statements:
            cursor.execute(each)
        return list(cursor.fetchall())


def next_test(stack: Stack) -> None:
    stack.prepare_test(None)


# Faults


def test_writes_are_refused_and_counted_and_reads_work(mysql: MysqlTarget, connect: Connect) -> None:
    client = connect()
    with mysql.read_only() as strike:
        for _ in range(2):
            with pytest.raises(pymysql.err.OperationalError, match=r"read.only") as refused:
                run(client, "insert into products (name) values ('sofa')")
            assert refused.value.args[0] == 1290
        assert run(client, "select count(*) from products") == [(2,)]
    assert (strike.receipt.touched, strike.receipt.unit) == (2, "commands")
    run(client, "insert into products (name) values ('sofa')")


def test_a_ban_of_writes_that_only_readers_and_new_clients_meet_is_vacuous(
    mysql: MysqlTarget, connect: Connect
) -> None:
    old = connect()
    with mysql.read_only() as strike:
        run(connect(), "select * from cheap")
        old.close()
    assert strike.vacuous


def test_writes_stay_forbidden_until_the_last_ban_heals(mysql: MysqlTarget, connect: Connect) -> None:
    client = connect()
    first, second = mysql.read_only(), mysql.read_only()
    first.heal()
    with pytest.raises(pymysql.err.OperationalError):
        run(client, "delete from sales")
    second.heal()
    run(client, "delete from sales")


def test_few_connections_are_left_and_refused_ones_are_counted(mysql: MysqlTarget, connect: Connect) -> None:
    old = connect()
    with mysql.starve(connections=1) as strike:
        connect()
        for _ in range(3):
            with pytest.raises(pymysql.err.OperationalError) as refused:
                connect()
            assert refused.value.args[0] == 1040
        assert run(old, "select 1") == [(1,)], "existing connections are not affected"
        assert strike.receipt.touched == 3, "also while the fault lasts"
    assert (strike.receipt.touched, strike.receipt.unit) == (3, "connections")
    connect()


def test_connections_stay_taken_until_the_last_strike_heals(mysql: MysqlTarget, connect: Connect) -> None:
    first = mysql.take_connections(left=2)
    second = mysql.take_connections()
    first.heal()
    with pytest.raises(pymysql.err.OperationalError):
        connect()
    second.heal()
    connect()


def test_more_connections_than_are_free_cannot_be_left(mysql: MysqlTarget) -> None:
    with pytest.raises(
        SetupError,
        match=r"mysql.starve\(connections=1000\) cannot strike: it would leave 1000, but the server has only",
    ):
        mysql.starve(connections=1000)


def test_locks_are_for_postgres(mysql: MysqlTarget) -> None:
    with pytest.raises(SetupError, match="only a Postgres has lock="):
        mysql.starve(lock="products")


def test_an_administrator_closes_all_connections(mysql: MysqlTarget, connect: Connect) -> None:
    clients = [connect(), connect()]
    assert mysql.close_connections().receipt.touched == 2
    for client in clients:
        with pytest.raises(pymysql.err.OperationalError):
            run(client, "select 1")
    assert mysql.close_connections().receipt.touched == 0


def test_a_killed_server_refuses_and_comes_back_with_its_data(mysql: MysqlTarget, connect: Connect) -> None:
    client = connect()
    run(client, "insert into products (name) values ('sofa')")
    with mysql.kill() as strike:
        with pytest.raises(pymysql.err.OperationalError):
            run(client, "select 1")
        with pytest.raises(pymysql.err.OperationalError):
            connect()
    assert strike.receipt.unit == "processes"
    assert strike.receipt.touched
    assert run(connect(), "select count(*) from products") == [(3,)]


def test_a_paused_server_answers_after_the_heal(mysql: MysqlTarget, connect: Connect) -> None:
    client = connect()
    client._read_timeout = 0.5
    with mysql.pause(), pytest.raises(pymysql.err.OperationalError, match="timed out"):
        run(client, "select 1")
    assert run(connect(), "select 1") == [(1,)]


def test_a_restart_ends_the_connections(mysql: MysqlTarget, connect: Connect) -> None:
    client = connect()
    assert mysql.restart().receipt.touched
    with pytest.raises(pymysql.err.OperationalError):
        run(client, "select 1")
    assert run(connect(), "select count(*) from products") == [(2,)]


def test_faults_of_the_network_strike_what_comes_through_the_proxy(mysql: MysqlTarget, connect: Connect) -> None:
    client = connect()
    with mysql.reset() as strike, pytest.raises(pymysql.err.OperationalError):
        run(client, "select 1")
    assert (strike.receipt.touched, strike.receipt.unit) == (1, "connections")
    with mysql.refuse(), pytest.raises(pymysql.err.OperationalError, match="refused"):
        connect()


# The state in which each test begins


def test_rows_are_those_of_the_baseline(stack: Stack, mysql: MysqlTarget, connect: Connect) -> None:
    run(connect(), "call sell(1)", "update products set price = 1", "delete from products where id = 2")
    next_test(stack)
    client = connect()
    assert run(client, "select id, name, price, total from products order by id") == [
        (1, "lamp", 950, 1900),
        (2, "chair", 4900, 9800),
    ]
    assert run(client, "select * from sales") == []
    run(client, "call sell(2)")
    assert run(client, "select id from sales") == [(1,)], "identities begin again"
    assert run(client, "select price from products where id = 2") == [(4901,)], "there is the trigger"


def test_the_schema_is_that_of_the_baseline(stack: Stack, mysql: MysqlTarget, connect: Connect) -> None:
    client = connect()
    run(
        client,
        "create table more (id int)",
        "drop view cheap",
        "alter table products add color int",
        "create database other",
    )
    next_test(stack)
    assert {row[0] for row in run(client, "show tables")} == {"products", "sales", "cheap"}
    assert "color" not in str(run(client, "show create table products"))
    assert ("other",) not in run(client, "show databases")
    assert run(client, "select name from cheap") == [("lamp",)]


def test_users_and_global_variables_are_those_of_the_baseline(
    stack: Stack, mysql: MysqlTarget, connect: Connect
) -> None:
    with mysql.admin._connect() as root:
        root.query("create user 'guest'@'%'; set global max_connections = 60")
    next_test(stack)
    with mysql.admin._connect() as root:
        assert "guest" not in root.column("select user from mysql.user")
        assert root.value("select @@global.max_connections") == "151"


@pytest.mark.parametrize("lock", ["begin; update products set price = 2", "lock tables products write"])
def test_locks_of_a_connection_that_is_left_do_not_delay_the_next_test(
    stack: Stack, mysql: MysqlTarget, connect: Connect, lock: str
) -> None:
    left = connect()
    run(left, *lock.split("; "))
    next_test(stack)
    assert run(connect(), "select price from products where id = 1") == [(950,)]


def test_a_fault_of_the_session_lasts_in_the_next_test(stack: Stack, mysql: MysqlTarget, connect: Connect) -> None:
    with stack.add_mysql("mysql").read_only():
        next_test(stack)
        with pytest.raises(pymysql.err.OperationalError):
            run(connect(), "delete from sales")


def test_a_server_that_the_session_has_killed_stays_dead(stack: Stack, mysql: MysqlTarget) -> None:
    with stack.add_mysql("mysql").kill():
        next_test(stack)
        assert not mysql.server.alive()


def test_a_server_that_a_test_has_left_dead_starts_again(stack: Stack, mysql: MysqlTarget, connect: Connect) -> None:
    mysql.server.kill()
    next_test(stack)
    assert run(connect(), "select count(*) from products") == [(2,)]


def test_a_schema_with_an_error_names_the_statement(resilience: Resilience) -> None:
    for _ in range(2):  # the second time at once
        with pytest.raises(SetupError, match="the schema could not be created: 'create tabel'"):
            resilience.add_mysql("wrong", "create tabel")


def test_steps_of_a_schema_are_texts_files_and_functions(resilience: Resilience, tmp_path: Path) -> None:
    (tmp_path / "more.sql").write_text("create table b (id int)")
    urls: list[str] = []
    mariadb = resilience.add_mariadb("mariadb", ["create table a (id int)", tmp_path / "more.sql", urls.append])
    assert urls == [mariadb.direct_url]
    assert urls != [mariadb.url]
    with mariadb.admin._connect() as root:
        assert root.column("show tables from resilience") == ["a", "b"]


def test_ports_are_published_on_loopback_only(mysql: MysqlTarget) -> None:
    found = engine.find_engine().find_labelled("containers", engine.SESSION)
    ports = [port for each in found if each["Image"] == MYSQL_IMAGE for port in each["Ports"] if "PublicPort" in port]
    assert ports
    assert {port["IP"] for port in ports} == {"127.0.0.1"}


# The end of the session

SESSION = """
import sys, time
from pytest_resilience.backends.docker.backend import DockerBackend
from pytest_resilience.backends.settings import Settings
from pytest_resilience.stack import Stack
backend = DockerBackend(Settings(proxy="ours"))
stack = Stack(backend, 1)
print(backend.directory.name, flush=True)
stack.add_mysql("mysql").read_only()
print("struck", flush=True)
time.sleep(600)
"""


def test_nothing_is_left_of_a_killed_session(stack: Stack) -> None:
    def containers() -> list[Any]:
        return engine.find_engine().find_labelled("containers", f"{engine.SESSION}={name}")

    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", SESSION], stdout=subprocess.PIPE, text=True, env=environ) as process:
        try:
            assert process.stdout
            name = process.stdout.readline().strip()
            assert process.stdout.readline() == "struck\n"
            assert len(containers()) == 3
        finally:
            process.kill()
    until(lambda: containers() == [], within=20)


# In a project


def test_a_project_strikes_it_by_attribute_marker_and_schedule(pytester: pytest.Pytester, stack: Stack) -> None:
    pytester.makeconftest(
        """
from pytest_resilience import factories
shop = factories.mysql("shop", init="create table items (id int)")
"""
    )
    pytester.makepyfile(
        """
import pymysql, pytest
from pytest_resilience import ScheduleError, Step

def client(shop):
    return pymysql.connect(host=shop.host, port=shop.port, user=shop.user, password=shop.password, database=shop.database)

def test_attribute(resilience):
    assert resilience.shop.url.startswith("mysql://resilience:") and resilience.shop.url.endswith("/resilience")
    assert resilience.shop.password not in repr(resilience.shop)
    with resilience.shop.close_connections():
        pass

@pytest.mark.fault("shop.read_only")
def test_marker(resilience, shop):
    with client(shop) as connection, connection.cursor() as cursor, pytest.raises(pymysql.err.OperationalError):
        cursor.execute("insert into items values (1)")

def test_labels(resilience):
    assert resilience.strike("shop.read_only").label == "shop.read_only"
    Step("shop.starve", {"connections": 1}), Step("shop.kill")
    with pytest.raises(ScheduleError, match="no fault named"):
        Step("shop.read_onyl")

def test_password(shop):
    assert not shop, shop.url
"""
    )
    assert_one_fails_without_its_password(pytester, "shop", "mysql", "close_connections")
