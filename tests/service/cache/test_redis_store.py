"""Rare answers of Redis, from a fake server of twenty lines, and the TLS of Upstash."""

import asyncio
import ssl
import subprocess
import time

import pytest

from service.cache.pending_writes import PendingWrites
from service.cache.redis_store import PendingWrite, RedisStore, RedisUnavailable, TimeBudget
from service.settings import ServiceSettings

URL = "postgresql://127.0.0.1:1/x"


class TinyRedis:
    """A server that answers every command with `answer`, bytes as on the wire. None sends no answer."""

    def __init__(self, answer=b":1\r\n"):
        self.answer = answer
        self.delay = 0.0
        self.commands = []
        self.connections = 0
        self.tasks = set()

    async def serve(self, reader, writer):
        self.connections += 1
        self.tasks.add(asyncio.current_task())
        try:
            while line := await reader.readline():
                words = []
                for _ in range(int(line[1:])):
                    length = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(length + 2))[:-2])
                self.commands.append(words)
                answer = b"+OK\r\n" if words[0] == b"AUTH" else self.answer
                await asyncio.sleep(self.delay)
                if answer is not None:
                    writer.write(answer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    async def stop(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def with_store(server, body, *, tls=None, **settings):
    async def scene():
        listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
        port = listener.sockets[0].getsockname()[1]
        values = {"redis_url": f"redis://127.0.0.1:{port}"} if tls is None else {"upstash_redis_port": port}
        pending = PendingWrites(max_keys=10_000, max_taken=10)
        store = RedisStore(
            ServiceSettings(database_url=URL, **{**values, **settings}),
            lifetime=600,
            pending=pending,
            next_writes=lambda: [PendingWrite(key, stamp, b"", 600) for key, stamp in pending.next_batch(100)],
        )
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(store.run())
            try:
                return await body(store, pending)
            finally:
                running.cancel()
                done, _ = await asyncio.wait([running], timeout=10)
                assert done, "the store still runs although its task was cancelled"
                listener.close()
                await server.stop()

    return asyncio.run(scene())


async def until(condition, within=5.0):
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110  # the store has no event for this condition
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    "answer",
    [
        b"-LOADING Redis is loading the dataset in memory\r\n",
        b"-READONLY You can't write against a read only replica.\r\n",
        b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
        b"-NOAUTH Authentication required.\r\n",
        b"-ERR max number of clients reached\r\n",
        b"-MISCONF Redis is configured to save RDB snapshots\r\n",
        b"-MASTERDOWN Link with MASTER is down\r\n",
        b"garbage\r\n",
        None,
    ],
    ids=lambda answer: answer.split()[0].decode() if answer else "silence",
)
def test_a_redis_with_this_answer_is_down_until_it_answers_correctly(answer, caplog):
    server = TinyRedis(answer)

    async def body(store, _):
        await until(lambda: store._breaker.outages)
        assert not store.up
        with pytest.raises(RedisUnavailable):
            await store.get(1, TimeBudget(0.25))
        server.answer = b":1\r\n"
        await until(lambda: store.up)

    with_store(server, body)
    assert caplog.text.count("falling back to in-memory cache") == 1


def test_the_budget_bounds_all_calls_of_a_request_together():
    server = TinyRedis()

    async def body(store, _):
        await until(lambda: store.up)
        server.delay = 0.3
        budget, loop = TimeBudget(0.5), asyncio.get_running_loop()
        started = loop.time()
        write = PendingWrite(1, (5, 2), b"{}", 60)
        await store.write(write, budget)
        for _ in range(10):
            with pytest.raises(RedisUnavailable):
                await store.write(write, budget)
        assert loop.time() - started < 0.5 + 1.5  # without a shared budget they would take 3.3
        assert store.up, "a request that began late does not prove that Redis is down"

    with_store(server, body, redis_budget=0.5)


def test_a_cancellation_that_redis_py_swallows_still_ends_the_store(monkeypatch):
    server = TinyRedis()

    async def body(store, _):
        await until(lambda: store.up)
        probing = asyncio.Event()

        async def swallow(client):
            probing.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return  # as wait_for of Python 3.11 does if the answer has arrived

        monkeypatch.setattr("service.cache.redis_store._probe", swallow)
        await asyncio.wait_for(probing.wait(), 5)

    with_store(server, body)


def test_a_stall_of_this_process_is_not_an_outage():
    server = TinyRedis()

    async def body(store, _):
        await until(lambda: store.up)
        server.delay = 0.1
        writing = asyncio.ensure_future(store.write(PendingWrite(1, (5, 2), b"{}", 60), TimeBudget(0.25)))
        await until(lambda: len(server.commands) > 1)
        time.sleep(0.5)  # noqa: ASYNC251  # this is the stall
        with pytest.raises(RedisUnavailable):
            await writing
        assert store.up

    with_store(server, body)


def test_callers_open_no_connections_during_an_outage():
    server = TinyRedis()

    async def body(store, _):
        await until(lambda: store.up)
        server.answer = None
        await asyncio.gather(*(store.get(key, TimeBudget(0.25)) for key in range(10)), return_exceptions=True)
        await until(lambda: not store.up)
        before = server.connections
        for key in range(500):
            with pytest.raises(RedisUnavailable):
                await store.get(key, TimeBudget(0.25))
        assert server.connections - before <= 1

    with_store(server, body)


def test_pending_writes_are_delivered_before_reads():
    server = TinyRedis(b"-LOADING\r\n")

    async def body(store, pending):
        await until(lambda: store._breaker.outages)
        for key in range(250):
            pending.add(key, (1, 2))
        server.commands.clear()
        server.answer = b":1\r\n"
        await until(lambda: store.up)
        assert not pending
        delivered = {words[3] for words in server.commands if words[0] == b"EVAL"} - {b"service:probe"}
        assert len(delivered) == 250

    with_store(server, body)


def test_after_too_many_missed_writes_all_keys_are_deleted_first():
    server = TinyRedis(b"-LOADING\r\n")

    async def body(store, pending):
        await until(lambda: store._breaker.outages)
        pending.overflowed = True
        server.answer = b"*2\r\n$1\r\n0\r\n*1\r\n$1\r\nk\r\n"  # also valid as the reply to SCAN
        await until(lambda: store.up)
        assert [words[0] for words in server.commands if words[0] in (b"SCAN", b"UNLINK")][:2] == [b"SCAN", b"UNLINK"]
        assert not pending.overflowed

    with_store(server, body)


def test_a_foreign_value_under_a_key_of_the_service_is_a_miss():
    server = TinyRedis()

    async def body(store, _):
        await until(lambda: store.up)
        for value in (b"", b"x", b"1 2 ", b"1 x {}", b'{"id":1}'):
            server.answer = b"$%d\r\n%s\r\n:5000\r\n" % (len(value), value)
            assert await store.get(1, TimeBudget(0.25)) is None
            assert store.up

    # The server sends both answers of a pipeline at its first command.
    answer_in_pairs(server)
    with_store(server, body)


def answer_in_pairs(server):
    """Answer GET with both answers of the pipeline, and PTTL with nothing."""
    plain = server.serve

    async def serve(reader, writer):
        write = writer.write
        writer.write = lambda data: None if server.commands and server.commands[-1][0] == b"PTTL" else write(data)
        await plain(reader, writer)

    server.serve = serve


def test_upstash_is_preferred_to_redis_url_and_redis_url_to_localhost():
    upstash = {"upstash_redis_rest_url": "https://x.upstash.io", "upstash_redis_rest_token": "t"}

    def chosen_host(**settings):
        pending = PendingWrites(max_keys=1, max_taken=1)
        store = RedisStore(ServiceSettings(database_url=URL, **settings), lifetime=1, pending=pending, next_writes=list)
        return store._connect().connection_pool.connection_kwargs["host"]

    assert chosen_host(redis_url="redis://r", **upstash) == "x.upstash.io"
    assert chosen_host(redis_url="redis://r") == "r"
    assert chosen_host() == "localhost"


def test_upstash_is_reached_over_tls_with_the_token_as_password(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "ca.pem"
    try:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
            check=True, capture_output=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"openssl cannot create a certificate: {error}")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    server = TinyRedis()
    upstash = {"upstash_redis_rest_url": "https://localhost", "upstash_redis_rest_token": "t0ken%@:/"}

    async def body(store, _):
        await until(lambda: store.up)
        assert server.commands[0] == [b"AUTH", b"default", b"t0ken%@:/"]
        await store.write(PendingWrite(1, (5, 2), b"{}", 60), TimeBudget(0.25))
        assert server.commands[-1][3:] == [b"service:campaign:1", b"5", b"2", b"{}", b"60000"]

    with_store(server, body, tls=tls, upstash_redis_ca_file=str(certificate), **upstash)
