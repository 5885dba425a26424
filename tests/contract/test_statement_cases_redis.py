"""The cases that microburst 0.10 documents for Redis, and those that it leaves out, on the proxy of this package.

| case of microburst | here |
| --- | --- |
| MOVED with a slot and an address | test_a_redirection_comes_to_the_letter |
| READONLY for SET | test_statements_redis.py: test_errors_come_to_the_letter |
| LOADING for all commands | test_loading_for_all_commands_but_those_of_a_handshake |
| OOM for commands that write | test_an_error_for_several_commands |
| ten bytes of a reply, then the end | test_statements_redis.py: test_an_answer_is_cut_behind_a_number_of_bytes |
| hang until the client gives up | test_a_client_gives_up_a_command_that_hangs |
| reset | test_statements_redis.py: test_a_reset_command_does_not_reach_the_server |
| latency | test_statements_redis.py: test_a_delay_ends_without_a_heal |
| latency, reset and hang inside MULTI | test_a_delay_inside_a_transaction, test_a_reset_inside_a_transaction_leaves_nothing, \
test_a_hang_inside_a_transaction_goes_on_at_the_heal |
| EXEC, DISCARD and RESET end a transaction | test_an_error_behind_a_transaction_is_not_queued |
| fail once, and let the retry succeed | test_redis_py_repeats_a_command_that_got_loading_once |
| SUBSCRIBE passes, pushes are no replies | test_statements_redis.py: test_messages_of_channels_are_no_replies |
| MONITOR passes | test_monitor_passes |
| AUTH is a command | test_an_error_of_auth |
| inline commands | test_an_inline_command_is_a_command |
| the key of EVAL, XREAD and others | test_the_key_of_a_command_is_found_at_its_place |
| left out: errors inside MULTI, which are skipped | test_statements_redis.py: \
test_an_error_of_execution_is_an_element_of_a_transaction, test_an_error_at_queueing_time_fails_the_transaction |
| left out: EXEC that fails | test_statements_redis.py: test_an_error_of_exec_leaves_no_transaction |
| left out: quotes in inline commands | test_an_inline_command_is_a_command |
| left out: TLS, which is refused | tests/plugin/test_tls.py, test_statements_encrypted.py |
"""

from __future__ import annotations

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pytest_resilience.probes import eventually

from .test_statements_redis import PATIENCE, Gate, Raw, client, gate, raw, server

__all__ = ["client", "gate", "raw", "server"]  # fixtures


def test_a_redirection_comes_to_the_letter(gate: Gate, client: redis.Redis) -> None:
    gate.rule("get", "error", code="MOVED 3999 127.0.0.1:7001")
    with pytest.raises(redis.exceptions.MovedError) as raised:
        client.get("a")
    assert (raised.value.slot_id, raised.value.node_addr) == (3999, ("127.0.0.1", 7001))


def test_loading_for_all_commands_but_those_of_a_handshake(gate: Gate) -> None:
    gate.rule("*", "error", code="LOADING")
    with gate.client(protocol=3) as client:
        for command in (("GET", "a"), ("SET", "a", "1"), ("PING",)):
            with pytest.raises(redis.exceptions.BusyLoadingError):
                client.execute_command(*command)
    assert gate.counted["acted"] == 3


def test_an_error_for_several_commands(gate: Gate, client: redis.Redis) -> None:
    gate.rule("set|mset|hset|lpush", "error", code="OOM")
    for command in (("SET", "a", "1"), ("MSET", "a", "1"), ("HSET", "b", "f", "1"), ("LPUSH", "c", "1")):
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            client.execute_command(*command)
    assert client.incr("d") == 1
    assert gate.server.keys() == ["d"]


def test_a_client_gives_up_a_command_that_hangs(gate: Gate) -> None:
    gate.rule("set", "hang")
    with gate.client(socket_timeout=0.1) as client, pytest.raises(redis.TimeoutError):
        client.set("a", 1)
    assert (gate.counted["acted"], gate.server.get("a")) == (1, None)
    gate.heal()
    eventually(
        lambda: gate.server.get("a") == "1", within=PATIENCE
    )  # the network delivers what the client has given up


def test_a_delay_inside_a_transaction(gate: Gate, client: redis.Redis) -> None:
    gate.rule("incrby", "delay", delay_ms=30, nth=1)
    assert client.pipeline(transaction=True).incr("a").incr("a").execute() == [1, 2]
    assert gate.counted["acted"] == 1


def test_a_reset_inside_a_transaction_leaves_nothing(gate: Gate, client: redis.Redis) -> None:
    gate.rule("incrby", "reset", nth=2)
    with pytest.raises(redis.ConnectionError):
        client.pipeline(transaction=True).incr("a").incr("a").execute()
    assert gate.server.get("a") is None
    assert client.set("a", 5)  # on a new connection, outside of any transaction
    assert gate.server.get("a") == "5"


def test_a_hang_inside_a_transaction_goes_on_at_the_heal(gate: Gate, raw: Raw) -> None:
    gate.rule("incr", "hang", nth=2)
    for words in (("MULTI",), ("INCR", "a"), ("INCR", "a"), ("EXEC",)):
        raw.send(*words)
    raw.expect(b"+OK\r\n+QUEUED\r\n")
    eventually(lambda: gate.counted["acted"] == 1, within=PATIENCE)
    assert gate.server.get("a") is None
    gate.heal()
    raw.expect(b"+QUEUED\r\n*2\r\n:1\r\n:2\r\n")


@pytest.mark.parametrize("are_replies_followed", [True, False], ids=["replies-followed", "commands-followed"])
@pytest.mark.parametrize(
    ("end", "reply"),
    [("EXEC", b"*1\r\n:1\r\n"), ("DISCARD", b"+OK\r\n"), ("RESET", b"+RESET\r\n")],
)
def test_an_error_behind_a_transaction_is_not_queued(
    gate: Gate, raw: Raw, end: str, reply: bytes, are_replies_followed: bool
) -> None:
    """The error of an EXEC shows the end of the transaction: inside of one, it would be EXECABORT for the reason of the error."""
    gate.rule("set", "error", code="LOADING" if are_replies_followed else "WRONGTYPE no", nth=2)
    for words in (("MULTI",), ("INCR", "a"), (end,)):
        raw.send(*words)
    raw.expect(b"+OK\r\n+QUEUED\r\n" + reply)
    if end == "RESET" and gate.password:
        raw.send("AUTH", gate.password)
        raw.expect(b"+OK\r\n")
    gate.rule("exec", "error", name="of_exec", code="LOADING", first=1)
    raw.send("EXEC")
    raw.expect(b"-LOADING Redis is loading the dataset in memory\r\n")
    for words in (("SET", "b", "1"), ("SET", "b", "2"), ("GET", "b"), ("EXEC",)):
        raw.send(*words)
    error = b"-LOADING Redis is loading the dataset in memory" if are_replies_followed else b"-WRONGTYPE no"
    raw.expect(b"+OK\r\n" + error + b"\r\n$1\r\n1\r\n-ERR EXEC without MULTI\r\n")
    gate.heal("of_exec")


def test_redis_py_repeats_a_command_that_got_loading_once(gate: Gate) -> None:
    gate.rule("set", "error", code="LOADING", first=1)
    with gate.client(retry=Retry(NoBackoff(), 1)) as client:
        assert client.set("a", 1)
    assert (gate.counted["matched"], gate.counted["acted"]) == (2, 1)


def test_monitor_passes(gate: Gate, raw: Raw) -> None:
    gate.rule("monitor|get", "lose_answer", key="no")
    raw.send("MONITOR")
    raw.expect(b"+OK\r\n")
    gate.server.get("a key")
    line = b""
    while b"a key" not in line:
        received = raw.sock.recv(4096)
        assert received
        line += received
    assert gate.counted["acted"] == 0


def test_an_error_of_auth(gate: Gate, raw: Raw) -> None:
    gate.rule("auth", "error", code="WRONGPASS invalid username-password pair")
    raw.send("AUTH", gate.password or "any")
    raw.expect(b"-WRONGPASS invalid username-password pair\r\n")
    raw.send("PING")
    raw.expect(b"+PONG\r\n")


@pytest.mark.parametrize(
    ("line", "key"),
    [(b"SET a 1\r\n", "a"), (b"  set\ta  1\r\n", "a"), (b'SET "a b" 1\r\n', "a b"), (b"SET 'a b' 1\n", "a b")],
)
def test_an_inline_command_is_a_command(gate: Gate, line: bytes, key: str) -> None:
    gate.rule("set", "error", code="OOM no", key=key)
    raw = gate.raw()  # a connection that is there before the rule is followed from its first command that is not inline
    raw.sock.sendall(line + b"PING\r\n")
    raw.expect(b"-OOM no\r\n+PONG\r\n")
    raw.sock.close()
    assert gate.server.keys() == []


@pytest.mark.parametrize(
    "words",
    [
        ("EVAL", "return 1", "1", "the:key"),
        ("XREAD", "COUNT", "1", "STREAMS", "the:key", "0"),
        ("XREADGROUP", "GROUP", "STREAMS", "me", "STREAMS", "the:key", ">"),
        ("ZUNION", "2", "other", "the:key"),
        ("OBJECT", "ENCODING", "the:key"),
        ("XGROUP", "CREATE", "the:key", "group", "$", "MKSTREAM"),
        ("BITOP", "AND", "the:key", "other"),
        ("MSET", "other", "the:key", "the:key", "1"),
    ],
    ids=lambda words: words[0],
)
def test_the_key_of_a_command_is_found_at_its_place(gate: Gate, raw: Raw, words: tuple[str, ...]) -> None:
    gate.rule(words[0].lower(), "error", code="FOO bar", key="the:*")
    raw.send(*words)
    raw.expect(b"-FOO bar\r\n")
    raw.send(*(word.replace("the:key", "none") for word in words))
    gate.heal()
    assert raw.receive(4) != b"-FOO"
    assert gate.server.exists("the:key") == 0
