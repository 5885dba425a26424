"""The servers of the embedded backend come back after strikes."""

import asyncio
import os
import signal
import socket
import threading
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import psutil
import pytest

from pytest_resilience.admin.postgres import PostgresAdmin
from pytest_resilience.backends.backend import Address
from pytest_resilience.backends.embedded.backend import EmbeddedBackend
from pytest_resilience.backends.session import server_process
from pytest_resilience.errors import ServerNotReady
from tests.support.backends import answers, sql
from tests.support.shared_memory import SharedMemory
from tests.support.waiting import gone, until


@pytest.fixture(scope="module")
def backend():
    with EmbeddedBackend() as started:
        yield started


def test_a_url_can_have_another_address(postgres, cache):
    elsewhere = Address("10.0.0.7", 5)
    assert postgres.url(elsewhere).startswith("postgresql://postgres:")
    assert postgres.url(elsewhere).endswith("@10.0.0.7:5/resilience")
    assert cache.url(elsewhere) == "redis://10.0.0.7:5/0"


def test_postgres_has_settings_for_frequent_kills(postgres):
    settings = {
        "max_connections": "150",
        "fsync": "off",
        "full_page_writes": "off",
        "synchronous_commit": "on",
        "autovacuum": "off",
        "TimeZone": "UTC",
        "server_encoding": "UTF8",
        "listen_addresses": "127.0.0.1",
    }
    assert {name: sql(postgres, f"SHOW {name}") for name in settings} == settings
    assert sql(postgres, "SELECT current_database()") == "resilience"


def test_the_other_databases_are_complete(postgres):
    for name, template in (("copy1", "template1"), ("copy0", "template0"), ("copy_postgres", "postgres")):
        sql(postgres, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy", "SELECT 1")
        url = postgres.url(postgres.direct_address).replace("/resilience", f"/{name}")

        async def count(url=url):
            connection = await asyncpg.connect(url)
            try:
                return await connection.fetchval(
                    "SELECT count(*) FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid"
                )
            finally:
                await connection.close()

        assert asyncio.run(count()) > 2000
        sql(postgres, f"DROP DATABASE {name}", "SELECT 1")


def test_the_admin_session_is_reopened_after_a_test_terminated_it(postgres):
    admin = PostgresAdmin(postgres, template="all_sessions_ended")
    try:
        admin.take_baseline()
        for use in (lambda: admin.fetch_soon("select 1"), admin.clean):
            use().result(10)
            (pid,) = admin.fetch("select pg_backend_pid()")[0]
            os.kill(pid, signal.SIGSTOP)  # so that it ends only after the next statement was sent
            os.kill(pid, signal.SIGTERM)
            pending = use()
            until(lambda: has_unread(postgres.direct_address.port))
            os.kill(pid, signal.SIGCONT)
            pending.result(10)
            assert admin.fetch("select pg_backend_pid()")[0][0] != pid
    finally:
        admin.close()


def has_unread(port):
    """True if a socket on that port has unread data."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and not row[4].endswith(":00000000") for row in rows)


def test_pause_stops_all_processes_and_resume_continues_them(any_server):
    any_server.pause()
    assert {psutil.Process(pid).status() for pid in any_server.processes()} == {psutil.STATUS_STOPPED}
    assert any_server.alive()
    any_server.check()
    with socket.create_connection(any_server.direct_address, timeout=1) as connection, pytest.raises(TimeoutError):
        connection.settimeout(0.05)
        connection.sendall(b"*1\r\n$4\r\nPING\r\n")
        connection.recv(1)
    any_server.resume()
    assert answers(any_server)


def test_a_new_postmaster_starts_only_after_all_processes_of_the_old_one_ended(postgres):
    """The processes of the old server still use the data directory."""

    async def run():
        connection = await asyncpg.connect(postgres.url(postgres.direct_address))
        postmaster, *others = postgres.processes()
        for pid in others:
            os.kill(pid, signal.SIGSTOP)  # so that they do not notice the end
        os.kill(postmaster, signal.SIGKILL)
        until(lambda: not postgres.alive())
        await asyncio.to_thread(postgres.start)
        assert all(gone(pid) for pid in others)
        connection.terminate()

    asyncio.run(run())
    assert answers(postgres)


ACCEPTS = {
    "postgres": b"R\0\0\0\x08\0\0\0\0",
    "redis": b"$29\r\nprocess_id:1\r\nredis_version:7\r\n\r\n",
}


@contextmanager
def impostor_at(address, answer):
    """Listen at an address, and send `answer` to every client."""
    with socket.create_server(address) as listening:

        def serve():
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1000)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_server_that_cannot_come_back_is_an_error_with_the_reason(any_server):
    """Another process answers on its port in its place."""
    any_server.kill()
    with (
        impostor_at(any_server.direct_address, ACCEPTS[any_server.kind]),
        pytest.raises(ServerNotReady, match=r"(?i)address already in use") as raised,
    ):
        any_server.start()
    assert raised.value.exit_code == 1
    any_server.check()
    any_server.start()
    assert answers(any_server)


@pytest.mark.parametrize("impostor", ["silent", "of the same kind"])
def test_a_server_gets_another_port_if_its_port_was_taken(monkeypatch, any_server, impostor):
    """The process that answers on the taken port is never mistaken for the server."""
    free_port, given = server_process.free_port, []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
        taken.listen()
        used = taken.getsockname()[1] if impostor == "silent" else any_server.direct_address.port

        def too_late():
            given.append(used if len(given) < 3 else free_port())
            return given[-1]

        monkeypatch.setattr(server_process, "free_port", too_late)
        with EmbeddedBackend() as other:
            assert {found.direct_address.port for found in other.servers.values()}.isdisjoint({used})
            assert answers(other.servers[any_server.kind])
    assert len(given) == 5


def test_a_new_proxy_gets_a_free_port_in_front_of_its_server(backend):
    listen, upstream = backend.proxy_addresses("postgres")
    assert upstream == str(backend.servers["postgres"].upstream_address)
    address = backend.client_address(listen)
    with socket.socket() as listener:
        listener.bind(address)
    assert backend.proxy_addresses("postgres")[0] != listen


def test_close_leaves_nothing_behind():
    memory = SharedMemory()
    with EmbeddedBackend() as other:
        pids = [*other.servers["postgres"].processes(), *other.servers["redis"].processes(), *other._proxy.processes()]
        addresses = [server.direct_address for server in other.servers.values()] + [other.api]
        directory = other.directory
        other.servers["postgres"].kill()
        assert len(pids) >= 6
    assert all(gone(pid) for pid in pids)
    assert not directory.exists()
    assert memory.created_by(pids) == []
    for address in addresses:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(address, timeout=1)
    other.close()


def test_a_backend_that_fails_to_start_leaves_nothing_behind(monkeypatch):
    def refuses(_self, _child):
        raise ServerNotReady("redis", command=["redis"], within=1.0, log="", exit_code=None)

    monkeypatch.setattr("pytest_resilience.backends.embedded.redis.RedisProcess.is_ready", refuses)
    failed = EmbeddedBackend()
    with pytest.raises(ServerNotReady):
        failed.start()
    assert not failed.directory.exists()


def test_two_backends_run_at_once(backend, postgres):
    with EmbeddedBackend() as other:
        assert other.servers["postgres"].direct_address != postgres.direct_address
        assert other.directory != backend.directory
        assert answers(other.servers["postgres"])
    assert answers(postgres)
