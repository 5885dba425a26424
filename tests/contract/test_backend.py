"""The contract of the servers of a backend, which come back after strikes. External has none, so it runs on embedded and docker."""

import asyncio
import os
import signal
import socket
import sys
import threading
import urllib.request

import asyncpg
import pytest
import redis

from pytest_resilience.errors import BackendDied
from tests.support.backends import ENDED, answers, sql, started, unavailable_reason
from tests.support.waiting import until


@pytest.fixture(scope="module", params=["embedded", "docker"])
def backend(request):
    if reason := unavailable_reason(request.param):
        pytest.skip(reason)
    with started(request.param) as found:
        yield found


def test_both_servers_answer_by_their_urls(backend, any_server):
    assert answers(any_server)
    assert any_server.alive()
    any_server.check()
    assert backend.servers[any_server.kind] is any_server


def test_versions_are_those_that_the_servers_report(backend, postgres, cache):
    assert sql(postgres, "SHOW server_version").split()[0] == postgres.version
    with redis.Redis.from_url(cache.url(cache.direct_address)) as client:
        info = client.info("server")
    assert cache.version in (info["redis_version"], f"{info.get('valkey_version')} (valkey)")
    assert backend.versions() == f"Postgres {postgres.version}, Redis {cache.version}"


def test_postgres_demands_the_password(postgres):
    host, port = postgres.direct_address
    with pytest.raises(asyncpg.InvalidPasswordError):
        asyncio.run(asyncpg.connect(host=host, port=port, user="postgres", password="guess", database="resilience"))


def test_postgres_accepts_120_connections_at_once(postgres):
    async def run():
        begun = postgres.log_size()
        connections = await asyncio.gather(
            *(asyncpg.connect(postgres.url(postgres.direct_address)) for _ in range(120))
        )
        await asyncio.gather(*(connection.close() for connection in connections))
        return postgres.log_text(begun)

    assert "too many clients" not in asyncio.run(run())


def test_the_log_shows_that_connections_ran_out(postgres):
    async def run():
        attempts = (asyncpg.connect(postgres.url(postgres.direct_address)) for _ in range(151))
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        connections = [outcome for outcome in outcomes if isinstance(outcome, asyncpg.Connection)]
        await asyncio.gather(*(connection.close() for connection in connections))
        assert any(isinstance(outcome, asyncpg.TooManyConnectionsError) for outcome in outcomes)

    begun = postgres.log_size()
    asyncio.run(run())
    until(lambda: "too many clients already" in postgres.log_text(begun))


@pytest.mark.parametrize("number", range(3))
def test_a_killed_server_comes_back_on_its_port(any_server, number):
    before, address = any_server.processes(), any_server.direct_address
    assert before
    any_server.kill()
    assert not any_server.alive()
    assert any_server.processes() == []
    any_server.check()
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        socket.create_connection(any_server.direct_address, timeout=1)
    any_server.start()
    assert any_server.direct_address == address
    assert set(any_server.processes()).isdisjoint(before)
    assert answers(any_server)


def test_start_does_nothing_on_a_running_server(any_server):
    before = any_server.processes()[0]
    any_server.start()
    assert any_server.processes()[0] == before


def test_postgres_keeps_its_data_and_redis_does_not(postgres, cache):
    sql(postgres, "DROP TABLE IF EXISTS kept", "CREATE TABLE kept AS SELECT 7 AS answer", "SELECT 1")
    with redis.Redis.from_url(cache.url(cache.direct_address)) as client:
        client.set("kept", "7")
    for server in postgres, cache:
        server.kill()
        server.start()
    assert sql(postgres, "SELECT answer FROM kept") == 7
    with redis.Redis.from_url(cache.url(cache.direct_address)) as client:
        assert client.get("kept") is None
    postgres.restart()
    assert sql(postgres, "SELECT answer FROM kept") == 7
    assert "interrupted" not in postgres.log_text().splitlines()[-1]


def test_a_paused_server_can_be_killed_and_started(any_server):
    any_server.pause()
    any_server.kill()
    any_server.start()
    assert answers(any_server)


def test_the_service_runs_beside_the_servers(backend, tmp_path):
    child = backend.spawn("service", [sys.executable, "-c", "import os; print(os.getcwd())"], env={}, cwd=tmp_path)
    assert child.wait(10) == 0
    assert child.log_text() == f"{tmp_path}\n"
    assert child.log == backend.directory / "service.log"


def test_stop_disconnects_its_clients_and_keeps_the_data(postgres):
    async def run():
        connection = await asyncpg.connect(postgres.url(postgres.direct_address))
        await asyncio.to_thread(postgres.stop)
        with pytest.raises(ENDED):
            await connection.fetchval("SELECT 1")

    begun = postgres.log_size()
    asyncio.run(run())
    assert not postgres.alive()
    assert "database system is shut down" in postgres.log_text(begun), "in order, not by force"
    postgres.check()
    postgres.start()
    assert answers(postgres)


def test_a_paused_server_can_be_stopped(any_server):
    begun = any_server.log_size()
    any_server.pause()
    any_server.stop()
    assert not any_server.alive()
    last = {"postgres": "database system is shut down", "redis": "ready to exit"}[any_server.kind]
    assert last in any_server.log_text(begun), "in order, not by force"
    any_server.start()
    assert answers(any_server)


def test_a_paused_server_is_silent_and_alive(any_server):
    any_server.pause()
    assert any_server.alive()
    any_server.check()
    answered = []
    client = threading.Thread(target=lambda: answered.append(answers(any_server)))
    client.start()
    client.join(0.1)
    assert not answered
    any_server.resume()
    client.join(10)
    assert answered == [True]


def test_a_second_pause_or_resume_does_nothing(any_server):
    for verb in (any_server.pause, any_server.pause, any_server.resume, any_server.resume):
        verb()
    assert answers(any_server)


def test_an_unexpected_end_is_an_error_with_the_log(backend, any_server):
    os.kill(any_server.processes()[0], signal.SIGKILL)
    until(lambda: not any_server.alive())
    with pytest.raises(
        BackendDied, match=rf"(?s){any_server.kind} ended with signal SIGKILL although .* its log, last lines:\n.+"
    ):
        any_server.check()
    with pytest.raises(BackendDied):
        backend.check()
    backend.restart_dead()
    backend.check()
    assert answers(any_server)


def test_a_dead_proxy_is_an_error_and_restarted(backend):
    address = backend.client_address(backend.proxy_addresses("redis")[0])
    os.kill(backend._proxy.processes()[0], signal.SIGKILL)
    until(lambda: not backend._proxy.alive())
    with pytest.raises(BackendDied, match="proxy ended with signal SIGKILL"):
        backend.check()
    backend.restart_dead()
    backend.check()
    with urllib.request.urlopen(f"http://{backend.api}/version", timeout=5) as reply:
        assert reply.status == 200
    assert backend.client_address(backend.proxy_addresses("redis")[0]).host == address.host, "clients have the address"


def test_one_session_of_postgres_can_be_killed_alone(postgres):
    async def run():
        session = await asyncpg.connect(postgres.url(postgres.direct_address))
        await asyncio.to_thread(postgres.kill_session, session.get_server_pid())
        with pytest.raises(ENDED):
            while True:
                await session.fetchval("SELECT 1")

    begun = postgres.log_size()
    asyncio.run(run())
    until(lambda: "was terminated by signal 9" in postgres.log_text(begun))
    assert postgres.alive()
    until(lambda: _answers(postgres))


def _answers(server):
    try:
        return answers(server)
    except (OSError, asyncpg.PostgresError):  # during recovery
        return False


def test_no_log_holds_the_password(backend, any_server):
    password = any_server.url(any_server.direct_address).partition("@")[0].rpartition(":")[2]
    if any_server.kind == "redis" and "@" not in any_server.url(any_server.direct_address):
        pytest.skip("this Redis has no password")
    assert len(password) >= 20
    assert password not in any_server.log_text()
    assert password not in repr(vars(backend).get("reason"))
