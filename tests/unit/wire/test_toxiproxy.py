"""The bodies of Toxiproxy's API: tables of literals, each line a response of toxiproxy-server 2.12."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_resilience.wire import toxiproxy as wire
from pytest_resilience.wire.api_error import ApiError
from pytest_resilience.wire.go_json import JsonObject, decode


def test_lone_surrogates_are_replaced() -> None:
    assert wire.read_proxy(decode(b'{"name":"a\\ud800b"}')).name == "a\ufffdb"


def test_the_bodies_of_errors_and_of_the_version() -> None:
    assert wire.error_body(404, "proxy not found") == b'{"error":"proxy not found","status":404}\n'
    assert wire.populate_error_body(500, "x") == b'{"error":"x","status":500,"proxies":null}'
    assert wire.version_body("2.12.0") == b'{"version": "2.12.0"}\n'


@pytest.mark.parametrize(
    ("kind", "sent", "message"),
    [
        ("latency", {"latency": -1}, "latency must be from 0 to 9223372036854, not -1"),
        ("latency", {"jitter": 2**62}, "jitter must be from 0 to 4611686018427, not 4611686018427387904"),
        ("slicer", {}, "average_size must be from 1 to 2305843009213693951, not 0"),
        ("slicer", {"average_size": 1, "size_variation": 2}, "size_variation must be at most average_size (1), not 2"),
        ("bandwidth", {"rate": -1}, "rate must be from 0 to 9223372036854, not -1"),
        (
            "latency",
            {"latency": True},
            "json: cannot unmarshal bool into Go struct field LatencyToxic.attributes.latency of type int64",
        ),
        ("latency", {"distribution": "x"}, "distribution must be one of uniform, normal, pareto, not x"),
    ],
)
def test_bad_attributes_are_refused(kind: str, sent: dict[str, Any], message: str) -> None:
    with pytest.raises(ApiError) as caught:
        wire.merge_attributes(kind, JsonObject(sent.items()), {})
    assert (caught.value.status, caught.value.message) == (400, f"bad request body: {message}")


def test_merged_attributes_have_the_order_of_their_type() -> None:
    merged = wire.merge_attributes(
        "latency", JsonObject([("JITTER", 3), ("latency", None), ("zzz", 1)]), {"latency": 7}
    )
    assert list(merged.items()) == [("latency", 7), ("jitter", 3)]


@pytest.mark.parametrize(
    ("kind", "values", "settings"),
    [
        ("latency", {"latency": 1500, "jitter": 5}, {"delay": 1.5, "jitter": 0.005}),
        ("bandwidth", {"rate": 3}, {"rate_bytes_per_s": 3000.0}),
        (
            "slicer",
            {"average_size": 5, "size_variation": 1, "delay": 250},
            {"average_size": 5, "size_variation": 1, "delay": 0.00025},
        ),
        ("limit_data", {"bytes": 9}, {"limit_bytes": 9}),
        ("noop", {}, {}),
    ],
)
def test_settings_are_in_seconds_and_bytes(kind: str, values: dict[str, int], settings: dict[str, Any]) -> None:
    assert wire.settings(kind, values) == pytest.approx(settings)


@pytest.mark.parametrize("kind", wire.ATTRIBUTES)
def test_every_type_can_be_built_from_its_smallest_values(kind: str) -> None:
    from pytest_resilience.proxy.toxics import KINDS, build

    smallest = {each.name: each.low for each in wire.ATTRIBUTES[kind] if not each.choices}
    assert isinstance(build(kind, wire.settings(kind, smallest)), KINDS[kind])
    assert list(KINDS) == list(wire.ATTRIBUTES)


def test_a_body_copied_from_a_response_is_accepted() -> None:
    answer = b'{"name":"p","listen":"l","upstream":"u","enabled":true,"Logger":{},"toxics":[{"type":"noop","toxicity":1}],"x":1}'
    body = wire.read_new_proxy(answer)
    assert (body.name, body.listen, body.upstream, body.enabled, body.unknown) == ("p", "l", "u", True, ["x"])
    assert body.toxics is not None
    assert [each.kind for each in body.toxics] == ["noop"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            b"{}",
            f"bad request body: json: cannot unmarshal object into Go value of type []{wire.POPULATE_ENTRY}",
        ),
        (b'[{"name":"a","upstream":"b"},{}]', "missing required field: name at proxy 2"),
        (
            b'[{"name":"a","upstream":"b","toxics":{}}]',
            "bad request body: json: cannot unmarshal object into Go struct field .Proxy.toxics of type []toxics.ToxicWrapper",
        ),
        (
            b'[{"name":"a","upstream":"b","accept_delay":-1}]',
            "bad request body: accept_delay must be from 0 to 9223372036854, not -1",
        ),
    ],
)
def test_a_bad_list_of_proxies_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(ApiError) as caught:
        wire.read_proxies(body)
    assert caught.value.message == message


# --- TLS ---------------------------------------------------------------------------------------------------------------


def read_tls(text: str) -> wire.TlsBody | None:
    return wire.read_proxy(decode(text.encode())).tls


@pytest.mark.parametrize(
    ("text", "tls"),
    [
        ("{}", None),
        ('{"tls":null}', wire.TlsBody()),
        ('{"tls":{}}', wire.TlsBody()),
        ('{"tls":{"client":null,"upstream":null}}', wire.TlsBody()),
        ('{"TLS":{"Client":{"cert":"c","KEY":"k","ca":null}}}', wire.TlsBody(client={"cert": "c", "key": "k"})),
        ('{"tls":{"upstream":{}}}', wire.TlsBody(upstream={})),
        (
            '{"tls":{"upstream":{"verify":false,"server_name":"s","alpn":["h2"],"ca":"a"}}}',
            wire.TlsBody(upstream={"verify": False, "server_name": "s", "alpn": ["h2"], "ca": "a"}),
        ),
    ],
)
def test_the_tls_options_of_a_proxy_are_read(text: str, tls: wire.TlsBody | None) -> None:
    assert read_tls(text) == tls


def test_responses_contain_tls_options_as_they_were_sent() -> None:
    assert wire.TlsBody(upstream={"verify": False}).as_json == {"upstream": {"verify": False}}
    assert wire.TlsBody().as_json == {}


@pytest.mark.parametrize(
    ("tls", "message"),
    [
        ("1", "json: cannot unmarshal number into Go struct field Proxy.tls of type toxiproxy.Tls"),
        ('{"server":{}}', "tls.server: no such key; there are client, upstream"),
        ('{"client":true}', "json: cannot unmarshal bool into Go struct field Proxy.tls.client of type toxiproxy.Tls"),
        ('{"client":{}}', "tls.client.cert: missing"),
        ('{"client":{"cert":"c"}}', "tls.client.key: missing"),
        ('{"upstream":{"key":"k"}}', "tls.upstream.cert: missing"),
        ('{"client":{"verify":true}}', "tls.client.verify: no such key; there are cert, key, ca, alpn"),
        ('{"client":{"cert":1}}', "json: cannot unmarshal number into Go struct field Proxy.tls.client.cert of type string"),
        ('{"upstream":{"verify":1}}', "json: cannot unmarshal number into Go struct field Proxy.tls.upstream.verify of type bool"),
        ('{"upstream":{"alpn":"h2"}}', "json: cannot unmarshal string into Go struct field Proxy.tls.upstream.alpn of type []string"),
    ],
)  # fmt: skip
def test_bad_tls_options_are_refused(tls: str, message: str) -> None:
    with pytest.raises(ApiError) as refused:
        read_tls(f'{{"tls":{tls}}}')
    assert (refused.value.status, refused.value.message) == (400, f"bad request body: {message}")
