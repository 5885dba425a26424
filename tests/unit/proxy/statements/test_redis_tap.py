"""The tap of a Redis connection, between a client and a model of a server: the split of the streams makes no difference."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_resilience.proxy.statements.redis import MAX_KEPT, RedisTap
from pytest_resilience.proxy.statements.redis_text import shown_command
from pytest_resilience.proxy.statements.rule import Rule, Rules
from pytest_resilience.proxy.tap import Back, Hold
from pytest_resilience.proxy.toxics.toxic import StreamEvent
from pytest_resilience.wire.redis import encode_command
from pytest_resilience.wire.redis_stream import Commands, Everything
from pytest_resilience.wire.statement_rule import StatementRule


class Server:
    """A model of Redis: one reply for each command, with transactions and errors as far as rules need them."""

    def __init__(self) -> None:
        self.commands = Commands(Everything())
        self.executed: list[list[bytes]] = []
        self.in_multi = self.dirty = False
        self.queued: list[bytes] = []

    def feed(self, data: bytes) -> bytes:
        return b"".join(self.reply(command.name, list(command.words)) for command in self.commands.feed(data))

    def reply(self, name: str, words: list[bytes]) -> bytes:
        if name == "eval" and len(words) == 1:
            self.dirty = self.in_multi
            return b"-ERR wrong number of arguments\r\n"
        if name in ("exec", "discard") and self.in_multi:
            return self.end(name)
        self.executed.append(words)
        if name == "multi":
            self.in_multi = True
            return b"+OK\r\n"
        result = b"-" + words[3] + b"\r\n" if name == "eval" else b"$%d\r\n%b\r\n" % (len(words[-1]), words[-1])
        if self.in_multi:
            self.queued.append(result)
            return b"+QUEUED\r\n"
        return result

    def end(self, name: str) -> bytes:
        queued, dirty = self.queued, self.dirty
        self.in_multi, self.dirty, self.queued = False, False, []
        if name == "discard":
            return b"+OK\r\n"
        return b"-EXECABORT\r\n" if dirty else b"*%d\r\n" % len(queued) + b"".join(queued)


class Host:
    """A connection that passes pieces on at once."""

    number = 1

    def __init__(self) -> None:
        self.server = Server()
        self.up = self.down = None
        self.to_server = self.to_client = b""
        self.events: list[object] = []

    def now(self) -> float:
        return 1.0

    def watch(self, up, down) -> None:
        self.up, self.down = up, down

    def write(self, pieces, *, upward: bool) -> None:
        for piece in pieces:
            if isinstance(piece, Back):
                self.write((piece.item,), upward=not upward)
            elif isinstance(piece, bytes):
                assert not self.events or isinstance(self.events[-1], Hold), (
                    "nothing goes on behind the end of a connection"
                )
                if upward:
                    self.to_server += piece
                else:
                    self.to_client += piece
            else:
                self.events.append(piece)

    def run(self, data: bytes, cuts: list[int]) -> None:
        """Send all bytes of the client, and then all replies of the server, each in pieces."""
        for piece in pieces(data, cuts):
            if not self.is_over:
                self.pass_on(piece, upward=True)
        replies, self.to_server = self.server.feed(self.to_server), b""
        for piece in pieces(replies, cuts):
            if not self.is_over:
                self.pass_on(piece, upward=False)

    def pass_on(self, data: bytes, *, upward: bool) -> None:
        watcher = self.up if upward else self.down
        made = watcher(memoryview(data)) if watcher is not None else None
        self.write((data,) if made is None else made, upward=upward)

    @property
    def is_over(self) -> bool:
        return any(isinstance(event, StreamEvent) for event in self.events)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[begin:end] for begin, end in itertools.pairwise(places)]


def rules_of(*settings: StatementRule) -> Rules:
    rules = Rules("redis")
    rules.active = tuple(map(Rule, settings))
    return rules


def played(data: bytes, cuts: list[int], *settings: StatementRule) -> tuple[object, ...]:
    """Return what client and server have got, and what the rules have counted."""
    rules = rules_of(*settings)
    host = Host()
    RedisTap(host, rules)
    host.run(data, cuts)
    counted = [(rule.matched, rule.events.count, list(rule.shown)) for rule in rules.active]
    events = [type(event).__name__ for event in host.events]
    return host.to_client, host.server.executed, events, counted, rules.verbs


WORDS = [
    ("GET", "a"),
    ("SET", "b", "\r\n$1\r\n"),
    ("INCR", "c"),
    ("MULTI",),
    ("EXEC",),
    ("DISCARD",),
    ("SELECT", "1"),
    ("PING",),
]
CLIENTS = st.lists(st.sampled_from(WORDS), max_size=12).map(
    lambda each: b"".join(encode_command(*words) for words in each)
)
ACTS = st.one_of(
    st.builds(lambda code: {"act": "error", "code": code}, st.sampled_from(["OOM", "WRONGTYPE", "FOO bar"])),
    st.builds(lambda size: {"act": "cut_answer", "bytes": size}, st.integers(0, 12)),
    st.sampled_from([{"act": "lose_answer"}, {"act": "none"}, {"act": "fatal", "code": "ERR gone"}, {"act": "reset"}]),
)
VERBS = st.sampled_from(["get", "set", "incr", "exec", "discard", "multi", "*", "connect", "get|set", "ping"])
RULES = st.builds(
    lambda verb, act, nth, key: StatementRule(verb, **act, nth=nth, key=key),
    VERBS,
    ACTS,
    st.sampled_from([None, 1, 2]),
    st.sampled_from([None, None, "b*", "nothing:*"]),
)
CUTS = st.lists(st.integers(0, 300), max_size=10)


@settings(deadline=None, max_examples=300)
@given(CLIENTS, CUTS, RULES, st.one_of(st.none(), RULES))
def test_any_split_of_the_streams_has_the_same_effect(data, cuts, first, second):
    given_rules = [first] if second is None else [first, second]
    assert played(data, cuts, *given_rules) == played(data, [], *given_rules)


@settings(deadline=None)
@given(CLIENTS, CUTS)
def test_a_rule_that_never_matches_changes_nothing(data, cuts):
    direct = Server()
    client, executed, events, counted, _ = played(data, cuts, StatementRule("evalsha", "lose_answer"))
    assert (client, executed) == (direct.feed(data), direct.executed)
    assert (events, counted) == ([], [(0, 0, [])])


@pytest.mark.parametrize("value", ["\n*1\r\n$4\r\nPING", "\n*", "x" * 20_000, "evalsha"])
def test_data_that_goes_on_unread_hides_no_later_command(value):
    rules = rules_of(StatementRule("evalsha", "error", code="FOO bar"))
    host = Host()
    RedisTap(host, rules)
    for _ in range(3):
        host.run(encode_command("SET", "a", value) + encode_command("GET", "a"), [])
        host.run(encode_command("EvalSha", "abc", "0"), [7, 20])
    assert rules.active[0].events.count == 3
    assert host.to_client.count(b"-FOO bar") == 3
    assert rules.verbs == {"connect": 1, "evalsha": 3}


def test_a_value_that_looks_like_a_command_is_read_as_a_value():
    rules = rules_of(StatementRule("evalsha", "error", code="FOO bar"))
    host = Host()
    RedisTap(host, rules)
    host.run(encode_command("GET", "a"), [])
    data = encode_command("SET", "a", "\n*1\r\n$4\r\nPING\r\n" + "\0" * 50)
    host.run(data, [data.index(b"\0")])  # the first piece ends like a whole command
    assert rules.unreadable == {}
    assert host.server.executed[-1][0] == b"SET"
    host.run(encode_command("EVALSHA", "abc", "0"), [])
    assert rules.active[0].events.count == 1


@pytest.mark.parametrize("act", [{"act": "error", "code": "OOM"}, {"act": "lose_answer"}])
def test_commands_with_another_key_or_of_another_client_are_counted_and_pass(act):
    rules = rules_of(
        StatementRule("get|set", **act, key="campaign:[0-9]"), StatementRule("get", **act, client="worker:*")
    )
    host = Host()
    RedisTap(host, rules)
    host.run(encode_command("PING"), [])
    others = [encode_command("GET", "user:1"), encode_command("get", "user:2"), encode_command("SET", "user:3", "v")]
    for data in (*others, b"".join(others) * 2):
        host.run(data, [])
    assert [rule.matched for rule in rules.active] == [0, 0]
    assert rules.verbs == {"connect": 1, "get": 6, "set": 3}
    host.run(b"".join(others) + encode_command("GET", "campaign:7"), [])
    assert [rule.matched for rule in rules.active] == [1, 0]
    assert rules.verbs == {"connect": 1, "get": 9, "set": 4}


def test_commands_without_replies_do_not_shift_the_replies_of_others():
    rules = rules_of(StatementRule("get", "cut_answer", bytes=2, key="b*"))
    host = Host()
    RedisTap(host, rules)
    host.run(encode_command("PING"), [])
    host.to_client = b""
    host.pass_on(encode_command("CLIENT", "REPLY", "SKIP"), upward=True)
    host.pass_on(encode_command("SET", "a", "unseen") + encode_command("SET", "a", "v"), upward=True)
    host.pass_on(b"$1\r\nv\r\n", upward=False)
    host.pass_on(encode_command("CLIENT", "REPLY", "OFF"), upward=True)
    host.pass_on(encode_command("SET", "a", "unseen") * 2, upward=True)
    host.pass_on(encode_command("CLIENT", "REPLY", "ON"), upward=True)
    host.pass_on(b"+OK\r\n", upward=False)
    host.pass_on(encode_command("GET", "b"), upward=True)
    host.pass_on(b"$1\r\nb\r\n", upward=False)
    assert host.to_client == b"$1\r\nv\r\n+OK\r\n$1"


def test_a_connection_is_followed_without_a_rule_only_while_it_greets():
    host = Host()
    RedisTap(host, Rules("redis"))
    host.run(encode_command("HELLO", "3") + encode_command("CLIENT", "SETNAME", "worker:1"), [])
    assert host.up is not None
    host.run(encode_command("GET", "a"), [])
    assert (host.up, host.down) == (None, None)


def test_the_words_of_the_greeting_count_for_later_rules():
    rules = Rules("redis")
    host = Host()
    tap = RedisTap(host, rules)
    host.run(encode_command("CLIENT", "SETNAME", "worker:1") + encode_command("GET", "a"), [])
    rules.active = (Rule(StatementRule("get", "error", code="OOM", client="worker:*")),)
    tap.rules_changed()
    host.to_client = b""
    host.run(encode_command("GET", "a"), [])
    assert host.to_client.startswith(b"-OOM ")
    assert rules.verbs == {"connect": 1, "get": 1}


def test_what_was_kept_back_goes_on_when_the_rule_goes():
    rules = rules_of(StatementRule("set", "error", code="OOM"))
    host = Host()
    tap = RedisTap(host, rules)
    data = encode_command("SET", "a", "v" * 100)
    host.run(data[:50], [])
    assert host.server.executed == []
    rules.active = ()
    tap.rules_changed()
    host.to_server += data[50:]
    host.server.feed(host.to_server)
    assert host.server.executed == [[b"SET", b"a", b"v" * 100]]


@pytest.mark.parametrize("act", [{"act": "error", "code": "OOM"}, {"act": "hang"}])
def test_a_command_that_is_too_long_to_be_kept_back_is_judged_by_its_beginning(act):
    rules = rules_of(StatementRule("set", **act, first=1))
    host = Host()
    tap = RedisTap(host, rules)
    data = encode_command("SET", "a", "v" * (3 * MAX_KEPT))
    host.run(data, [700_000, 1_400_000, 2_100_000])
    assert rules.active[0].events.count == 1
    if act["act"] == "error":
        assert host.to_client.startswith(b"-OOM ")
        assert [words[0] for words in host.server.executed] == [b"EVAL"]
    else:
        assert [words[0] for words in host.server.executed] == [b"SET"]
    host.run(encode_command("GET", "a"), [])
    assert [words[0] for words in host.server.executed][1:] == [b"GET"]
    assert tap is not None


@pytest.mark.parametrize(("data", "reason"), [(b"\x16\x03\x01", "encrypted"), (b"\x00\x01", "other")])
def test_a_connection_of_another_protocol_is_counted_once(data, reason):
    for rules in (Rules("redis"), rules_of(StatementRule("get", "error", code="OOM"))):
        host = Host()
        RedisTap(host, rules)
        host.pass_on(data, upward=True)
        host.pass_on(data, upward=True)
        assert rules.unreadable == {reason: 1}
        assert host.to_server == data + data


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("set", "campaign:17", "secret"), "SET campaign:? ?"),
        (("get", "session:9f86d081884c7d659a2f"), "GET session:?"),
        (("config", "get", "maxmemory"), "CONFIG GET ?"),
        (("auth", "secret"), "AUTH ?"),
        (("mget", "a", "b", "c", "d"), "MGET a b c ..."),
        (("evalsha", "abc", "1", "k", "v"), "EVALSHA k ?"),
        (("ping",), "PING"),
        (("get", "a b\n"), "GET a?b?"),
        (("get", "x" * 100), "GET " + "x" * 73 + "..."),
    ],
)
def test_shown_commands_have_no_values(words, shown):
    assert shown_command(words[0], [word.encode() for word in words]) == shown
