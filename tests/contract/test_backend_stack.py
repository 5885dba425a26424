"""The contract of stacks on all backends: the effects of faults, their receipts, and the clean state."""

import asyncio
import contextlib
import json
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import asyncpg
import pytest
import redis

from pytest_resilience.backends.backend import Address
from pytest_resilience.errors import CannotInject, SetupError
from pytest_resilience.faults import FAULTS
from pytest_resilience.leaks.attribution import can_attribute, sees_client_ports
from pytest_resilience.resilience import Resilience
from pytest_resilience.stack import Stack
from pytest_resilience.targets.service_spec import Service
from tests.support.backends import KINDS, started, unavailable_reason


@pytest.fixture(scope="module", params=KINDS)
def stack(request):
    if reason := unavailable_reason(request.param):
        pytest.skip(reason)
    with started(request.param) as backend:
        made = Stack(Started(backend), seed=1)
        yield made
        made.close()


class Started:
    """A started backend for a stack that would start and close it."""

    def __init__(self, backend):
        self._backend = backend

    def __getattr__(self, name):
        return (lambda: None) if name in ("start", "close") else getattr(self._backend, name)


@pytest.fixture
def cache(resilience):
    with redis.Redis.from_url(resilience.redis.url, retry=None, socket_timeout=1, socket_connect_timeout=1) as client:
        yield client


def counts(stack):
    """True if the proxy of this stack counts what toxics affect. The real Toxiproxy does not."""
    return stack.proxy_client.has_counters


def needs(stack, name):
    """Skip the test if the backend can't inject that fault (see `test_unsupported_faults_raise_an_error_with_the_reason`)."""
    if reason := stack._backend.unsupported.get(name):
        pytest.skip(f"{stack.backend} cannot {name}: {reason}")


def sql(url, statement):
    async def run():
        connection = await asyncpg.connect(url, timeout=5)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close(timeout=1)

    return asyncio.run(run())


def test_servers_answer_through_their_proxies_and_around_them(resilience, cache):
    for url in resilience.postgres.url, resilience.postgres.direct_url:
        assert sql(url, "select 1") == 1
    assert cache.ping()
    with redis.Redis.from_url(resilience.redis.direct_url) as client:
        assert client.ping()
    assert resilience.redis.proxy.upstream
    assert resilience.redis.url != resilience.redis.direct_url


def test_refuse_refuses_clients_and_drops_connections(resilience, cache, stack):
    needs(stack, "redis.refuse")
    cache.ping()
    strike = resilience.redis.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((resilience.redis.host, resilience.redis.port), timeout=2)
    with pytest.raises(redis.ConnectionError):
        cache.ping()
    strike.heal()
    assert cache.ping()
    assert strike.receipt.touched is None or strike.receipt.touched >= 1
    if counts(stack) or stack.backend == "docker":
        assert strike.receipt.touched


def test_reset_resets_connections(resilience, cache, stack):
    needs(stack, "redis.reset")
    strike = resilience.redis.reset()
    with pytest.raises(redis.ConnectionError, match="reset"):
        cache.ping()
    strike.heal()
    assert cache.ping()
    if counts(stack) or stack.backend == "docker":
        assert strike.receipt.touched


def test_reset_closes_idle_connections_too(resilience, stack):
    needs(stack, "redis.reset")
    with socket.create_connection((resilience.redis.host, resilience.redis.port), timeout=5) as idle:
        idle.sendall(b"PING\r\n")
        assert idle.recv(100)
        with resilience.redis.reset():
            try:
                assert idle.recv(1) == b"", "the real Toxiproxy closes it"
            except ConnectionResetError:
                pass
        idle.close()


@pytest.mark.parametrize("direction", ["up", "down", "both"])
def test_a_blackhole_holds_all_data(resilience, cache, stack, direction):
    cache.ping()
    with resilience.redis.blackhole(direction) as strike, pytest.raises(redis.TimeoutError):
        cache.ping()
    assert strike.receipt.touched if counts(stack) else strike.receipt.touched is None
    assert cache.ping()


def test_latency_delays_replies(resilience, cache, stack):
    cache.ping()
    with resilience.redis.latency(0.1) as strike:
        begun = time.monotonic()
        cache.ping()
        assert time.monotonic() - begun >= 0.1
    assert strike.receipt.touched if counts(stack) else strike.receipt.touched is None


def test_a_strike_without_connections_is_vacuous_if_the_backend_counts_them(stack, resilience):
    strike = resilience.redis.latency(0.1)
    strike.heal()
    if stack.backend == "docker" or counts(stack):
        assert strike.vacuous
    else:
        assert strike.receipt.touched is None


def test_overlapping_strikes_heal_independently(resilience, cache, stack):
    needs(stack, "redis.refuse")
    slow, refused = resilience.redis.latency(0.05), resilience.redis.refuse()
    slow.heal()
    with pytest.raises(redis.ConnectionError):
        cache.ping()
    refused.heal()
    assert cache.ping()


@pytest.mark.parametrize("verb", ["kill", "pause", "restart"])
@pytest.mark.parametrize("name", ["postgres", "redis"])
def test_process_faults_strike_and_heal_or_are_unsupported(stack, resilience, name, verb):
    target = getattr(resilience, name)
    if stack.backend == "external":
        with pytest.raises(CannotInject, match=rf"external cannot {name}.{verb}: its processes belong"):
            getattr(target, verb)()
        return
    with getattr(target, verb)() as strike:
        pass
    assert strike.receipt.touched >= 1
    assert sql(resilience.postgres.url, "select 1") == 1
    with redis.Redis.from_url(resilience.redis.url) as client:
        assert client.ping()


def test_unsupported_faults_raise_an_error_with_the_reason(stack, resilience):
    for name, reason in stack._backend.unsupported.items():
        target, _, fault = name.partition(".")
        assert fault in FAULTS
        settings = {
            "slow_accept": {"seconds": 1},
            "on": {"verb": "commit", "act": "hang"},
            "after": {"verb": "commit", "fault": "refuse"},
        }.get(fault, {})
        struck = resilience.add_tcp("other", "127.0.0.1:9") if target == "tcp" else getattr(resilience, target)
        with pytest.raises(CannotInject, match=f"{stack.backend} cannot {struck.name}.{fault}") as raised:
            FAULTS[fault](**settings).strike(struck)
        assert reason in str(raised.value)
    assert resilience.strikes == []


def test_every_test_begins_clean(stack):
    for _ in range(2):
        stack.prepare_test(None)
        resilience = Resilience(stack, None)
        assert sql(resilience.postgres.url, "select to_regclass('left_over')") is None
        sql(resilience.postgres.url, "create table left_over (n int)")
        with redis.Redis.from_url(resilience.redis.url) as client:
            assert client.keys() == []
            client.set("left_over", 1)
        resilience.finish()


async def named_session(url, name):
    return await asyncpg.connect(url, server_settings={"application_name": name})


def test_connections_left_on_a_server_are_named_if_the_server_is_exclusive(stack, resilience):
    check = resilience.start_leak_check(Path.cwd(), [])
    with (
        asyncio.Runner() as runner,
        redis.Redis.from_url(resilience.redis.url, client_name="left", single_connection_client=True) as client,
    ):
        assert client.ping()
        session = runner.run(named_session(resilience.postgres.url, "left"))
        runner.run(session.execute("select pg_advisory_lock(42)"))
        named = {
            leak.name.partition(":")[0]: leak.name for leak in check.leaks(["eventpoll:*", "fd:*", "socket:unix*"])
        }
        runner.run(session.close())
    if stack._backend.servers["postgres"].exclusive:
        expected = {"postgres": "postgres:left", "redis": "redis:left", "lock": "lock:42"}
        assert {kind: named.get(kind) for kind in expected} == expected
    else:  # other users may have sessions there; the sockets belong to this process
        assert {"postgres", "redis", "lock"}.isdisjoint(named)
        assert "socket" in named
    assert check.leaks(["thread:*"]) == []


HOARDER = """
import asyncio, os, threading
from http.server import BaseHTTPRequestHandler, HTTPServer
import asyncpg, redis

loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
opened = []

async def hoard():
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    await connection.execute(f"select pg_advisory_lock({len(opened)})")
    opened.append(connection)

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/hoard":
            asyncio.run_coroutine_threadsafe(hoard(), loop).result()
            opened.append(redis.Redis.from_url(os.environ["REDIS_URL"]))
            listener = opened[-1].pubsub()
            listener.subscribe("news")
            listener.get_message(timeout=5)
            opened.append(listener)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass

HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def test_connections_of_a_service_are_not_counted_as_leaks_of_the_test(stack):
    if stack.backend == "external":
        pytest.skip("external servers may have other clients")
    if "redis.refuse" in stack._backend.unsupported:
        pytest.skip("with forwarded ports, all clients of Toxiproxy are forwarders")
    assert can_attribute(stack)
    env = {"DATABASE_URL": stack.postgres.url, "REDIS_URL": stack.redis.url}
    spec = Service([sys.executable, "-c", HOARDER], env=env)
    running = stack.prepare_test(spec)
    resilience = Resilience(stack, running)
    ignored = ["eventpoll:*", "fd:*", "socket:unix*"]

    def hoard():
        with urllib.request.urlopen(f"{running.url}/hoard", timeout=5) as answer:
            assert answer.status == 200

    check = resilience.start_leak_check(Path.cwd(), [])
    hoard()
    assert check.leaks(ignored) == []
    with (
        asyncio.Runner() as runner,
        redis.Redis.from_url(resilience.redis.url, client_name="mine", single_connection_client=True) as client,
    ):
        assert client.ping()
        session = runner.run(named_session(resilience.postgres.url, "mine"))
        around = runner.run(named_session(resilience.postgres.direct_url, "around"))
        runner.run(session.execute("select pg_advisory_lock(42)"))
        hoard()  # so that the connections of the test are neither the last nor in the middle
        hoard()
        leaks = check.leaks(ignored)
        for each in session, around:
            runner.run(each.close())
    named = sorted(leak.name for leak in leaks)
    assert named == ["lock:42", "postgres:around", "postgres:mine", "redis:mine"]
    held = [str(leak) for leak in leaks if leak.descriptor is not None]
    assert len(held) == 2 + sees_client_ports(stack), [str(leak) for leak in leaks]
    resilience.finish()
    running.stop()


def test_a_stack_can_have_more_servers_of_a_kind_each_behind_a_proxy(stack):
    if stack.backend == "external":
        with pytest.raises(SetupError, match="external has one Postgres and one Redis, and can't start 'second'"):
            stack.add_redis("second")
        return
    replica, *caches = stack.add_postgres("replica"), stack.add_redis("second"), stack.add_redis("third")
    assert sql(replica.url, "select 1") == 1
    clients = [redis.Redis.from_url(each.url, retry=None, socket_timeout=1) for each in (stack.redis, *caches)]
    with contextlib.ExitStack() as closing:
        for client in clients:
            closing.enter_context(client)
            client.set("port", client.connection_pool.connection_kwargs["port"])
        assert len({client.get("port") for client in clients}) == 3
        with caches[0].blackhole():
            with pytest.raises(redis.TimeoutError):
                clients[1].ping()
            assert clients[0].ping()
            assert clients[2].ping()


def test_manual_changes_of_proxies_are_undone(stack, resilience, cache):
    resilience.redis.proxy.add_toxic(type="latency", attributes={"latency": 2000})
    resilience.postgres.proxy.disable()
    resilience.finish()
    begun = time.monotonic()
    assert cache.ping()
    assert time.monotonic() - begun < 2
    assert sql(resilience.postgres.url, "select 1") == 1


def api(address: Address, method: str, path: str, body=None):
    request = urllib.request.Request(
        f"http://{address}{path}", method=method, data=json.dumps(body).encode() if body else None
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        text = answer.read()
    return json.loads(text) if text else None


EXTERNAL = [kind for kind in KINDS if kind.startswith("external")]


@pytest.mark.parametrize("kind", EXTERNAL)
def test_external_changes_no_existing_data_and_leaves_nothing(kind):
    if reason := unavailable_reason(kind):
        pytest.skip(reason)
    from pytest_resilience.backends.embedded.backend import EmbeddedBackend
    from pytest_resilience.backends.external.backend import ExternalBackend
    from tests.support.backends import settings, toxiproxy

    with EmbeddedBackend() as below, toxiproxy(kind, below) as url:
        address = Address.parse(url.removeprefix("http://"))
        postgres, cache = below.servers["postgres"], below.servers["redis"]
        existing = {"name": "existing", "listen": "127.0.0.1:0", "upstream": str(cache.direct_address), "enabled": True}
        api(address, "POST", "/proxies", existing)
        api(address, "POST", "/proxies/existing/toxics", {"type": "latency", "attributes": {"latency": 5}})
        before = api(address, "GET", "/proxies")
        sql(postgres.url(postgres.direct_address), "create table existing as select 7 as answer")
        with redis.Redis.from_url(f"redis://{cache.direct_address}/0") as client:
            client.set("existing", 7)
            stack = Stack(ExternalBackend(settings(below, url)), seed=1)
            try:
                for _ in range(2):
                    stack.prepare_test(None)
                    sql(postgres.url(postgres.direct_address), "create database existing_too") if _ == 0 else None
                    resilience = Resilience(stack, None)
                    sql(resilience.postgres.url, "create table ours (n int)")
                    resilience.redis.refuse()
                    resilience.finish()
                assert api(address, "GET", "/proxies")["existing"] == before["existing"]
            finally:
                stack.close()
            assert api(address, "GET", "/proxies") == before
            assert sql(postgres.url(postgres.direct_address), "select answer from existing") == 7
            names = sql(
                postgres.url(postgres.direct_address),
                "select string_agg(datname, ' ' order by datname) from pg_database",
            )
            assert names == "existing_too postgres resilience template0 template1"
            assert client.get("existing") == b"7"


def test_external_refuses_a_redis_database_with_keys():
    from pytest_resilience.backends.embedded.backend import EmbeddedBackend
    from pytest_resilience.backends.external.backend import ExternalBackend
    from tests.support.backends import settings

    with EmbeddedBackend() as below:
        with redis.Redis.from_url(f"redis://{below.servers['redis'].direct_address}/3") as client:
            client.set("existing", 7)
            named = settings(below, f"http://{below.api}")
            named = named._replace(redis_upstream=f"redis://{below.servers['redis'].direct_address}/3")
            with pytest.raises(SetupError, match="database 3: it holds 1 key"):
                ExternalBackend(named).start()
            assert client.get("existing") == b"7"
        assert api(below.api, "GET", "/proxies") == {}


def test_two_external_sessions_lease_different_redis_databases():
    from pytest_resilience.backends.embedded.backend import EmbeddedBackend
    from pytest_resilience.backends.external.backend import ExternalBackend
    from tests.support.backends import settings

    with EmbeddedBackend() as below:
        named = settings(below, f"http://{below.api}")
        with ExternalBackend(named) as one, ExternalBackend(named) as two:
            assert one.servers["redis"].database != two.servers["redis"].database
            assert one.servers["postgres"].database != two.servers["postgres"].database
        taken = named._replace(redis_upstream=f"redis://{below.servers['redis'].direct_address}/5")
        with ExternalBackend(taken), pytest.raises(SetupError, match="database 5: another session uses it"):
            ExternalBackend(taken).start()


def test_lost_proxies_are_an_error_and_restored():
    from pytest_resilience.backends.embedded.backend import EmbeddedBackend
    from pytest_resilience.backends.external.backend import ExternalBackend
    from pytest_resilience.errors import BackendDied
    from tests.support.backends import settings

    with EmbeddedBackend() as below:
        stack = Stack(ExternalBackend(settings(below, f"http://{below.api}")), seed=1)
        try:
            stack.prepare_test(None)
            for name in api(below.api, "GET", "/proxies"):
                api(below.api, "DELETE", f"/proxies/{name}")
            with pytest.raises(BackendDied, match="has lost the proxies of this session"):
                stack.finish_test()
            stack.prepare_test(None)
            assert sql(stack.postgres.url, "select 1") == 1
        finally:
            stack.close()
