"""Faults by statement: their settings, labels, and the rules that the proxy gets."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_resilience.errors import CannotInject, SetupError
from pytest_resilience.faults.statements import (
    ACTS,
    After,
    CommitInDoubt,
    Deadlock,
    InstalledRule,
    LoadingReplies,
    On,
    SerializationFailure,
)
from pytest_resilience.proxy_client.counters import ProxyCounters, RuleCount, Tally
from pytest_resilience.targets.statements import PostgresStatements, RedisCommands
from pytest_resilience.targets.target import Target
from pytest_resilience.wire.go_json import decode
from pytest_resilience.wire.statement_rule import read_rule

POSTGRES = SimpleNamespace(name="postgres")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"verb": ""}, "verb must be"),
        ({"verb": None}, "verb must be"),
        ({"verb": "a b c"}, "verb must be"),
        ({"act": "lose"}, "act must be one of error, .*, got 'lose'"),
        ({"nth": 0}, "nth must be an integer of at least 1, got 0"),
        ({"nth": True}, "nth must be an integer of at least 1, got True"),
        ({"first": 1.5}, "first must be"),
        ({"after": -1}, "after must be an integer of at least 0"),
        ({"act": "error"}, "the act error needs a code"),
        ({"act": "hang", "code": "40001"}, "code belongs to the act error or fatal, not to hang"),
        ({"act": "delay"}, "seconds must be at least 0.001"),
        ({"act": "delay", "seconds": 0}, "seconds must be at least 0.001"),
        ({"seconds": 1}, "seconds belongs to the act delay"),
        ({"act": "cut_answer"}, "needs either rows"),
        ({"act": "cut_answer", "rows": 1, "bytes": 1}, "needs either rows"),
        ({"close": "fin"}, "close must be one of reset, silence, got 'fin'"),
        ({"act": "hang", "close": "silence"}, "close belongs to"),
        ({"matching": 3}, "matching must be text, got 3"),
        ({"key": b"a"}, "key must be text, got b'a'"),
        ({"application_name": 3}, "application_name must be text, got 3"),
        ({"client_name": ["a"]}, r"client_name must be text, got \['a'\]"),
        ({"act": "error", "code": "40001", "message": 3}, "message must be text, got 3"),
    ],
)
def test_a_wrong_setting_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SetupError, match=message):
        On(**({"verb": "commit", "act": "lose_answer"} | settings))


@pytest.mark.parametrize(
    ("settings", "kind", "attributes"),
    [
        ({"verb": "COMMIT", "act": "lose_answer"}, "postgres", {"verb": "commit", "act": "lose_answer"}),
        (
            {
                "verb": "update",
                "act": "error",
                "code": "40001",
                "matching": "campaigns",
                "nth": 2,
                "application_name": "service:*",
            },
            "postgres",
            {
                "verb": "update",
                "act": "error",
                "code": "40001",
                "matching": "campaigns",
                "nth": 2,
                "client": "service:*",
            },
        ),
        (
            {
                "verb": "get",
                "act": "delay",
                "seconds": 0.25,
                "key": "a*",
                "client_name": "w",
                "first": 3,
                "every": 2,
                "after": 1,
            },
            "redis",
            {
                "verb": "get",
                "act": "delay",
                "delay_ms": 250,
                "key": "a*",
                "client": "w",
                "first": 3,
                "every": 2,
                "after": 1,
            },
        ),
        (
            {"verb": "get", "act": "cut_answer", "bytes": 0, "close": "silence", "per_connection": True},
            "redis",
            {"verb": "get", "act": "cut_answer", "bytes": 0, "close": "silence", "per_connection": True},
        ),
    ],
)
def test_the_proxy_gets_the_attributes_of_a_rule(
    settings: dict[str, Any], kind: str, attributes: dict[str, Any]
) -> None:
    import json

    made = On(**settings).attributes(kind)
    assert made == attributes
    assert read_rule(decode(json.dumps(made).encode()), kind).verb == attributes["verb"]


@pytest.mark.parametrize(
    ("settings", "kind"),
    [({"key": "a"}, "postgres"), ({"matching": "a"}, "redis"), ({"application_name": "a"}, "redis")],
)
def test_a_setting_for_the_other_kind_of_server_is_refused(settings: dict[str, Any], kind: str) -> None:
    with pytest.raises(SetupError, match=f"{next(iter(settings))} is a setting for .*, not for {kind}"):
        On("get", "hang", **settings).attributes(kind)


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        (On("commit", "error", code="4001"), "postgres", "code must be the SQLSTATE of an error, .*, not '4001'"),
        (On("commit", "error", code="LOADING"), "postgres", "code must be the SQLSTATE of an error, .*, not 'LOADING'"),
        (On("get", "error", code="a\r\nb"), "redis", "code must be one line, such as LOADING"),
        (On("config get", "reset"), "postgres", "verb must be one word in lower case"),
        (On("*", "reset", matching="re:("), "postgres", r"matching: 're:\(' is no regular expression: missing \)"),
        (SerializationFailure(matching="re:("), "postgres", "matching: .* is no regular expression"),
        (On("get", "hang", matching="a"), "redis", "matching is a setting for postgres, not for redis"),
    ],
)
def test_a_setting_that_the_proxy_would_refuse_is_named_before_the_strike(fault: Any, kind: str, message: str) -> None:
    with pytest.raises(SetupError, match=f"^{message}"):
        fault.check_kind(kind)


@pytest.mark.parametrize("make", [Deadlock, lambda matching: After("commit", fault="refuse", matching=matching)])
def test_shorthands_and_events_refuse_a_matching_that_is_no_text(make: Any) -> None:
    with pytest.raises(SetupError, match="matching must be text, got 3"):
        make(matching=3)


@pytest.mark.parametrize(
    ("fault", "label"),
    [
        (On("commit", "lose_answer"), "postgres.on('commit').lose_answer()"),
        (
            On("update", "error", matching="campaigns", nth=2, code="40001"),
            "postgres.on('update', matching='campaigns', nth=2).error('40001')",
        ),
        (
            On("get", "cut_answer", first=3, every=2, after=1, per_connection=True, bytes=5, close="silence"),
            "postgres.on('get').first(3).every(2).after(1).per_connection().cut_answer(bytes=5, close='silence')",
        ),
        (On("get", "delay", seconds=0.2), "postgres.on('get').delay(0.2)"),
        (After("exec", 2, "refuse"), "postgres.after('exec', n=2).refuse()"),
        (After("exec", 1, "latency", {"seconds": 0.1}), "postgres.after('exec', n=1).latency(seconds=0.1)"),
        (CommitInDoubt(), "postgres.commit_in_doubt"),
        (Deadlock(nth=2), "postgres.deadlock(nth=2)"),
    ],
)
def test_a_label_is_the_code_that_strikes(fault: Any, label: str) -> None:
    assert fault.label(POSTGRES) == label


@pytest.mark.parametrize("fault", ["", "no", "on", "after"])
def test_an_event_starts_an_ordinary_fault(fault: str) -> None:
    with pytest.raises(SetupError, match="fault must be the name of a fault, such as 'refuse'"):
        After("exec", fault=fault)


def test_an_event_has_the_settings_of_its_fault() -> None:
    with pytest.raises(SetupError, match="seconds must be at least"):
        After("exec", fault="latency", settings={"seconds": 0})
    with pytest.raises(SetupError, match="n must be an integer of at least 1"):
        After("exec", n=0, fault="refuse")


@pytest.mark.parametrize(
    ("fault", "verb", "code"),
    [
        (SerializationFailure(nth=2, matching="orders"), "insert|update|delete|merge", "40001"),
        (Deadlock(), "insert|update|delete|merge", "40P01"),
        (LoadingReplies(), "*", "LOADING"),
    ],
)
def test_shorthands_are_rules(fault: Any, verb: str, code: str) -> None:
    assert (fault.rule().verb, fault.rule().code) == (verb, code)


class FakeProxy:
    """A proxy with counters that tests set."""

    def __init__(self) -> None:
        self.read = ProxyCounters(now=10.0, live=1, accepted=Tally(), refused=None, cut=Tally(), verbs={"commit": 1})
        self.removed: list[str] = []
        self.added: list[dict[str, Any]] = []

    def counters(self) -> ProxyCounters:
        return self.read

    def now(self) -> float:
        return 10.0

    def add_toxic(self, kind: str, **settings: Any) -> str:
        self.added.append(settings["attributes"])
        return "on-1"

    def remove_toxic(self, name: str) -> None:
        self.removed.append(name)

    def set(self, **values: Any) -> None:
        self.read = ProxyCounters(
            **{"now": 11.0, "live": 1, "accepted": Tally(), "refused": None, "cut": Tally(), **values}
        )


def installed(proxy: FakeProxy, rule: On | None = None) -> InstalledRule:
    target = SimpleNamespace(name="postgres", kind="postgres", proxy_handle=proxy)
    return InstalledRule(target, rule or On("commit", "lose_answer"))  # type: ignore[arg-type]


def test_a_receipt_counts_and_shows_statements() -> None:
    proxy = FakeProxy()
    rule = installed(proxy)
    proxy.set(rules={"on-1": RuleCount(3, 2, 10.5, 10.75, ["COMMIT", "COMMIT"])})
    receipt = rule.read_receipt()
    assert (receipt.touched, receipt.unit, receipt.first, receipt.last) == (2, "statements", 0.5, 0.75)
    assert str(receipt) == "affected 2 statements, first after 0.500 s, last after 0.750 s: COMMIT; COMMIT"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"rules": {"on-1": RuleCount()}}, "affected no statements (no commit came)"),
        ({"rules": {"on-1": RuleCount(3)}}, "affected no statements (3 statements matched, and the counts chose none)"),
        (
            {"rules": {"on-1": RuleCount()}, "unreadable": {"encrypted": 2}},
            "affected no statements (2 connections encrypted, of which the statements can't be read)",
        ),
        ({}, "affected an unknown number of statements"),
    ],
)
def test_a_receipt_of_nothing_has_the_reason(values: dict[str, Any], text: str) -> None:
    proxy = FakeProxy()
    rule = installed(proxy)
    proxy.set(**values)
    assert str(rule.read_receipt()) == text


def test_encrypted_connections_are_no_place_for_a_rule() -> None:
    proxy = FakeProxy()
    proxy.set(accepted=Tally(1), unreadable={"encrypted": 1})
    with pytest.raises(
        CannotInject, match=r"postgres.on\('commit'\).lose_answer\(\): the connections .* are encrypted"
    ):
        installed(proxy)
    assert proxy.added == []


def test_a_rule_is_for_connections_in_plain_text_beside_encrypted_ones() -> None:
    proxy = FakeProxy()
    proxy.set(accepted=Tally(2), verbs={}, unreadable={"encrypted": 1})
    installed(proxy)
    assert len(proxy.added) == 1


def test_a_rule_is_removed_once() -> None:
    proxy = FakeProxy()
    rule = installed(proxy)
    rule.remove()
    rule.remove()
    assert proxy.removed == ["on-1"]


class FakeTarget(Target):
    """A target that keeps the faults that strike it."""

    def __init__(self) -> None:
        self.name = "redis"
        self.injected: list[Any] = []

    def inject(self, fault: Any) -> Any:
        self.injected.append(fault)


def test_a_selection_makes_the_fault_that_its_calls_describe() -> None:
    target = FakeTarget()
    RedisCommands(target, {"verb": "get", "key": "campaign:*"}).first(3).error("LOADING")
    PostgresStatements(target, {"verb": "select"}).every(2).after(1).per_connection().cut_answer(rows=2)
    assert target.injected == [
        On("get", "error", key="campaign:*", first=3, code="LOADING"),
        On("select", "cut_answer", every=2, after=1, per_connection=True, rows=2),
    ]


def test_a_selection_can_be_used_again() -> None:
    target = FakeTarget()
    selection = PostgresStatements(target, {"verb": "select"})
    selection.first(1).hang()
    selection.delay(0.1)
    assert target.injected == [On("select", "hang", first=1), On("select", "delay", seconds=0.1)]


def test_a_wrong_selection_fails_at_its_call() -> None:
    with pytest.raises(SetupError, match="nth must be"):
        RedisCommands(FakeTarget(), {"verb": "get", "nth": 0})
    with pytest.raises(SetupError, match="every must be"):
        RedisCommands(FakeTarget(), {"verb": "get"}).every(0)
    with pytest.raises(SetupError, match="first is 2 already, got 3"):
        RedisCommands(FakeTarget(), {"verb": "get"}).first(2).first(3)


ALL_ACTS = "the acts are: cut_answer, delay, error, fatal, hang, lose_answer, reset"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fail", f"'RedisCommands' object has no attribute 'fail'; did you mean 'fatal'?; {ALL_ACTS}"),
        (
            "lose_anwser",
            f"'RedisCommands' object has no attribute 'lose_anwser'; did you mean 'lose_answer'?; {ALL_ACTS}",
        ),
        ("zap", f"'RedisCommands' object has no attribute 'zap'; {ALL_ACTS}"),
        (
            "kill",
            "'RedisCommands' object has no attribute 'kill'; a fault of the server strikes after a statement: redis.after(...).kill()",
        ),
        ("_private", "'RedisCommands' object has no attribute '_private'"),
    ],
)
def test_a_misspelt_act_is_an_error_with_the_right_ones(name: str, message: str) -> None:
    target = FakeTarget()
    target.kill = None  # type: ignore[attr-defined]
    selection = RedisCommands(target, {"verb": "get"}).first(2)
    with pytest.raises(AttributeError, match=f"^{re.escape(message)}$"):
        getattr(selection, name)
    assert not hasattr(selection, name)


def test_a_selection_without_an_act_is_no_context_manager() -> None:
    selection: Any = RedisCommands(FakeTarget(), {"verb": "get"})
    with pytest.raises(SetupError, match=rf"^redis\.on\('get'\) has no act; {ALL_ACTS}$"), selection:
        pass


def test_a_selection_without_an_act_shows_itself() -> None:
    selection = RedisCommands(FakeTarget(), {"verb": "get", "nth": 2})
    assert repr(selection) == "<redis.on('get', nth=2), without an act>"
    selection.hang()


def test_every_act_is_a_method() -> None:
    assert all(hasattr(kind, act) for kind in (PostgresStatements, RedisCommands) for act in ACTS)
