"""Toxiproxy's HTTP API: status codes, bodies, headers, defaults, echoes and orders, on our proxy and on the real one."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import Any

import pytest

from pytest_resilience.wire.toxiproxy import TOXIC_UPDATE

from .conftest import ProxyHandle, Server, free_port

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
UP = {"name": "p", "listen": "127.0.0.1:0", "upstream": "127.0.0.1:1"}


def error(status: int, message: str) -> str:
    return f'{{"error":"{message}","status":{status}}}\n'


# --- routing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/nope",
        "/proxies/",
        "/Proxies",
        "/version/",
        "/",
        "/proxies/a/b",
        "/metrics",
        "/proxies/a/toxics/b/c",
        "/populate/x",
    ],
)
def test_unknown_path_is_gos_404(server: Server, path: str) -> None:
    reply = server.call("GET", path)
    assert (reply.status, reply.text, reply.headers["content-type"]) == (404, "404 page not found\n", TEXT)
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "x-toxiproxy-request-id" not in reply.headers


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/reset"),
        ("GET", "/populate"),
        ("POST", "/version"),
        ("HEAD", "/version"),
        ("OPTIONS", "/proxies"),
        ("DELETE", "/proxies"),
        ("PATCH", "/proxies"),
        ("PUT", "/proxies/p"),
        ("DELETE", "/proxies/p/toxics"),
        ("PUT", "/proxies/p/toxics/t"),
    ],
)
def test_known_path_with_a_wrong_method_is_an_empty_405(server: Server, method: str, path: str) -> None:
    reply = server.call(method, path)
    assert (reply.status, reply.text) == (405, "")
    assert "allow" not in reply.headers
    assert "x-toxiproxy-request-id" not in reply.headers


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        ("//proxies", "/proxies"),
        ("/proxies//p", "/proxies/p"),
        ("/./version", "/version"),
        ("/a/../version?x=1", "/version?x=1"),
    ],
)
def test_path_that_is_not_clean_is_a_301(server: Server, path: str, clean: str) -> None:
    reply = server.call("GET", path)
    assert (reply.status, reply.headers["location"]) == (301, clean)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/proxies/%zz", 400),
        ("/%", 400),
        ("/proxies/%2", 400),
        ("?x", 400),
        ("version", 400),
        ("/version?%zz", 200),
        ("/%76ersion", 200),
        ("/proxies/%FF", 404),
        ("/proxies/%2E%2E", 301),
        ("/%2e%2e/version", 301),
        ("/proxies/p%2e0", 404),
    ],
)
def test_percent_encoding(server: Server, path: str, status: int) -> None:
    server.call("POST", "/proxies", {**UP, "name": "\ufffd", "enabled": False})
    reply = server.call("GET", path)
    assert reply.status == status
    if status == 400:
        assert (reply.text, reply.headers["content-type"], reply.headers["connection"]) == (
            "400 Bad Request",
            TEXT,
            "close",
        )
    if status == 404:
        assert reply.text == error(404, "proxy not found")


@pytest.mark.parametrize("path", ["/nope", "/version", "/proxies", "/proxies/none"])
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "CONNECT", "FOO"])
def test_odd_methods_are_answered_without_a_body_that_is_in_the_way(server: Server, method: str, path: str) -> None:
    """A second request shows that the first response was as long as its length."""
    for _ in range(2):
        reply = server.call(method, path)
        assert reply.status == (404 if path == "/nope" else 405)
        assert reply.text == ("404 page not found\n" if path == "/nope" and method != "HEAD" else "")


@pytest.mark.parametrize("method", ["HEAD", "CONNECT"])
def test_metrics_answer_heads_and_connects_without_a_body(start: Callable[..., Server], method: str) -> None:
    server = start("-proxy-metrics")
    for _ in range(2):
        reply = server.call(method, "/metrics")
        assert reply.status == 200
        if method == "HEAD" or server.kind == "ours":  # CONNECT: a 2xx opens a tunnel, which has no body; Go sends one
            assert reply.text == ""


def test_query_is_ignored(server: Server) -> None:
    assert server.call("GET", "/proxies?x=1").text == "{}"


def test_version(server: Server) -> None:
    reply = server.call("GET", "/version")
    assert reply.status == 200
    assert re.fullmatch(r'\{"version": "(2\.12\.0|git)"\}\n', reply.text)  # git: the version of a `go install` build
    assert reply.headers["content-type"] == "application/json;charset=utf-8"
    assert re.fullmatch("[0-9a-v]{20}", reply.headers["x-toxiproxy-request-id"])


@pytest.mark.parametrize("path", ["/version", "/proxies", "/proxies/none"])
def test_browsers_are_refused(server: Server, path: str) -> None:
    reply = server.call("GET", path, User_Agent="Mozilla/5.0 (X11)")
    assert (reply.status, reply.text, reply.headers["content-type"]) == (403, "User agent not allowed\n", TEXT)
    assert "x-toxiproxy-request-id" in reply.headers


@pytest.mark.parametrize("agent", ["mozilla/5.0", "curl Mozilla/5.0", "Mozilla"])
def test_agents_that_only_look_like_browsers_are_served(server: Server, agent: str) -> None:
    assert server.call("GET", "/version", User_Agent=agent).status == 200


def test_browser_at_an_unknown_path_gets_404(server: Server) -> None:
    assert server.call("GET", "/nope", User_Agent="Mozilla/5.0").status == 404


# --- create ----------------------------------------------------------------------------------------------------------


def test_created_proxy_is_echoed_with_its_real_address(server: Server) -> None:
    reply = server.call("POST", "/proxies", UP)
    port = reply.json["listen"].removeprefix("127.0.0.1:")
    assert int(port) > 0
    assert reply.status == 201
    assert reply.headers["content-type"] == JSON
    assert reply.headers["content-length"] == str(len(reply.text))
    assert reply.text == (
        f'{{"name":"p","listen":"127.0.0.1:{port}","upstream":"127.0.0.1:1","enabled":true,"Logger":{{}},"toxics":[]}}'
    )
    assert server.call("GET", "/proxies/p").text == reply.text
    assert server.call("GET", "/proxies").text == '{"p":' + reply.text + "}"


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("localhost:0", r"127\.0\.0\.1:\d+"),
        ("", r"\[::\]:\d+"),
        (":0", r"\[::\]:\d+"),
        ("0.0.0.0:0", r"\[::\]:\d+"),
        ("[::1]:0", r"\[::1\]:\d+"),
    ],
)
def test_listen_is_echoed_resolved(server: Server, listen: str, expected: str) -> None:
    assert re.fullmatch(expected, server.call("POST", "/proxies", {**UP, "listen": listen}).json["listen"])


def test_proxy_created_disabled_keeps_its_address_as_written(server: Server) -> None:
    reply = server.call("POST", "/proxies", {**UP, "listen": "localhost:0", "enabled": False})
    assert (reply.status, reply.json["listen"], reply.json["enabled"]) == (201, "localhost:0", False)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("", 400, "bad request body: EOF"),
        ("{", 400, "bad request body: unexpected EOF"),
        ('{"name":', 400, "bad request body: unexpected EOF"),
        ('{"name":"a', 400, "bad request body: unexpected EOF"),
        ("[]", 400, "bad request body: json: cannot unmarshal array into Go value of type toxiproxy.Proxy"),
        (
            '{"name":5}',
            400,
            "bad request body: json: cannot unmarshal number into Go struct field Proxy.name of type string",
        ),
        ("x", 400, "bad request body: invalid character 'x' looking for beginning of value"),
        ("{}", 400, "missing required field: name"),
        ("null", 400, "missing required field: name"),
        ('{"upstream":"x"}', 400, "missing required field: name"),
        ('{"name":"x"}', 400, "missing required field: upstream"),
        ('{"name":"x","upstream":null}', 400, "missing required field: upstream"),
        ('{"name":"x","upstream":"u","listen":"39019"}', 500, "listen tcp: address 39019: missing port in address"),
        ('{"name":"x","upstream":"u","listen":"127.0.0.1:99999"}', 500, "listen tcp: address 99999: invalid port"),
        (
            '{"name":"x","upstream":"u","listen":"127.0.0.1:notaport"}',
            500,
            "listen tcp: lookup tcp/notaport: unknown port",
        ),
        (
            '{"name":"x","upstream":"u","listen":"192.0.2.1:4711"}',
            500,
            "listen tcp 192.0.2.1:4711: bind: cannot assign requested address",
        ),
        (
            '{"name":"x","upstream":"u","listen":"::1:4711"}',
            500,
            "listen tcp: address ::1:4711: too many colons in address",
        ),
    ],
)
def test_creation_refused(server: Server, body: str, status: int, message: str) -> None:
    reply = server.call("POST", "/proxies", body)
    assert (reply.status, reply.text) == (status, error(status, message))
    assert reply.headers["content-type"] == TEXT
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert server.call("GET", "/proxies").text == "{}"


def test_address_in_use_is_a_500(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        reply = server.call("POST", "/proxies", {**UP, "listen": f"localhost:{port}"})
    assert (reply.status, reply.error) == (500, f"listen tcp 127.0.0.1:{port}: bind: address already in use")


def test_name_taken_is_a_409_before_the_address_is_looked_at(server: Server) -> None:
    server.call("POST", "/proxies", UP)
    reply = server.call("POST", "/proxies", {**UP, "listen": "nonsense"})
    assert (reply.status, reply.text) == (409, error(409, "proxy already exists"))


def test_keys_match_in_any_case_unknown_ones_are_ignored_and_the_last_wins(server: Server) -> None:
    body = '{"NAME":"first","name":"last","Upstream":"u:1","LISTEN":"127.0.0.1:0","zzz":[1,{"a":2}],"enabled":null} trailing'
    reply = server.call("POST", "/proxies", body)
    assert (reply.status, reply.json["name"], reply.json["enabled"]) == (201, "last", True)


def test_go_escapes_of_html_and_line_separators(server: Server) -> None:
    reply = server.call("POST", "/proxies", {**UP, "name": 'a<b>&é\u2028"\\\n', "enabled": False})
    assert '"name":"a\\u003cb\\u003e\\u0026é\\u2028\\"\\\\\\n"' in reply.text


def test_list_is_sorted_by_name(server: Server) -> None:
    for name in ("b", "c", "a"):
        server.call("POST", "/proxies", {**UP, "name": name})
    assert list(server.call("GET", "/proxies").json) == ["a", "b", "c"]


# --- get, update, delete ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/proxies/none", None),
        ("POST", "/proxies/none", "{}"),
        ("PATCH", "/proxies/none", ""),
        ("DELETE", "/proxies/none", None),
        ("GET", "/proxies/none/toxics", None),
        ("POST", "/proxies/none/toxics", ""),
        ("GET", "/proxies/none/toxics/x", None),
        ("PATCH", "/proxies/none/toxics/x", "{}"),
        ("DELETE", "/proxies/none/toxics/x", None),
    ],
)
def test_unknown_proxy_is_a_404(server: Server, method: str, path: str, body: str | None) -> None:
    reply = server.call(method, path, body)
    assert (reply.status, reply.text, reply.headers["content-type"]) == (404, error(404, "proxy not found"), TEXT)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_update_changes_the_fields_that_it_names(proxy: ProxyHandle, method: str) -> None:
    before = proxy.call("GET").json
    assert proxy.call(method, "", {"enabled": False, "name": "ignored"}).json == {**before, "enabled": False}
    assert proxy.call(method, "", "{}").json == {**before, "enabled": False}
    assert proxy.call(method, "", {"enabled": True}).json == before


def test_update_without_a_body_is_a_400(proxy: ProxyHandle) -> None:
    reply = proxy.call("POST", "", "")
    assert (reply.status, reply.error) == (400, "bad request body: EOF")


@pytest.mark.parametrize(
    ("listen", "message"),
    [
        ("nonsense", "address nonsense: missing port in address"),
        ("127.0.0.1:99999", "address 99999: invalid port"),
        ("127.0.0.1:notaport", "lookup tcp/notaport: unknown port"),
    ],
)
def test_update_with_an_address_that_cannot_be_read_changes_nothing(
    proxy: ProxyHandle, listen: str, message: str
) -> None:
    before = proxy.call("GET").json
    reply = proxy.call("PATCH", "", {"listen": listen})
    assert (reply.status, reply.error) == (500, message)
    assert proxy.call("GET").json == before


def test_update_of_the_address_moves_the_proxy(proxy: ProxyHandle) -> None:
    moved = proxy.call("PATCH", "", {"listen": "127.0.0.1:0"}).json["listen"]
    assert moved != proxy.listen
    with pytest.raises(ConnectionRefusedError):
        proxy.dial()
    proxy.port = int(moved.rsplit(":", 1)[1])
    client, served = proxy.connect()
    client.sendall(b"x")
    assert served.recv(1) == b"x"


def test_same_address_in_another_spelling_is_no_change(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    assert proxy.call("PATCH", "", {"listen": f"localhost:{proxy.port}"}).status == 200
    client.sendall(b"x")
    assert served.recv(1) == b"x"


def test_new_upstream_cuts_connections_and_keeps_toxics(proxy: ProxyHandle) -> None:
    client, _ = proxy.connect()
    proxy.add("latency", latency=0)
    with socket.create_server(("127.0.0.1", 0)) as other:
        reply = proxy.call("PATCH", "", {"upstream": f"127.0.0.1:{other.getsockname()[1]}"})
        assert [each["name"] for each in reply.json["toxics"]] == ["latency_downstream"]
        assert client.recv(1) == b""
        proxy.dial().sendall(b"x")
        served, _ = other.accept()
        with served:
            assert served.recv(1) == b"x"


def test_upstream_is_not_validated(proxy: ProxyHandle) -> None:
    assert proxy.call("PATCH", "", {"upstream": ""}).json["upstream"] == ""


def test_delete_answers_204_and_frees_name_and_port(proxy: ProxyHandle) -> None:
    reply = proxy.call("DELETE")
    assert (reply.status, reply.text) == (204, "")
    assert "content-type" not in reply.headers
    assert proxy.call("GET").status == 404
    socket.create_server(("127.0.0.1", proxy.port)).close()


# --- toxics ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind_of_toxic", "attributes", "echoed"),
    [
        ("latency", {"jitter": 5}, '{"latency":0,"jitter":5}'),
        ("bandwidth", {"rate": 100}, '{"rate":100}'),
        ("slow_close", {"delay": 10}, '{"delay":10}'),
        ("timeout", {"timeout": 1000}, '{"timeout":1000}'),
        ("reset_peer", {"timeout": 1000}, '{"timeout":1000}'),
        ("slicer", {"delay": 7, "average_size": 64}, '{"average_size":64,"size_variation":0,"delay":7}'),
        ("limit_data", {"bytes": 9}, '{"bytes":9}'),
        ("noop", {}, "{}"),
    ],
)
def test_toxic_is_echoed_with_all_attributes_in_order(
    proxy: ProxyHandle, kind_of_toxic: str, attributes: Any, echoed: str
) -> None:
    reply = proxy.call("POST", "/toxics", {"type": kind_of_toxic, "attributes": attributes})
    assert reply.status == 200
    name = f"{kind_of_toxic}_downstream"
    expected = f'{{"attributes":{echoed},"name":"{name}","type":"{kind_of_toxic}","stream":"downstream","toxicity":1}}'
    assert reply.text == expected
    assert proxy.call("GET", f"/toxics/{name}").text == expected
    assert proxy.call("GET", "/toxics").text == f"[{expected}]"
    assert f'"toxics":[{expected}]' in proxy.call("GET").text


@pytest.mark.parametrize(
    "toxicity",
    ["0", "-0", "1", "0.1", "0.9", "0.3333333", "0.25", "0.00001", "0.000001", "1e-7", "1.5e-9", "1e-10", "1e-45"],
)
def test_toxicity_is_echoed_as_float32(proxy: ProxyHandle, toxicity: str) -> None:
    reply = proxy.call("POST", "/toxics", f'{{"type":"noop","toxicity":{toxicity}}}')
    assert reply.text.endswith(f'"toxicity":{toxicity}}}')


@pytest.mark.parametrize("toxicity", ["1e300", "1e999", "-1e999", "1e39", "9" * 400])
@pytest.mark.parametrize("place", ["create", "update", "populate"])
def test_a_toxicity_that_is_no_float32_is_a_400_that_names_it(proxy: ProxyHandle, toxicity: str, place: str) -> None:
    if place == "populate":
        if proxy.server.kind == "real":
            pytest.skip("D12: toxics in populate are ignored")
        toxic = f'{{"type":"noop","toxicity":{toxicity}}}'
        reply = proxy.server.call("POST", "/populate", f'[{{"name":"x","upstream":"u:1","toxics":[{toxic}]}}]')
    elif place == "create":
        reply = proxy.call("POST", "/toxics", f'{{"type":"noop","toxicity":{toxicity}}}')
    else:
        proxy.add("noop")
        reply = proxy.call("PATCH", "/toxics/noop_downstream", f'{{"toxicity":{toxicity}}}')
    field = f"Go struct field {'' if place == 'update' else 'ToxicWrapper'}.toxicity of type float32"
    assert (reply.status, reply.error) == (
        400,
        f"bad request body: json: cannot unmarshal number {toxicity} into {field}",
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"a\xffb", "a\ufffdb"),
        (b"\xe2\x82", "\ufffd\ufffd"),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
        (b"\xf0\x9f\x98x", "\ufffd\ufffd\ufffdx"),
        (b"\\ud800", "\ufffd"),
        (b"\\ud800\\udc00", "\U00010000"),
        (b"\xc3\xa9", "é"),
    ],
)
def test_invalid_utf8_is_replaced_byte_by_byte(server: Server, name: bytes, expected: str) -> None:
    body = b'{"name":"' + name + b'","upstream":"u:1","enabled":false}'
    reply = server.call("POST", "/proxies", body)
    assert (reply.status, reply.json["name"]) == (201, expected)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"name":tru}', "invalid character '}' in literal true (expecting 'e')"),
        ('{"enabled":nul }', "invalid character ' ' in literal null (expecting 'l')"),
        ('{"a":-}', "invalid character '}' in numeric literal"),
        ('{"a":-.1}', "invalid character '.' in numeric literal"),
        ('{"a":1.}', "invalid character '}' after decimal point in numeric literal"),
        ('{"a":1e}', "invalid character '}' in exponent of numeric literal"),
        ('{"a":1e+x}', "invalid character 'x' in exponent of numeric literal"),
        ('{"name":"\\x"}', "invalid character 'x' in string escape code"),
        ('{"a":[1}', "invalid character '}' after array element"),
        ('{"a":[{"b":"]"} 1]}', "invalid character '1' after array element"),
        (b"\xff", "invalid character 'ÿ' looking for beginning of value"),
        ('{"name":1e999}', "json: cannot unmarshal number into Go struct field Proxy.name of type string"),
    ],
)
def test_bad_json_is_refused_in_gos_words(server: Server, body: str | bytes, message: str) -> None:
    assert server.call("POST", "/proxies", body).error == f"bad request body: {message}"


def test_bad_bodies_of_toxics_are_refused_in_gos_words(proxy: ProxyHandle) -> None:
    proxy.add("latency")
    toxic = "/toxics/latency_downstream"
    for method, path, body, message in (
        ("POST", "/toxics", "[]", "array into Go value of type toxics.ToxicWrapper"),
        ("POST", "/toxics", '{"type":"noop","attributes":5}', "number into Go struct field ToxicWrapper.attributes of type toxics.NoopToxic"),
        ("PATCH", toxic, '{"attributes":5}', "number into Go struct field .attributes of type toxics.LatencyToxic"),
        ("PATCH", toxic, '{"toxicity":"x"}', "string into Go struct field .toxicity of type float32"),
        ("PATCH", toxic, "5", f"number into Go value of type {TOXIC_UPDATE}"),
    ):  # fmt: skip
        reply = proxy.call(method, path, body)
        assert (reply.status, reply.error) == (400, f"bad request body: json: cannot unmarshal {message}")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('[{"name":5}]', "json: cannot unmarshal number into Go struct field .Proxy.name of type string"),
        ('[{"enabled":5}]', "json: cannot unmarshal number into Go struct field .enabled of type bool"),
        ('[{"name":"a"}}', "invalid character '}' after array element"),
    ],
)
def test_bad_entries_of_populate_are_refused_in_gos_words(server: Server, body: str, message: str) -> None:
    assert server.call("POST", "/populate", body).json["error"] == f"bad request body: {message}"


def test_stream_is_matched_in_any_case_and_echoed_verbatim(proxy: ProxyHandle) -> None:
    reply = proxy.call("POST", "/toxics", {"type": "noop", "stream": "UpStream"})
    assert (reply.json["stream"], reply.json["name"]) == ("UpStream", "noop_UpStream")


def test_toxics_are_listed_upstream_first_each_in_order_of_addition(proxy: ProxyHandle) -> None:
    for name, stream in (("d1", "downstream"), ("u1", "upstream"), ("d2", "downstream"), ("u2", "upstream")):
        proxy.add("noop", stream, name=name)
    assert [each["name"] for each in proxy.call("GET", "/toxics").json] == ["u1", "u2", "d1", "d2"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("", 400, "bad request body: EOF"),
        ('{"type":"latency","stream":""}', 400, "stream was invalid, can be either upstream or downstream"),
        ('{"type":"nope","stream":"sideways"}', 400, "stream was invalid, can be either upstream or downstream"),
        ('{"type":"nope"}', 400, "invalid toxic type"),
        ('{"type":"Latency"}', 400, "invalid toxic type"),
        ("{}", 400, "invalid toxic type"),
        ('{"type":"nope","name":"taken"}', 400, "invalid toxic type"),
        ('{"type":"latency","name":"taken","attributes":{"latency":"x"}}', 409, "toxic already exists"),
    ],
)
def test_toxic_refused(proxy: ProxyHandle, body: str, status: int, message: str) -> None:
    proxy.add("noop", name="taken")
    reply = proxy.call("POST", "/toxics", body)
    assert (reply.status, reply.text, reply.headers["content-type"]) == (status, error(status, message), TEXT)


@pytest.mark.parametrize("value", ["5.0", "5.5", "1e3", '"5"', "true", "[]", "9223372036854775808"])
def test_integers_must_be_written_as_integers(proxy: ProxyHandle, value: str) -> None:
    reply = proxy.call("POST", "/toxics", f'{{"type":"latency","attributes":{{"latency":{value}}}}}')
    assert reply.status == 400
    assert reply.error.startswith("bad request body: json: cannot unmarshal ")
    assert proxy.call("GET", "/toxics").text == "[]"


@pytest.mark.parametrize("attributes", ["[]", "5", '"x"'])
def test_attributes_must_be_an_object(proxy: ProxyHandle, attributes: str) -> None:
    assert proxy.call("POST", "/toxics", f'{{"type":"latency","attributes":{attributes}}}').status == 400


@pytest.mark.parametrize(
    "body",
    [
        '{"type":"latency"}',
        '{"type":"latency","attributes":null}',
        '{"type":"latency","attributes":{"LATENCY":0,"x":1}}',
    ],
)
def test_attributes_may_be_absent(proxy: ProxyHandle, body: str) -> None:
    assert proxy.call("POST", "/toxics", body).json["attributes"] == {"latency": 0, "jitter": 0}


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_toxic_update_merges_attributes(proxy: ProxyHandle, method: str) -> None:
    proxy.add("latency", latency=5, jitter=3)
    reply = proxy.call(method, "/toxics/latency_downstream", {"attributes": {"latency": 9}, "toxicity": 0.5})
    assert reply.status == 200
    assert reply.json["attributes"] == {"latency": 9, "jitter": 3}
    assert reply.json["toxicity"] == 0.5
    assert proxy.call(method, "/toxics/latency_downstream", {}).json == reply.json


def test_toxic_update_may_repeat_fields_that_cannot_change(proxy: ProxyHandle) -> None:
    proxy.add("latency", latency=5)
    whole = proxy.call("GET", "/toxics/latency_downstream").json
    assert proxy.call("POST", "/toxics/latency_downstream", whole).json == whole


@pytest.mark.parametrize(("method", "body"), [("GET", None), ("POST", "{}"), ("PATCH", "{}"), ("DELETE", None)])
def test_unknown_toxic_is_a_404(proxy: ProxyHandle, method: str, body: str | None) -> None:
    reply = proxy.call(method, "/toxics/none", body)
    assert (reply.status, reply.text) == (404, error(404, "toxic not found"))


def test_removed_toxic_is_gone(proxy: ProxyHandle) -> None:
    proxy.add("latency")
    reply = proxy.call("DELETE", "/toxics/latency_downstream")
    assert (reply.status, reply.text) == (204, "")
    assert "content-type" not in reply.headers
    assert proxy.call("GET", "/toxics").text == "[]"


# --- populate and reset ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", ["[]", "null"])
def test_populate_with_nothing(server: Server, body: str) -> None:
    reply = server.call("POST", "/populate", body)
    assert (reply.status, reply.text) == (201, '{"proxies":null}')


def test_populate_creates_in_order(server: Server) -> None:
    reply = server.call("POST", "/populate", [{**UP, "name": "b"}, {**UP, "name": "a", "enabled": False}])
    assert reply.status == 201
    assert [(each["name"], each["enabled"]) for each in reply.json["proxies"]] == [("b", True), ("a", False)]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "bad request body: EOF"),
        ("[", "bad request body: unexpected EOF"),
        ('[{"name":"a","upstream":"u:1"},{"name":"b"}]', "missing required field: upstream at proxy 2"),
        ('[{"upstream":"u:1"}]', "missing required field: name at proxy 1"),
    ],
)
def test_populate_refused(server: Server, body: str, message: str) -> None:
    reply = server.call("POST", "/populate", body)
    assert (reply.status, reply.text) == (400, f'{{"error":"{message}","status":400,"proxies":null}}')
    assert reply.headers["content-type"] == JSON
    assert server.call("GET", "/proxies").text == "{}"


def populate_twice(server: Server, first: dict[str, Any], second: dict[str, Any]) -> list[tuple[bool, bool, str]]:
    reply = server.call("POST", "/populate", [{**UP, **first}, {**UP, **second}])
    assert reply.status == 201
    one, two = reply.json["proxies"]
    assert server.call("GET", "/proxies").json == {"p": two}
    return [(each["enabled"], each["listen"].endswith(":0"), each["upstream"]) for each in (one, two)]


def test_populate_with_a_name_twice_gives_two_entries_the_first_one_disabled(server: Server) -> None:
    assert populate_twice(server, {}, {}) == [(False, False, "127.0.0.1:1"), (True, False, "127.0.0.1:1")]
    assert populate_twice(server, {"enabled": False}, {"upstream": "u:2"}) == [
        (False, True, "127.0.0.1:1"),
        (True, False, "u:2"),
    ]
    assert populate_twice(server, {}, {"enabled": False}) == [
        (False, False, "127.0.0.1:1"),
        (False, True, "127.0.0.1:1"),
    ]


def test_populate_with_an_equal_entry_twice_gives_the_same_proxy_twice(server: Server) -> None:
    listen = f"localhost:{free_port()}"
    reply = server.call("POST", "/populate", [{**UP, "listen": listen}, {**UP, "listen": listen}])
    one, two = reply.json["proxies"]
    assert (one, one["enabled"]) == (two, True)


def test_populate_leaves_an_equal_proxy_alone(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    proxy.add("latency")
    before = proxy.call("GET").json
    body = [{"name": "proxy", "listen": f"localhost:{proxy.port}", "upstream": before["upstream"], "enabled": False}]
    assert proxy.server.call("POST", "/populate", body).json["proxies"] == [before]
    client.sendall(b"x")
    assert served.recv(1) == b"x"


def test_populate_replaces_a_proxy_that_differs(proxy: ProxyHandle) -> None:
    proxy.add("latency")
    client, _ = proxy.connect()
    body = [{"name": "proxy", "listen": proxy.listen, "upstream": "127.0.0.1:1"}]
    reply = proxy.server.call("POST", "/populate", body)
    assert reply.json["proxies"] == [
        {**proxy.call("GET").json, "toxics": [], "upstream": "127.0.0.1:1", "listen": proxy.listen}
    ]
    assert client.recv(1) == b""


def test_reset_enables_proxies_and_removes_toxics(server: Server, make_proxy: Callable[..., ProxyHandle]) -> None:
    first, second = make_proxy(server, "first"), make_proxy(server, "second")
    first.add("latency", latency=1)
    second.add("latency", "upstream")
    second.call("PATCH", "", {"enabled": False})
    reply = server.call("POST", "/reset", "ignored")
    assert (reply.status, reply.text) == (204, "")
    assert "content-type" not in reply.headers
    for each in (first, second):
        assert each.call("GET").json["enabled"] is True
        assert each.call("GET", "/toxics").text == "[]"
    client, served = second.connect()
    client.sendall(b"x")
    assert served.recv(1) == b"x"
