"""The server as a process, with its flags, environment, config file and signals, and with hostile requests to its API."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import PATIENCE, Server, command_of, take
from .test_proxy_data import Watch, gone


def run(kind: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command_of(kind), *flags], capture_output=True, text=True, timeout=PATIENCE)


@pytest.mark.parametrize("flag", ["-version", "--version", "-version=true"])
def test_version_flag(kind: str, flag: str) -> None:
    ended = run(kind, flag)
    assert ended.returncode == 0
    assert ended.stdout.startswith("toxiproxy-server version ")


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        (["-h"], 0, "-proxy-metrics"),
        (["-nope"], 2, "flag provided but not defined: -nope"),
        (["-port"], 2, "flag needs an argument: -port"),
        (["-seed", "x"], 2, 'invalid value "x" for flag -seed: parse error'),
        (["-version=x"], 2, 'invalid boolean value "x" for -version: parse error'),
    ],
)
def test_flags_refused(kind: str, flags: list[str], code: int, text: str) -> None:
    ended = run(kind, *flags)
    assert (ended.returncode, text in ended.stderr) == (code, True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_with_exit_code_0(start: Callable[..., Server], number: int) -> None:
    server = start()
    watch = Watch()
    server.process.send_signal(number)
    assert server.process.wait(PATIENCE) == 0
    assert watch.seconds < 2


def test_first_line_names_the_address(start: Callable[..., Server]) -> None:
    server = start()
    assert server.entry["level"] == "info"
    assert server.entry["message"] == "Starting Toxiproxy HTTP server"
    host, port = server.entry["address"].split(":")
    assert (host, int(port) > 0) == ("127.0.0.1", True)


@pytest.mark.addition
def test_first_line_comes_at_any_log_level(start: Callable[..., Server]) -> None:
    assert start(env={"LOG_LEVEL": "panic"}).call("GET", "/version").status == 200


@pytest.mark.parametrize("style", [["-config", "{}"], ["--config={}"]])
def test_config_file(start: Callable[..., Server], tmp_path: Path, style: list[str]) -> None:
    path = tmp_path / "c.json"
    path.write_text(
        json.dumps(
            [
                {"name": "a", "listen": "127.0.0.1:0", "upstream": "u:1"},
                {"name": "b", "upstream": "u:2", "enabled": False},
            ]
        )
    )
    server = start(*(each.format(path) for each in style))
    proxies: Any = {}
    watch = Watch()
    while len(proxies) < 2 and watch.seconds < PATIENCE:  # the real one answers before it has read it
        proxies = server.call("GET", "/proxies").json
    assert {name: each["enabled"] for name, each in proxies.items()} == {"a": True, "b": False}


@pytest.mark.differs("D12: toxics in the config file are ignored")
def test_d12_toxics_come_with_the_config_file(start: Callable[..., Server], tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    toxic = {"type": "latency", "attributes": {"latency": 5}}
    path.write_text(json.dumps([{"name": "a", "listen": "127.0.0.1:0", "upstream": "u:1", "toxics": [toxic]}]))
    server = start("-config", str(path))
    watch = Watch()
    while not (proxies := server.call("GET", "/proxies").json) and watch.seconds < PATIENCE:
        pass
    assert [each["name"] for each in proxies["a"]["toxics"]] == ["latency_downstream"]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_metrics_answer_any_method(start: Callable[..., Server], method: str) -> None:
    reply = start("-proxy-metrics", "-runtime-metrics").call(method, "/metrics")
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4; charset=utf-8")
    assert "process_cpu_seconds_total" in reply.text


# --- strangers at the API --------------------------------------------------------------------------------------------


def raw(server: Server, data: bytes, *, end: bool = False) -> bytes:
    """Return the API's answer to these bytes, until it closes or 64 KiB have come.

    Args:
        end: half-close behind the bytes. Toxiproxy drops the request of a half-closed client if it notices in time.
    """
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), PATIENCE) as client:
        client.sendall(data)
        if end:
            client.shutdown(socket.SHUT_WR)
        return take(client, 65536)


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    one = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"
    two = b"GET /nope HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = raw(server, one + one + two)
    assert answer.count(b"HTTP/1.1 200 OK") + answer.count(b"HTTP/1.1 200 \r\n") == 2
    assert answer.index(b"404 page not found") > answer.rindex(b'{"version"')


def test_request_that_waits_for_100_continue_gets_it(server: Server) -> None:
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), PATIENCE) as client:
        client.sendall(
            b"POST /populate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        )
        assert b" 100 " in client.recv(1000)
        client.sendall(b"[]")
        assert b" 201 " in client.recv(1000)


def test_chunked_body_and_http_1_0(server: Server) -> None:
    chunked = b"POST /populate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\n[]\r\n0\r\n\r\n"
    assert b'{"proxies":null}' in raw(server, chunked)
    assert b'{"version"' in raw(server, b"GET /version HTTP/1.0\r\n\r\n")


@pytest.mark.addition
@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", b" 400 "),
        (b"GET /version HTTP/1.1\r\n\r\n", b" 400 "),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000, b" 431 "),
        (b"POST /populate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n" + b" " * 1_100_000, b" 413 "),
    ],
)
def test_bad_requests_get_an_error_and_are_closed(server: Server, request_bytes: bytes, status: bytes) -> None:
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), PATIENCE) as client:
        try:
            client.sendall(request_bytes)
            assert status in client.recv(200)
        except ConnectionError:
            pass  # closed before the whole request was sent
        assert gone(client) in ("end", "reset")
    assert server.call("GET", "/version").status == 200


@pytest.mark.addition
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=300),
        st.builds(
            lambda method, path, body: (
                b"%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (method, path, len(body), body)
            ),
            st.sampled_from([b"GET", b"POST", b"PATCH", b"DELETE", b"X"]),
            st.sampled_from(
                [
                    b"/proxies",
                    b"/populate",
                    b"/proxies/p",
                    b"/proxies/p/toxics",
                    b"/%zz",
                    b"/proxies/%ff",
                    b"*",
                    b"http://x/version",
                ]
            ),
            st.one_of(
                st.binary(max_size=100),
                st.recursive(
                    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                    lambda inner: (
                        st.lists(inner, max_size=3)
                        | st.dictionaries(
                            st.sampled_from(
                                ["name", "listen", "upstream", "enabled", "toxics", "type", "attributes", "after"]
                            ),
                            inner,
                            max_size=4,
                        )
                    ),
                    max_leaves=6,
                ).map(lambda value: json.dumps(value).encode()),
            ),
        ),
    )
)
def test_no_input_breaks_the_api(server: Server, data: bytes) -> None:
    try:
        answer = raw(server, data, end=True)
    except ConnectionError:
        answer = b""
    assert b"internal error" not in answer
    assert server.call("GET", "/version").status == 200


@pytest.mark.addition
def test_no_process_stays_and_no_unix_socket(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start()
    path = tmp_path / "s"
    server.call("POST", "/proxies", {"name": "u", "listen": f"unix:{path}", "upstream": "127.0.0.1:1"})
    assert path.exists()
    os.kill(server.process.pid, signal.SIGTERM)
    assert server.process.wait(PATIENCE) == 0
    assert not path.exists()


@pytest.mark.addition
def test_log_without_a_reader_blocks_nothing(kind: str) -> None:
    process = subprocess.Popen(
        [*command_of(kind), "-host", "127.0.0.1", "-port", "0"],
        stdout=subprocess.PIPE,
        env={**os.environ, "LOG_LEVEL": "info"},
    )
    assert process.stdout is not None
    try:
        address = json.loads(process.stdout.readline())["address"]
        host, port = address.split(":")
        with socket.create_connection((host, int(port)), PATIENCE) as client:
            for number in range(600):  # a started proxy is a line, and so is its end; a pipe holds 64 KiB
                body = json.dumps({"name": f"p{number}", "listen": "127.0.0.1:0", "upstream": "127.0.0.1:1"}).encode()
                client.sendall(
                    b"POST /proxies HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
                )
                assert client.recv(4096).startswith(b"HTTP/1.1 201")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
