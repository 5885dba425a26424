"""The API of rules for single statements: the key "protocol" of a proxy and the toxic type "statement"."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import ProxyHandle, Server

pytestmark = pytest.mark.addition

RULE = {"name": "rule", "type": "statement", "attributes": {"verb": "commit", "act": "error", "code": "40001"}}


def make(server: Server, **fields: Any) -> Any:
    return server.call("POST", "/proxies", {"name": "p", "listen": "127.0.0.1:0", "upstream": "127.0.0.1:1", **fields})


def test_a_protocol_is_shown_only_if_there_is_one(server: Server) -> None:
    assert "protocol" not in make(server).json
    assert "statements" not in server.call("GET", "/proxies/p/counters").json
    assert server.call("POST", "/proxies/p", {"protocol": "postgres"}).json["protocol"] == "postgres"
    assert server.call("GET", "/proxies").json["p"]["protocol"] == "postgres"
    counters = server.call("GET", "/proxies/p/counters").json
    assert (counters["statements"], counters["unreadable"]) == ({}, {})
    assert "protocol" not in server.call("POST", "/proxies/p", {"protocol": ""}).json


def test_an_unknown_protocol_is_refused(server: Server) -> None:
    reply = make(server, protocol="mysql")
    assert reply.status == 400
    assert reply.error == "bad request body: protocol must be one of postgres, redis, or empty for none, not mysql"


def test_a_rule_is_shown_as_a_toxic(server: Server) -> None:
    make(server, protocol="postgres")
    added = server.call("POST", "/proxies/p/toxics", RULE)
    expected = {**RULE, "stream": "upstream", "toxicity": 1}
    assert (added.status, added.json) == (200, expected)
    assert server.call("GET", "/proxies/p/toxics/rule").json == expected
    assert server.call("GET", "/proxies/p").json["toxics"] == [expected]
    none: dict[str, Any] = {"matched": 0, "acted": 0, "first": None, "last": None, "shown": []}
    assert server.call("GET", "/proxies/p/counters").json["toxics"] == {"rule": none}
    assert server.call("POST", "/proxies/p/toxics", RULE).status == 409
    assert server.call("DELETE", "/proxies/p/toxics/rule").status == 204
    assert server.call("GET", "/proxies/p").json["toxics"] == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"stream": "downstream"}, "stream of a statement must be upstream, not downstream"),
        ({"toxicity": 0.5}, "toxicity of a statement must be 1; see attributes.nth and every"),
        ({"after": 2}, "a statement has no after, count and connections beside its attributes; see attributes.after"),
        ({"attributes": {"verb": "commit"}}, "act: missing"),
        ({"attributes": None}, "verb: missing"),
    ],
)
def test_a_rule_that_can_not_work_is_refused(server: Server, changes: dict[str, Any], reason: str) -> None:
    make(server, protocol="postgres")
    reply = server.call("POST", "/proxies/p/toxics", {**RULE, **changes})
    assert (reply.status, reply.error) == (400, f"bad request body: {reason}")
    assert server.call("GET", "/proxies/p").json["toxics"] == []


def test_a_rule_needs_a_protocol(server: Server) -> None:
    make(server)
    reply = server.call("POST", "/proxies/p/toxics", RULE)
    assert reply.status == 400
    assert 'the proxy has no protocol; set its "protocol" to postgres or redis first' in reply.error


def test_an_update_changes_the_attributes_that_it_contains(server: Server) -> None:
    make(server, protocol="postgres", toxics=[RULE])
    changed = server.call("POST", "/proxies/p/toxics/rule", {"attributes": {"code": "40P01", "nth": 2}})
    assert changed.json["attributes"] == {"verb": "commit", "act": "error", "nth": 2, "code": "40P01"}
    assert server.call("POST", "/proxies/p/toxics/rule", {"attributes": {"nth": 0}}).status == 400
    assert server.call("GET", "/proxies/p/toxics/rule").json == changed.json


def test_the_protocol_can_not_change_under_a_rule(server: Server) -> None:
    make(server, protocol="postgres", toxics=[RULE])
    reply = server.call("POST", "/proxies/p", {"protocol": "redis"})
    assert reply.status == 400
    assert "protocol can't change while the proxy has toxics of the type statement" in reply.error
    assert server.call("POST", "/proxies/p", {"protocol": "postgres"}).status == 200
    assert server.call("POST", "/reset").status == 204
    assert server.call("POST", "/proxies/p", {"protocol": "redis"}).json["protocol"] == "redis"


def test_populate_sets_the_protocol_and_the_rules(server: Server) -> None:
    entry = {"name": "p", "listen": "127.0.0.1:0", "upstream": "127.0.0.1:1", "protocol": "postgres", "toxics": [RULE]}
    created = server.call("POST", "/populate", [entry]).json["proxies"][0]
    assert (created["protocol"], len(created["toxics"])) == ("postgres", 1)
    again = {**entry, "listen": created["listen"], "toxics": []}
    kept = server.call("POST", "/populate", [again]).json["proxies"][0]
    assert kept == created
    del again["protocol"]
    assert server.call("POST", "/populate", [again]).json["proxies"][0] == created


def test_a_proxy_reads_a_new_protocol_on_new_connections_only(proxy: ProxyHandle) -> None:
    early, early_served = proxy.connect()
    proxy.call("POST", "", {"protocol": "postgres"})
    proxy.call("POST", "/toxics", RULE)
    late, late_served = proxy.connect()
    for client, served in ((early, early_served), (late, late_served)):
        client.sendall(b"hello")
        assert served.recv(5) == b"hello"
    assert proxy.counters()["unreadable"] == {"other": 1}
