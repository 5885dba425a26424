"""Servers for the contract suite. Each test runs on our proxy and on a real toxiproxy-server, each in a process of its own.

The real server is $TOXIPROXY_SERVER, or on PATH, or where `go install` puts it. Without one, its half of the suite is skipped.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from pytest_resilience import Resilience, Stack
from pytest_resilience.backends.backend import Backend
from pytest_resilience.backends.backend import Server as BackendServer

FAILURES = (AssertionError, KeyError, OSError, http.client.HTTPException, json.JSONDecodeError, pytest.fail.Exception)
PATIENCE = 5.0  # seconds after which a call or a transfer counts as hanging
MAX_IDLE = 30.0  # seconds after which a kept-alive connection is not used again; the server closes it after 60
INSTALL = "go install github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "differs(why, by_chance=False): our proxy passes this test, and Toxiproxy 2.12 is expected to fail it",
    )
    config.addinivalue_line("markers", "addition: a feature of our proxy that Toxiproxy 2.12 does not have")


def find_toxiproxy_server() -> str | None:
    """Return the path of a real toxiproxy-server, or None."""
    configured = os.environ.get("TOXIPROXY_SERVER")
    if configured:
        return configured
    gobin = Path(os.environ.get("GOBIN") or Path(os.environ.get("GOPATH") or Path.home() / "go") / "bin")
    found = shutil.which("toxiproxy-server")
    if found:
        return found
    for name in ("toxiproxy-server", "server"):  # `go install .../cmd/server` calls it server
        path = gobin / name
        if (
            path.exists()
            and b"toxiproxy-server version" in subprocess.run([path, "-version"], capture_output=True).stdout
        ):
            return str(path)
    return None


@pytest.fixture
def resilience(stack: Stack) -> Iterator[Resilience]:
    """The targets of one test on the stack of its module."""
    stack.prepare_test(None)
    resilience = Resilience(stack, None)
    yield resilience
    resilience.finish()


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def error(self) -> str:
        return str(self.json["error"])


def command_of(kind: str) -> list[str]:
    """Return the command that starts "ours" or "real"."""
    return [sys.executable, "-m", "pytest_resilience.proxy"] if kind == "ours" else [find_toxiproxy_server() or ""]


class Server:
    """A running proxy server, ours or a real toxiproxy-server."""

    def __init__(self, kind: str, *flags: str, env: dict[str, str] | None = None) -> None:
        self.kind = kind
        self.patience = PATIENCE
        if kind == "ours":
            flags = (
                "-allow-paths",
                *flags,
            )  # the suite tests unix sockets and TLS; test_proxy_access.py tests how they are refused
        if "-port" not in flags:
            flags = ("-port", "0" if kind == "ours" else str(free_port()), *flags)
        self.process = subprocess.Popen(
            [*command_of(kind), "-host", "127.0.0.1", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "LOG_LEVEL": "info", **(env or {})},
        )
        assert self.process.stdout is not None
        self.address = ""
        for line in self.process.stdout:
            self.entry = json.loads(line)
            if self.entry.get("message") == "Starting Toxiproxy HTTP server":
                self.address = self.entry["address"]
                break
        if self.address and kind == "real":
            self._wait_until_it_accepts()
        self._connection: http.client.HTTPConnection | None = None
        self._last_call = 0.0
        # The real server blocks when its log is not read.
        self._reader = threading.Thread(target=self.process.stdout.read, daemon=True)
        self._reader.start()

    def _wait_until_it_accepts(self) -> None:
        host, port = self.address.rsplit(":", 1)
        for _ in range(10_000):
            try:
                socket.create_connection((host, int(port)), PATIENCE).close()
            except ConnectionRefusedError:
                continue
            return

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """Send a request on a kept-alive connection and return the reply. A str or bytes body is sent unchanged."""
        if self._connection is not None and time.monotonic() - self._last_call > MAX_IDLE:
            self._connection.close()
            self._connection = None
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self.address)
        self._connection.timeout = self.patience
        if self._connection.sock is not None:
            self._connection.sock.settimeout(self.patience)
        raw = body if isinstance(body, str | bytes) or body is None else json.dumps(body)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            self._connection.request(method, path, raw, headers)
            response = self._connection.getresponse()
            text = response.read().decode()
        except BaseException:
            self._connection.close()
            self._connection = None
            raise
        self._last_call = time.monotonic()
        return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, text)

    def clear(self) -> None:
        for name in self.call("GET", "/proxies").json:
            self.call("DELETE", f"/proxies/{quote(name, safe='')}")

    def stop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self.process.kill()
        self.process.wait()
        self._reader.join(PATIENCE)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def free_port() -> int:
    """Return a port for the real server, which cannot choose a free one."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class ProxyHandle:
    """A proxy whose upstream is the test itself."""

    def __init__(self, server: Server, name: str, **fields: Any) -> None:
        self.server = server
        self.name = name
        self.upstream = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.upstream.settimeout(PATIENCE)
        self.sockets: list[socket.socket] = [self.upstream]
        port = self.upstream.getsockname()[1]
        body = {"name": name, "listen": "127.0.0.1:0", "upstream": f"127.0.0.1:{port}", **fields}
        try:
            reply = server.call("POST", "/proxies", body)
            assert reply.status == 201, reply
        except BaseException:
            self.close()
            raise
        self.listen: str = reply.json["listen"]
        self.port = int(self.listen.rsplit(":", 1)[1])
        self.path = f"/proxies/{name}"

    def dial(self) -> socket.socket:
        """Connect a client to the proxy and return its socket."""
        client = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sockets.append(client)
        return client

    def accept(self) -> socket.socket:
        """Return the upstream's end of the next connection."""
        served, _ = self.upstream.accept()
        served.settimeout(PATIENCE)
        served.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sockets.append(served)
        return served

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """Return both ends of a new connection through the proxy, accepted by the upstream."""
        client = self.dial()
        return client, self.accept()

    def call(self, method: str, path: str = "", body: Any = None) -> Reply:
        return self.server.call(method, self.path + path, body)

    def add(
        self,
        kind: str,
        stream: str = "downstream",
        *,
        name: str | None = None,
        toxicity: float = 1.0,
        **attributes: Any,
    ) -> str:
        """Add a toxic and return its name."""
        body = {"type": kind, "stream": stream, "toxicity": toxicity, "attributes": attributes}
        reply = self.call("POST", "/toxics", {**body, **({"name": name} if name else {})})
        assert reply.status == 200, reply
        return str(reply.json["name"])

    def remove(self, toxic: str) -> None:
        reply = self.call("DELETE", f"/toxics/{toxic}")
        assert reply.status == 204, reply

    def set(self, toxic: str, **attributes: Any) -> None:
        reply = self.call("PATCH", f"/toxics/{toxic}", {"attributes": attributes})
        assert reply.status == 200, reply

    def counters(self) -> Any:
        return self.call("GET", "/counters").json

    def close(self) -> None:
        for each in self.sockets:
            each.close()


def take(sock: socket.socket, size: int) -> bytes:
    """Receive exactly `size` bytes, or fewer if the stream ends before."""
    data = bytearray()
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            break
        data += part
    return bytes(data)


def silent(sock: socket.socket, seconds: float = 0.15) -> bool:
    """True if a socket receives neither data nor the end of the stream for some seconds."""
    sock.settimeout(seconds)
    try:
        got = sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(PATIENCE)
    assert got is not None
    return False


@pytest.fixture(scope="session", params=["ours", "real"])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of the server: "ours" or "real"."""
    kind: str = request.param
    if kind == "real" and find_toxiproxy_server() is None:
        pytest.skip(f"no real toxiproxy-server here; set TOXIPROXY_SERVER, or: {INSTALL}")
    return kind


@pytest.fixture(autouse=True)
def _known_differences(request: pytest.FixtureRequest) -> None:
    if "kind" not in request.fixturenames or request.getfixturevalue("kind") == "ours":
        return
    if request.node.get_closest_marker("addition"):
        pytest.skip("Toxiproxy does not have this feature")
    differs = request.node.get_closest_marker("differs")
    if differs:
        strict = not differs.kwargs.get("by_chance", False)
        request.applymarker(
            pytest.mark.xfail(reason=f"Toxiproxy 2.12: {differs.args[0]}", strict=strict, raises=FAILURES)
        )


@pytest.fixture(scope="session")
def _shared(kind: str) -> Iterator[Server]:
    server = Server(kind)
    yield server
    server.stop()


@pytest.fixture
def server(_shared: Server) -> Iterator[Server]:
    """A server that tests share, without proxies at the start of each. A test that may block it uses `own_server`."""
    yield _shared
    _shared.clear()


@pytest.fixture
def start(kind: str) -> Iterator[Callable[..., Server]]:
    """Start servers for this test only: `start(*flags)`."""
    servers: list[Server] = []

    def start(*flags: str, env: dict[str, str] | None = None) -> Server:
        servers.append(Server(kind, *flags, env=env))
        return servers[-1]

    yield start
    for each in servers:
        each.stop()


@pytest.fixture
def own_server(start: Callable[..., Server]) -> Server:
    """A server that this test may block or kill."""
    return start()


def _make_proxies() -> tuple[list[ProxyHandle], Callable[..., ProxyHandle]]:
    proxies: list[ProxyHandle] = []

    def make(server: Server, name: str = "proxy", **fields: Any) -> ProxyHandle:
        proxies.append(ProxyHandle(server, name, **fields))
        return proxies[-1]

    return proxies, make


@pytest.fixture
def make_proxy() -> Iterator[Callable[..., ProxyHandle]]:
    """Create proxies on a server: `make_proxy(server, name, **fields of the proxy)`."""
    proxies, make = _make_proxies()
    yield make
    for each in proxies:
        each.close()


@pytest.fixture
def proxy(server: Server, make_proxy: Callable[..., ProxyHandle]) -> ProxyHandle:
    """A proxy on the shared server."""
    return make_proxy(server)


@pytest.fixture
def own_proxy(own_server: Server, make_proxy: Callable[..., ProxyHandle]) -> ProxyHandle:
    """A proxy on a server that this test may block or kill."""
    return make_proxy(own_server)


def _running(server: BackendServer) -> BackendServer:
    server.resume()
    server.start()
    return server


@pytest.fixture
def postgres(backend: Backend) -> BackendServer:
    """The Postgres of the module's `backend`, running whatever the last test did."""
    return _running(backend.servers["postgres"])


@pytest.fixture
def cache(backend: Backend) -> BackendServer:
    """The Redis of the module's `backend`, running whatever the last test did."""
    return _running(backend.servers["redis"])


@pytest.fixture(params=["postgres", "redis"])
def any_server(request: pytest.FixtureRequest, backend: Backend) -> BackendServer:
    """Each server of the module's `backend`, running whatever the last test did."""
    return _running(backend.servers[request.param])
