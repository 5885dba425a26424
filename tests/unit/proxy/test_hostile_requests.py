"""Whatever a client sends to the API, it gets a well-formed answer below 500 or a closed connection, and the proxies go on working.

A list without chance in it but for a seed: every method at every route, and every field with every hostile value.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import socket
import threading
from collections.abc import Iterable, Iterator

import pytest

from pytest_resilience.proxy.__main__ import _listen
from pytest_resilience.proxy.api import ApiServer
from pytest_resilience.proxy.api_connection import MAX_BODY, MAX_HEAD
from pytest_resilience.proxy.event_loop import EventLoop
from pytest_resilience.proxy.log import Log
from pytest_resilience.proxy.metrics import Metrics
from pytest_resilience.proxy.proxy_collection import ProxyCollection
from pytest_resilience.proxy.runtime import ProxyRuntime

PATIENCE = 5.0
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PRI", "x"]
ROUTES = [
    "/", "/nope", "/version", "/metrics", "/reset", "/populate", "/proxies", "/proxies/p", "/proxies/none", "/proxies/p/toxics",
    "/proxies/p/toxics/t", "/proxies/p/toxics/none", "/proxies/p/counters", "/proxies/p/connections", "//proxies", "/proxies/",
    "/proxies/%zz", "/proxies/%", "/proxies/%FF", "/proxies/%00", "/proxies/%2e%2e", "/proxies/..", "*", "?", "proxies", "evil:80",
    "http://localhost/proxies", "http://", "://", "http://[::1/x", "/version?%zz", "/" + "a" * 5000, "/" + "../" * 500,
]  # fmt: skip
NUMBERS = [
    "1e999",
    "-1e999",
    "1e300",
    "-0",
    "-0.0",
    "1e-400",
    "5e-324",
    "NaN",
    "Infinity",
    "-Infinity",
    "1" * 5000,
    "-" + "9" * 25,
]
NUMBERS += [
    "0." + "1" * 5000,
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "1e5",
    "01",
    "1.",
    "--1",
    "2.5",
]
WORDS = [json.dumps("a" + chr(code) + "b") for code in (0, 1, 10, 27, 127, 0x85, 0x2028, 0xFFFD, 0x10FFFF)]
WORDS += [
    '"\\ud800"',
    '"\\udc80\\ud800"',
    '"\udcff"',
    '"' + "x" * 70_000 + '"',
    '""',
    '"."',
    '".."',
    '"/"',
    '"%2F"',
    '"unix:"',
    '"unix:\\u0000x"',
]
WORDS += [
    '"unix:/' + "x/" * 100 + '"',
    '"127.0.0.1\\u0000:0"',
    '"127.0.0.1:+-5"',
    '"127.0.0.1:' + "9" * 5000 + '"',
    '"127.0.0.1:' + "0" * 5000 + '"',
]
WORDS += [
    '"[::1"',
    '"[::1]x:1"',
    '"::1:1"',
    '"[fe80::1%lo]:0"',
    '":-1"',
    '"127.0.0.1:\\u0661"',
    '"a..b:1"',
    '"' + "a" * 300 + ':1"',
]
VALUES = [
    *NUMBERS,
    *WORDS,
    "null",
    "true",
    "[]",
    "{}",
    "[{}]",
    "[null]",
    "[[[]]]",
    '{"a":{"b":[1]}}',
    '[0,-1,1e999,"\\u0000",{}]',
    "[" * 900 + "]" * 900,
]
FIELDS = {
    "POST /proxies": ["name", "listen", "upstream", "enabled", "toxics", "tls", "accept_delay", "refuse_after", "hang", "refuse_when_down", "Logger"],
    "POST /proxies/p/toxics": ["name", "type", "stream", "toxicity", "attributes", "after", "count", "connections"],
    "PATCH /proxies/p/toxics/t": ["name", "type", "stream", "toxicity", "attributes", "after", "count", "connections"],
}  # fmt: skip
FIELDS["PATCH /proxies/p"] = FIELDS["POST /populate"] = FIELDS["POST /proxies"]
BASE = {
    "POST /proxies": {"name": '"new"', "listen": '"127.0.0.1:0"', "upstream": '"127.0.0.1:1"'},
    "POST /populate": {"name": '"new"', "listen": '"127.0.0.1:0"', "upstream": '"127.0.0.1:1"'},
    "POST /proxies/p/toxics": {"type": '"latency"'},
    "PATCH /proxies/p": {},
    "PATCH /proxies/p/toxics/t": {},
}
NESTED = {
    "attributes": ["latency", "jitter", "distribution"],
    "tls": ["client", "upstream", "other"],
    "after": ["bytes", "connections", "chunks"],
    "count": ["connections"],
}
HEADS = [
    b"\r\n\r\n", b"\n\n", b"\x00\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET\r\n\r\n", b"GET /version\r\n\r\n", b"GET  /version HTTP/1.1\r\n\r\n",
    *(b"GET /version HTTP/%s\r\nHost: localhost\r\n\r\n" % version for version in (b"0.9", b"1.2", b"2.0", b"9.9", b"1", b"10.1", b"x", b"")),
    b"GET /version HTTP/1.1\r\n\r\n", b"GET /version HTTP/1.1\r\nHost:\r\n\r\n", b"GET /version HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /version HTTP/1.1\r\nHost: localhost\r\n bad\r\n\r\n", b"GET /version HTTP/1.1\r\nHost: localhost\r\nA\x00: b\r\n\r\n",
    b"GET /version HTTP/1.1\r\nHost: localhost\r\nA: \x00\r\n\r\n", b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /version HTTP/1.1\r\nHost: \xff\r\n\r\n", b"GET /version HTTP/1.1\r\nHost: localhost\r\nOrigin: \xff\r\n\r\n",
    b"GET /version HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"GET /version HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"POST /reset HTTP/1.1\r\nHost: localhost\r\nExpect: x\r\n\r\n",
    *(b"POST /reset HTTP/1.1\r\nHost: localhost\r\nContent-Length: %s\r\n\r\n" % n for n in (b"-1", b"x", b"1, 2", b"+1", b"9" * 30, b"9" * 5000)),
    b"POST /reset HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /reset HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
    *(b"POST /reset HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + body for body in (b"x\r\n\r\n", b"-1\r\n\r\n", b"1\r\nab\r\n", b"f" * 40 + b"\r\n", b"1;" + b"e" * 200_000)),
    b"GET /version HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
    b"GET /version HTTP/1.1\r\nHost: localhost\r\nA: " + b"x" * 70_000 + b"\r\n\r\n",
    b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /populate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n" + b" " * 2_000_000,
]  # fmt: skip


class Server:
    """The API in a thread, with a proxy `p` that has a toxic `t` and leads to an upstream of the test's."""

    def __init__(self) -> None:
        self.problems: list[Exception] = []
        self.loop = EventLoop(on_error=self.problems.append)
        listener = _listen("127.0.0.1", "0")
        self.address = listener.getsockname()
        self.runtime = ProxyRuntime(self.loop, Log("panic", lambda _line: None), 1)
        self.proxies = ProxyCollection(self.runtime)
        metrics = Metrics(self.proxies, proxy=True, runtime=True)
        self.api = ApiServer(self.loop, self.runtime.log, self.proxies, metrics.text, host="127.0.0.1")
        self.api.serve(listener)
        self.upstream = socket.create_server(("127.0.0.1", 0))
        self.upstream.settimeout(PATIENCE)
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()
        self.renew()

    def renew(self) -> None:
        """Have the proxy and its toxic as they were, and no other."""
        for name in json.loads(_body(self.send(_request("GET", "/proxies")))):
            quoted = "".join(f"%{byte:02x}" for byte in name.encode())
            assert self.status("DELETE", f"/proxies/{quoted}") == 204, name
        port = self.upstream.getsockname()[1]
        body = f'{{"name":"p","listen":"127.0.0.1:0","upstream":"127.0.0.1:{port}","toxics":[{{"name":"t","type":"latency"}}]}}'
        assert self.status("POST", "/proxies", body.encode()) == 201

    def send(self, request: bytes) -> bytes:
        """Return what the API sends until it closes."""
        with socket.create_connection(self.address, PATIENCE) as client:
            try:
                client.sendall(request)
                client.shutdown(socket.SHUT_WR)
            except ConnectionError:
                pass  # refused before the whole request was sent
            answer = bytearray()
            try:
                while part := client.recv(65536):
                    answer += part
            except ConnectionError:
                pass
            return bytes(answer)

    def status(self, method: str, target: str, body: bytes | None = None) -> int:
        answer = self.send(_request(method, target, body))
        check(answer, method)
        return int(answer[9:12])

    def relays(self) -> bool:
        """True if a byte gets through the proxy."""
        proxy = self.proxies.by_name["p"]
        assert proxy.listener is not None
        with socket.create_connection(proxy.listener.address.sockaddr, PATIENCE) as client:
            client.sendall(b"x")
            served, _ = self.upstream.accept()
            with served:
                served.settimeout(PATIENCE)
                return served.recv(1) == b"x"

    def close(self) -> None:
        def stop() -> None:
            self.api.close()
            for proxy in self.proxies.by_name.values():
                proxy.close()
            self.loop.stop()

        self.loop.call_at(0, stop)
        try:
            socket.create_connection(self.address, PATIENCE).close()  # it may never end
        except ConnectionError:
            pass  # it was not
        self.thread.join(PATIENCE)
        self.upstream.close()
        self.loop.close()
        self.runtime.resolver.close()


def _request(method: str, target: str, body: bytes | None = None) -> bytes:
    length = "" if body is None else f"Content-Length: {len(body)}\r\n"
    head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{length}\r\n"
    return head.encode() + (body or b"")


def _body(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


def check(answer: bytes, method: str = "GET") -> None:
    """Check that a response is well formed, and that only an address that can't be bound is a 500, as in Toxiproxy."""
    head, end, body = answer.partition(b"\r\n\r\n")
    assert end, answer[:200]
    first, *headers = head.split(b"\r\n")
    found = re.fullmatch(rb"HTTP/1\.1 ([1-5]\d\d) [ -~]*", first)
    assert found, first
    for header in headers:
        assert re.fullmatch(rb"[A-Za-z-]+: [ -~]*", header), header
    length = re.search(rb"\r\nContent-Length: (\d+)", head)
    if length and method != "HEAD":
        assert len(body) == int(length[1])
    if method == "HEAD":
        assert body == b""
    assert b"internal error" not in body
    status = int(found[1])
    assert status < 500 or status in (501, 505) or re.search(rb'"error":"(listen |address |lookup )', body), answer[
        :300
    ]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()
    assert server.problems == []


@pytest.mark.parametrize("method", METHODS)
def test_every_method_at_every_route_is_answered(server: Server, method: str) -> None:
    for route, body in itertools.product(ROUTES, (None, b"", b"{}", b"[]", b"\xff")):
        server.status(method, route, body)
    server.renew()
    assert server.relays()


def bodies(place: str) -> Iterable[str]:
    """Yield each field with each value, alone and twice, and with values in place of objects and lists."""
    for field, value in itertools.product(FIELDS[place], VALUES):
        fields = {**BASE[place], field: value}
        yield "{" + ",".join(f'"{key}":{each}' for key, each in fields.items()) + "}"
        for inner in NESTED.get(field, ()):
            yield (
                "{"
                + ",".join(f'"{key}":{each}' for key, each in {**fields, field: f'{{"{inner}":{value}}}'}.items())
                + "}"
            )
    for value in VALUES:
        yield value
        yield f'{{"name":{value},"NAME":"new","Name":null,"name":{value}}}'


@pytest.mark.parametrize("place", sorted(BASE))
def test_every_field_with_every_value_is_answered(server: Server, place: str) -> None:
    method, _, route = place.partition(" ")
    texts = list(bodies(place))
    random.Random(place).shuffle(texts)
    for text in texts:
        body = f"[{text}]" if route == "/populate" else text
        answer = server.send(_request(method, route, body.encode("utf-8", "surrogateescape")))
        try:
            check(answer)
        except AssertionError as error:
            raise AssertionError(f"{place} {body[:200]}") from error
        if answer[9:12] in (b"200", b"201"):
            server.renew()
    assert server.relays()
    assert server.problems == []


@pytest.mark.parametrize("number", range(len(HEADS)))
def test_a_head_that_is_none_is_answered_or_closed(server: Server, number: int) -> None:
    answer = server.send(HEADS[number])
    if answer:
        check(answer)
    assert server.status("GET", "/version") == 200
    assert server.problems == []


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (
            b"GET /version HTTP/1.1\r\nHost: localhost\r\nA: "
            + b"x" * (MAX_HEAD - 100)
            + b"\r\nConnection: close\r\n\r\n",
            200,
        ),
        (b"GET /version HTTP/1.1\r\nHost: localhost\r\nA: " + b"x" * MAX_HEAD + b"\r\n\r\n", 431),
        (b"GET /version HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 12_000 + b"\r\n", 431),
        (b"GET /" + b"x" * MAX_HEAD + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        (b"GET /version HTTP/1.1\r\nHost: localhost\r\nA: " + b"x" * 300_000, 431),
        (
            b"POST /populate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY + 1)
            + b" " * (MAX_BODY + 1),
            413,
        ),
    ],
)
def test_a_request_that_is_too_long_is_refused_however_it_arrives(
    server: Server, request_bytes: bytes, status: int
) -> None:
    for size in (len(request_bytes), 65536, 5000):
        with socket.create_connection(server.address, PATIENCE) as client:
            try:
                for start in range(0, len(request_bytes), size):
                    client.sendall(request_bytes[start : start + size])
            except ConnectionError:
                pass
            assert client.recv(12) == b"HTTP/1.1 %d" % status


@pytest.mark.parametrize(
    "upstream", ["127.0.0.1\0:80", "a\0b:80", "127.0.0.1:" + "9" * 5000, "127.0.0.1:65536", "a\nb:1"]
)
def test_an_upstream_that_could_never_be_dialled_is_a_400(server: Server, upstream: str) -> None:
    for method, route, fields in (
        ("POST", "/proxies", {"name": "n", "listen": "127.0.0.1:0"}),
        ("PATCH", "/proxies/p", {}),
        ("POST", "/populate", {"name": "n"}),
    ):
        body = json.dumps({**fields, "upstream": upstream})
        answer = server.send(_request(method, route, (f"[{body}]" if route == "/populate" else body).encode()))
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert json.loads(_body(answer))["error"].startswith("bad request body: upstream")


@pytest.mark.parametrize(
    "upstream",
    [
        "unix:/" + "x/" * 100,
        "nonsense",
        "a..b:1",
        "[::1:1",
        "::1:1",
        "127.0.0.1:http",
        "x" * 300 + ":1",
        "",
        "unix:/no/such",
    ],
)
def test_a_client_of_an_upstream_that_cannot_be_reached_is_closed_and_forgotten(server: Server, upstream: str) -> None:
    proxy = server.proxies.by_name["p"]
    before = proxy.upstream.text
    proxy.upstream.change(upstream)
    try:
        assert proxy.listener is not None
        with socket.create_connection(proxy.listener.address.sockaddr, PATIENCE) as client:
            try:
                assert client.recv(1) == b""
            except ConnectionResetError:
                pass
        assert _body(server.send(_request("GET", "/proxies/p/connections"))) == b"[]"
    finally:
        proxy.upstream.change(before)


@pytest.mark.parametrize("name", [".", "..", "x" * 8193, "\N{SNOWMAN}" * 3000])
def test_a_name_that_no_url_can_address_is_a_400(server: Server, name: str) -> None:
    proxy = {"name": name, "listen": "127.0.0.1:0", "upstream": "127.0.0.1:1"}
    for route, body in (
        ("/proxies", proxy),
        ("/populate", [proxy]),
        ("/proxies/p/toxics", {"name": name, "type": "noop"}),
        ("/populate", [{**proxy, "name": "n", "toxics": [{"name": name, "type": "noop"}]}]),
    ):
        answer = server.send(_request("POST", route, json.dumps(body).encode()))
        assert answer.startswith(b"HTTP/1.1 400 "), route
        assert json.loads(_body(answer))["error"].startswith("bad request body: name must ")


@pytest.mark.parametrize(
    "name", ["...", ".x", "a/b", "%", "\0", "\x7f", "?", "#", "é", "x" * 8192, "\N{SNOWMAN}" * 2730]
)
def test_any_other_name_can_be_addressed_with_its_toxics(server: Server, name: str) -> None:
    quoted = "".join(f"%{byte:02x}" for byte in name.encode())
    proxy = {"name": name, "upstream": "u:1", "enabled": False, "toxics": [{"name": name, "type": "noop"}]}
    assert server.status("POST", "/proxies", json.dumps(proxy).encode()) == 201
    assert server.status("GET", f"/proxies/{quoted}/toxics/{quoted}") == 200
    assert server.status("DELETE", f"/proxies/{quoted}") == 204
