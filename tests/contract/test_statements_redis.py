"""Rules for single commands in front of a real Redis: what clients raise, and what the server has done."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from pytest_resilience.backends.embedded.backend import EmbeddedBackend
from pytest_resilience.probes import eventually
from pytest_resilience.wire.redis import encode_command
from tests.support.statements import PATIENCE, Rules

EXECABORT = "Transaction discarded because of previous errors."


class Gate(Rules):
    """A proxy with the protocol of Redis in front of an embedded server."""

    def __init__(self, api: tuple[str, int], direct: str, upstream: str) -> None:
        super().__init__(api, upstream, "redis")
        self.server = redis.Redis.from_url(direct, decode_responses=True)
        host, _, port = self.listen.rpartition(":")
        self.address = host, int(port)
        self.password = urlsplit(direct).password

    @property
    def counted(self) -> Any:
        return self.counters["toxics"]["rule"]

    def client(self, **options: Any) -> redis.Redis:
        """Return a client through the proxy that never retries."""
        host, port = self.address
        settings: dict[str, Any] = {
            "socket_timeout": PATIENCE,
            "retry": Retry(NoBackoff(), 0),
            "password": self.password,
        }
        return redis.Redis(host=host, port=port, decode_responses=True, **(settings | options))

    def raw(self) -> Raw:
        return Raw(socket.create_connection(self.address, timeout=PATIENCE), self.password)


class Raw:
    """A client that sends and receives bytes."""

    def __init__(self, sock: socket.socket, password: str | None) -> None:
        self.sock = sock
        if password:
            self.send("AUTH", password)
            assert self.receive(5) == b"+OK\r\n"

    def send(self, *words: str) -> None:
        self.sock.sendall(encode_command(*words))

    def receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.sock.recv(size - len(data))
            if not more:
                break
            data += more
        return data

    def expect(self, data: bytes) -> None:
        assert self.receive(len(data)) == data


@pytest.fixture(scope="module")
def server() -> Iterator[Gate]:
    with EmbeddedBackend() as backend:
        each = backend.servers["redis"]
        gate = Gate(tuple(backend.api), each.url(each.direct_address), str(each.upstream_address))
        yield gate
        gate.server.close()


@pytest.fixture
def gate(server: Gate) -> Iterator[Gate]:
    server.heal()
    server.server.flushall()
    yield server
    server.heal()


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
def client(request: pytest.FixtureRequest, gate: Gate) -> Iterator[redis.Redis]:
    """A client that connected before the rules."""
    with gate.client(protocol=request.param) as each:
        each.ping()
        yield each


@pytest.fixture
def raw(gate: Gate) -> Iterator[Raw]:
    each = gate.raw()
    each.send("PING")
    each.expect(b"+PONG\r\n")
    yield each
    each.sock.close()


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        ("OOM", redis.exceptions.OutOfMemoryError, "command not allowed when used memory > 'maxmemory'."),
        ("READONLY", redis.exceptions.ReadOnlyError, "You can't write against a read only replica."),
        ("NOSCRIPT", redis.exceptions.NoScriptError, "No matching script. Please use EVAL."),
        ("CLUSTERDOWN", redis.exceptions.ClusterDownError, "The cluster is down"),
        ("LOADING", redis.exceptions.BusyLoadingError, "Redis is loading the dataset in memory"),
        ("FOO", redis.exceptions.ResponseError, "FOO"),
        ("BAR at last", redis.exceptions.ResponseError, "BAR at last"),
    ],
)
def test_errors_come_to_the_letter(
    gate: Gate, client: redis.Redis, code: str, kind: type[Exception], text: str
) -> None:
    gate.rule("set", "error", code=code, nth=2)
    client.set("a", 1)
    with pytest.raises(kind) as raised:
        client.set("a", 2)
    assert str(raised.value) == text
    client.set("b", 3)
    assert gate.server.mget("a", "b") == ["1", "3"]
    assert (gate.counted["matched"], gate.counted["acted"], gate.counted["shown"]) == (3, 1, ["SET a ?"])


def test_pipelines_keep_their_order(gate: Gate, client: redis.Redis) -> None:
    gate.rule("get", "error", code="WRONGTYPE", key="b*")
    pipeline = client.pipeline(transaction=False)
    pipeline.set("a", 1).get("a").get("b").set("c", 2).get("c")
    results = pipeline.execute(raise_on_error=False)
    assert [results[0], results[1], results[3], results[4]] == [True, "1", True, "2"]
    assert isinstance(results[2], redis.ResponseError)


def test_an_error_of_execution_is_an_element_of_a_transaction(gate: Gate, client: redis.Redis) -> None:
    gate.rule("incrby", "error", code="WRONGTYPE", nth=2)
    pipeline = client.pipeline(transaction=True)
    pipeline.incr("a").incr("b").incr("c")
    results = pipeline.execute(raise_on_error=False)
    assert (results[0], results[2]) == (1, 1)
    assert "Operation against a key" in str(results[1])
    assert gate.server.mget("a", "b", "c") == ["1", None, "1"]


def test_an_error_at_queueing_time_fails_the_transaction(gate: Gate, raw: Raw) -> None:
    gate.rule("incr", "error", code="OOM no", nth=2)
    for words in (("MULTI",), ("INCR", "a"), ("INCR", "b"), ("INCR", "c"), ("EXEC",), ("GET", "a")):
        raw.send(*words)
    raw.expect(b"+OK\r\n+QUEUED\r\n-OOM no\r\n+QUEUED\r\n-EXECABORT %b\r\n$-1\r\n" % EXECABORT.encode())


def test_redis_py_sees_a_failed_transaction(gate: Gate, client: redis.Redis) -> None:
    gate.rule("incrby", "error", code="READONLY")
    pipeline = client.pipeline(transaction=True)
    pipeline.set("a", 1).incr("b")
    with pytest.raises(redis.exceptions.ReadOnlyError):
        pipeline.execute()
    assert gate.server.get("a") is None
    assert client.set("a", 2)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("OOM no", b"-EXECABORT Transaction discarded because of: OOM no\r\n"),
        ("EXECABORT", b"-EXECABORT Transaction discarded because of previous errors.\r\n"),
        ("FOO bar", b"-FOO bar\r\n"),
    ],
)
def test_an_error_of_exec_leaves_no_transaction(gate: Gate, raw: Raw, code: str, error: bytes) -> None:
    gate.rule("exec", "error", code=code)
    for words in (("MULTI",), ("INCR", "a"), ("EXEC",), ("GET", "a"), ("MULTI",)):
        raw.send(*words)
    raw.expect(b"+OK\r\n+QUEUED\r\n" + error + b"$-1\r\n+OK\r\n")


def test_a_replaced_reply_is_not_left_when_the_rule_goes(gate: Gate, raw: Raw) -> None:
    gate.rule("exec", "error", code="FOO bar")
    raw.send("MULTI")
    raw.expect(b"+OK\r\n")
    hold = {"name": "hold", "type": "bandwidth", "stream": "downstream", "attributes": {"rate": 0}}
    assert gate.call("POST", "/statements/toxics", hold).status == 200
    raw.send("EXEC")
    eventually(lambda: gate.counted["acted"] == 1, within=PATIENCE)
    gate.heal()
    gate.heal("hold")
    raw.expect(b"-FOO bar\r\n")
    raw.send("PING")
    raw.expect(b"+PONG\r\n")


def test_a_lost_answer_leaves_the_write_there(gate: Gate, client: redis.Redis) -> None:
    gate.rule("set", "lose_answer")
    with pytest.raises(redis.ConnectionError):
        client.set("a", 1)
    assert gate.server.get("a") == "1"
    assert (gate.counted["acted"], gate.counted["shown"]) == (1, ["SET a ?"])


def test_a_lost_answer_of_a_pipeline_is_the_right_one(gate: Gate, raw: Raw) -> None:
    gate.rule("incr", "lose_answer", nth=2)
    raw.sock.sendall(
        b"".join(encode_command(*words) for words in (("GET", "x"), ("INCR", "a"), ("INCR", "a"), ("PING",)))
    )
    raw.expect(b"$-1\r\n:1\r\n")
    with pytest.raises(ConnectionResetError):
        raw.sock.recv(1)
    assert gate.server.get("a") == "2"


def test_silence_closes_nothing_until_the_heal(gate: Gate, raw: Raw) -> None:
    gate.rule("set", "lose_answer", close="silence")
    raw.send("SET", "a", "1")
    eventually(lambda: gate.counted["acted"] == 1, within=PATIENCE)
    assert gate.server.get("a") == "1"
    raw.send("PING")
    raw.sock.settimeout(0.05)
    with pytest.raises(TimeoutError):
        raw.sock.recv(1)
    raw.sock.settimeout(PATIENCE)
    gate.heal()
    with pytest.raises(ConnectionResetError):
        raw.sock.recv(1)


@pytest.mark.parametrize(("size", "received"), [(0, b""), (7, b"$10\r\n01"), (100, b"$10\r\n0123456789\r\n")])
def test_an_answer_is_cut_behind_a_number_of_bytes(gate: Gate, raw: Raw, size: int, received: bytes) -> None:
    gate.server.set("a", "0123456789")
    gate.rule("get", "cut_answer", bytes=size)
    raw.send("GET", "a")
    raw.expect(received)
    with pytest.raises(ConnectionResetError):
        raw.sock.recv(1)
    assert gate.counted["acted"] == 1


def test_a_large_answer_is_cut_in_its_middle(gate: Gate, raw: Raw) -> None:
    gate.server.set("a", b"v" * 3_000_000)
    gate.rule("get", "cut_answer", bytes=2_000_000)
    raw.send("GET", "a")
    received = 0
    with pytest.raises(ConnectionResetError):  # a RST may overtake bytes that the client has not read yet
        while True:
            received += len(raw.sock.recv(65536))
    assert received <= 2_000_000
    assert gate.counted["acted"] == 1


def test_a_hang_goes_on_at_the_heal(gate: Gate, client: redis.Redis) -> None:
    gate.rule("set", "hang")
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(client.set("a", 1)))
    thread.start()
    eventually(lambda: gate.counted["acted"] == 1, within=PATIENCE)
    assert gate.server.get("a") is None
    gate.heal()
    thread.join(PATIENCE)
    assert results == [True]
    assert gate.server.get("a") == "1"


def test_a_delay_ends_without_a_heal(gate: Gate, client: redis.Redis) -> None:
    gate.rule("set", "delay", delay_ms=30)
    assert client.set("a", 1)
    assert gate.counted["acted"] == 1


def test_a_reset_command_does_not_reach_the_server(gate: Gate, raw: Raw) -> None:
    gate.rule("set", "reset")
    raw.send("SET", "a", "1")
    with pytest.raises(ConnectionResetError):
        raw.sock.recv(1)
    assert gate.server.get("a") is None


def test_a_fatal_error_closes(gate: Gate, raw: Raw) -> None:
    gate.rule("get", "fatal", code="ERR gone")
    raw.sock.sendall(encode_command("PING") + encode_command("GET", "a"))
    raw.expect(b"+PONG\r\n-ERR gone\r\n")
    assert raw.sock.recv(1) == b""


def test_too_many_clients_at_connect(gate: Gate) -> None:
    gate.rule("connect", "fatal", code="ERR max number of clients reached")
    with gate.client() as client, pytest.raises(redis.RedisError, match="max number of clients"):
        client.get("a")
    assert gate.counted["acted"] == 1


def test_loading_before_hello_is_written_by_the_proxy(gate: Gate) -> None:
    gate.rule("connect", "error", code="LOADING", first=1)
    raw = socket.create_connection(gate.address, timeout=PATIENCE)
    raw.sendall(encode_command("HELLO", "3"))
    each = Raw.__new__(Raw)
    each.sock = raw
    each.expect(b"-LOADING Redis is loading the dataset in memory\r\n")
    raw.close()
    assert gate.counted["acted"] == 1


def test_handshakes_are_counted_only_by_name(gate: Gate) -> None:
    gate.rule("*", "none")
    gate.rule("set", "none", "set")
    gate.rule("client setinfo", "none", "setinfo")
    gate.rule("hello", "none", "hello")
    try:
        with gate.client(protocol=3) as client:
            client.set("a", 1)
        matched = {name: each["matched"] for name, each in gate.counters["toxics"].items()}
        assert matched == {"rule": 1, "set": 1, "setinfo": 2, "hello": 1}
    finally:
        for name in ("set", "setinfo", "hello"):
            gate.heal(name)


def test_rules_select_by_the_name_of_the_client(gate: Gate) -> None:
    with gate.client(client_name="worker:1") as worker, gate.client(client_name="web:1") as web:
        worker.ping()
        web.ping()
        gate.rule("get", "error", code="OOM", client="worker:*")
        assert web.get("a") is None
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            worker.get("a")


@pytest.mark.parametrize("size", [10, 200_000, 5_000_000])
def test_large_commands_are_replaced_as_a_whole(gate: Gate, client: redis.Redis, size: int) -> None:
    gate.rule("set", "error", code="OOM", first=1)
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        client.set("a", b"v" * size)
    assert client.get("a") is None
    assert client.set("a", b"w" * size)
    assert gate.server.strlen("a") == size


@pytest.mark.parametrize("protocol", [2, 3])
def test_messages_of_channels_are_no_replies(gate: Gate, protocol: int) -> None:
    with gate.client(protocol=protocol) as client:
        gate.rule("ping", "lose_answer")
        subscriber = client.pubsub()
        subscriber.subscribe("a", "b")
        gate_messages = [subscriber.get_message(timeout=PATIENCE) for _ in range(2)]
        gate.server.publish("a", "hello")
        gate_messages.append(subscriber.get_message(timeout=PATIENCE))
        assert [each["type"] for each in gate_messages if each] == ["subscribe", "subscribe", "message"]
        assert gate.counted["acted"] == 0
        subscriber.close()


def test_asyncio_clients_raise_the_same(gate: Gate) -> None:
    async def run() -> None:
        host, port = gate.address
        options: dict[str, Any] = (
            {"retry": redis.asyncio.retry.Retry(NoBackoff(), 0)} if hasattr(redis.asyncio, "retry") else {}
        )
        async with redis.asyncio.Redis(host=host, port=port, password=gate.password, **options) as client:
            with pytest.raises(redis.exceptions.OutOfMemoryError):
                await client.set("a", 1)
            assert await client.get("a") is None

    gate.rule("set", "error", code="OOM")
    asyncio.run(asyncio.wait_for(run(), PATIENCE))


def test_other_protocols_pass_and_are_reported(gate: Gate) -> None:
    before = gate.counters["unreadable"].get("encrypted", 0)
    gate.rule("get", "error", code="OOM")
    with socket.create_connection(gate.address, timeout=PATIENCE) as sock:
        sock.sendall(b"\x16\x03\x01\x01\r\n")
        assert sock.recv(100).startswith(b"-ERR")
    assert gate.counters["unreadable"]["encrypted"] == before + 1


SPLITS: list[Callable[[bytes], list[bytes]]] = [
    lambda data: [bytes((byte,)) for byte in data],
    lambda data: [data[:7], data[7:]],
    lambda data: [data],
]


@pytest.mark.parametrize("split", SPLITS, ids=["bytes", "two", "whole"])
def test_the_split_of_the_stream_makes_no_difference(gate: Gate, split: Callable[[bytes], list[bytes]]) -> None:
    raw = gate.raw()
    raw.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    gate.rule("get", "error", code="FOO bar", key="b")
    data = b"".join(encode_command(*words) for words in (("SET", "a", "1"), ("GET", "b"), ("GET", "a"), ("GET", "b")))
    for piece in split(data):
        raw.sock.sendall(piece)
    raw.expect(b"+OK\r\n-FOO bar\r\n$1\r\n1\r\n-FOO bar\r\n")
    raw.sock.close()
