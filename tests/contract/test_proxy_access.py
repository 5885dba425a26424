"""Access to the proxy's API by other users, by web pages, and by requests with paths."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_resilience.backends.embedded.backend import EmbeddedBackend

from .conftest import PATIENCE, Reply, Server, take

pytestmark = pytest.mark.addition

UP = {"name": "p", "listen": "127.0.0.1:0", "upstream": "127.0.0.1:1"}
NOBODY = 65534
root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to play another user of the machine")
linux = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux reports the user at the other end of a connection"
)


@pytest.fixture
def ours(kind: str) -> Iterator[Callable[..., Server]]:
    """A factory of servers with the given flags."""
    servers: list[Server] = []

    def start(*flags: str) -> Server:
        servers.append(Server(kind, "-allow-paths=false", *flags))
        return servers[-1]

    yield start
    for each in servers:
        each.stop()


# --- paths -----------------------------------------------------------------------------------------------------------

PAPERS = {"cert": "/etc/hosts", "key": "/etc/hosts"}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"listen": "unix:/tmp/x"}, "listen"),
        ({"listen": "unix:x"}, "listen"),
        ({"listen": "unix:@x"}, "listen"),
        ({"listen": "unix:/proc/self/cwd/x"}, "listen"),
        ({"listen": "unix:/tmp/x", "enabled": False}, "listen"),
        ({"upstream": "unix:/tmp/x"}, "upstream"),
        ({"tls": {"client": PAPERS}}, "tls.client.cert"),
        ({"tls": {"upstream": PAPERS}}, "tls.upstream.cert"),
        ({"tls": {"upstream": {"ca": "/etc/hosts"}}}, "tls.upstream.ca"),
        ({"tls": {"upstream": {"verify": False, "ca": "/no/such/file"}}}, "tls.upstream.ca"),
    ],
)
def test_a_path_in_a_request_is_a_400_that_names_the_field_and_the_flag(
    ours: Callable[..., Server], fields: dict[str, Any], named: str
) -> None:
    server = ours()
    assert server.call("POST", "/proxies", {**UP, "name": "old"}).status == 201
    before = server.call("GET", "/proxies").json
    replies = [
        server.call("POST", "/proxies", {**UP, **fields}),
        server.call("POST", "/populate", [{**UP, **fields}]),
        server.call("POST", "/populate", [{**UP, "name": "first"}, {**UP, "name": "old", **fields}]),
        server.call("PATCH", "/proxies/old", fields),
        server.call("POST", "/proxies/old", fields),
    ]
    for reply in replies:
        assert reply.status == 400
        assert reply.error.startswith(f"bad request body: {named}: ")
        assert "-allow-paths" in reply.error
    assert server.call("GET", "/proxies").json == before


def test_tls_without_a_file_needs_no_flag(ours: Callable[..., Server]) -> None:
    assert ours().call("POST", "/proxies", {**UP, "tls": {"upstream": {"verify": False}}}).status == 201


def test_paths_of_the_config_file_are_the_operators_and_may_be_repeated(
    ours: Callable[..., Server], tmp_path: Path
) -> None:
    config, path = tmp_path / "c.json", tmp_path / "s"
    config.write_text(json.dumps([{"name": "u", "listen": f"unix:{path}", "upstream": f"unix:{tmp_path}/up"}]))
    server = ours("-config", str(config))
    whole = server.call("GET", "/proxies/u").json
    assert (whole["enabled"], path.exists()) == (True, True)
    # A client that sends back all that it has read, as some do to enable or disable.
    assert server.call("PATCH", "/proxies/u", {**whole, "enabled": False}).status == 200
    assert server.call("POST", "/proxies/u", {**whole, "enabled": True}).status == 200
    assert server.call("POST", "/populate", [whole]).status == 201
    assert server.call("PATCH", "/proxies/u", {"upstream": f"unix:{tmp_path}/another"}).status == 400
    assert server.call("POST", "/populate", [{**whole, "name": "v"}]).status == 400
    assert server.call("DELETE", "/proxies/u").status == 204
    assert server.call("POST", "/proxies", whole).status == 400


@pytest.mark.parametrize("flag", ["-allow-paths", "--allow-paths=true"])
def test_the_flag_allows_paths(ours: Callable[..., Server], tmp_path: Path, flag: str) -> None:
    reply = ours(flag).call("POST", "/proxies", {**UP, "listen": f"unix:{tmp_path}/s"})
    assert (reply.status, (tmp_path / "s").exists()) == (201, True)


# --- what stands at a unix socket's path -------------------------------------------------------------------------------


def _file(path: Path) -> None:
    path.write_text("precious")


def _link_to_a_file(path: Path) -> None:
    path.with_suffix(".target").write_text("precious")
    path.symlink_to(path.with_suffix(".target"))


def _link_to_nothing(path: Path) -> None:
    path.symlink_to(path.with_suffix(".target"))


def _link_to_a_stale_socket(path: Path) -> None:
    _stale_socket(path.with_suffix(".target"))
    path.symlink_to(path.with_suffix(".target"))


def _device(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a device node")
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("device nodes can't be made here")


def _datagram_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))


def _stale_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))


@pytest.mark.parametrize(
    "make",
    [_file, _link_to_a_file, _link_to_nothing, _link_to_a_stale_socket, _device, Path.mkdir, os.mkfifo],
)
def test_only_a_socket_is_ever_removed(server: Server, tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "s"
    make(path)
    before = path.lstat()
    reply = server.call("POST", "/proxies", {**UP, "listen": f"unix:{path}"})
    assert (reply.status, reply.error) == (500, f"listen unix {path}: bind: address already in use")
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert server.call("GET", "/proxies").text == "{}"


def test_a_stale_socket_is_replaced(server: Server, tmp_path: Path) -> None:
    _stale_socket(tmp_path / "s")
    assert server.call("POST", "/proxies", {**UP, "listen": f"unix:{tmp_path}/s"}).status == 201


@pytest.mark.parametrize("backlog", [128, 0])
def test_a_socket_that_is_listened_on_is_in_use_even_with_a_full_backlog(
    server: Server, tmp_path: Path, backlog: int
) -> None:
    path = str(tmp_path / "s")
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(socket.socket(socket.AF_UNIX))
        other.bind(path)
        other.listen(backlog)
        while backlog == 0:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            if client.connect_ex(path):
                break
        reply = server.call("POST", "/proxies", {**UP, "listen": f"unix:{path}"})
        assert (reply.status, reply.error) == (500, f"listen unix {path}: bind: address already in use")


@pytest.mark.parametrize("end", ["DELETE", "SIGTERM"])
@pytest.mark.parametrize("make", [_file, _stale_socket, _link_to_a_stale_socket])
def test_closing_removes_only_the_socket_that_was_bound(
    own_server: Server, tmp_path: Path, make: Callable[[Path], None], end: str
) -> None:
    path = tmp_path / "s"
    assert own_server.call("POST", "/proxies", {**UP, "listen": f"unix:{path}"}).status == 201
    path.unlink()
    make(path)
    before = path.lstat()
    if end == "DELETE":
        assert own_server.call("DELETE", "/proxies/p").status == 204
    else:
        own_server.process.terminate()
        assert own_server.process.wait(PATIENCE) == 0
    assert path.lstat().st_ino == before.st_ino


def test_a_unix_proxy_that_populate_replaces_keeps_its_path(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "s"
    body = {**UP, "listen": f"unix:{path}"}
    assert server.call("POST", "/populate", [body]).status == 201
    assert server.call("POST", "/populate", [{**body, "upstream": "127.0.0.1:2"}]).status == 201
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_unix_proxy_refuses_while_it_is_disabled_and_listens_again(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "s"
    assert server.call("POST", "/proxies", {**UP, "listen": f"unix:{path}"}).status == 201
    for _ in range(3):
        assert server.call("PATCH", "/proxies/p", {"enabled": False}).status == 200
        with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
            client.connect(str(path))
        assert server.call("POST", "/reset").status == 204
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    server.call("PATCH", "/proxies/p", {"enabled": False})
    path.unlink()
    path.write_text("precious")
    reply = server.call("PATCH", "/proxies/p", {"enabled": True})
    assert (reply.status, reply.error) == (500, f"listen unix {path}: bind: address already in use")
    assert path.read_text() == "precious"


# --- where a proxy may listen ------------------------------------------------------------------------------------------

FAR = ["0.0.0.0:0", "", ":0", "[::]:0", "0:0", "[::ffff:0.0.0.0]:0", "[0:0:0:0:0:0:0:0]:0", "192.0.2.1:0"]


@pytest.mark.parametrize("listen", FAR)
def test_loopback_only_refuses_addresses_that_other_machines_reach(ours: Callable[..., Server], listen: str) -> None:
    server = ours("-loopback-only")
    assert server.call("POST", "/proxies", {**UP, "name": "old"}).status == 201
    before = server.call("GET", "/proxies").json
    fields = {"listen": listen}
    replies = [
        server.call("POST", "/proxies", {**UP, **fields}),
        server.call("POST", "/proxies", {**UP, **fields, "enabled": False}),
        server.call("POST", "/populate", [{**UP, "name": "first"}, {**UP, **fields}]),
        server.call("POST", "/populate", [{**UP, **fields, "enabled": False}]),
        server.call("PATCH", "/proxies/old", fields),
        server.call("PATCH", "/proxies/old", {**fields, "enabled": False}),
    ]
    for reply in replies:
        assert reply.status == 400
        assert reply.error.startswith("bad request body: listen: ")
        assert "-loopback-only" in reply.error
    assert server.call("GET", "/proxies").json == before


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:0", "127.9.9.9:0", "[::1]:0", "[::ffff:127.0.0.1]:0"])
def test_loopback_only_takes_all_of_loopback(ours: Callable[..., Server], listen: str) -> None:
    reply = ours("-loopback-only").call("POST", "/proxies", {**UP, "listen": listen})
    if reply.status == 500 and "[::1]" in listen:
        pytest.skip(f"no IPv6 here: {reply.error}")
    assert reply.status == 201


# --- web pages -------------------------------------------------------------------------------------------------------


def get(server: Server, target: str = "/proxies", **headers: str) -> Reply:
    """Send a GET, in which the given headers replace those of the client."""
    return server.call(
        "GET", target, None, **{name: value.format(port=_port(server)) for name, value in headers.items()}
    )


def _port(server: Server) -> str:
    return server.address.rsplit(":", 1)[1]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:{port}"},
        {"Host": "localhost.evil.example"},
        {"Host": "127.0.0.1.evil.example:{port}"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
        {"Host": "10.0.0.1:{port}"},
        {"Host": "0.0.0.0:{port}"},
        {"Host": "localhost:99999999"},
        {"Host": "localhost@evil.example"},
        {"Host": "[::2]"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Origin": "http://localhost.evil.example:{port}"},
        {"Origin": "file://"},
        {"Origin": "moz-extension://7a6a"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"User-Agent": "Mozilla/5.0"},
    ],
)
def test_a_web_page_gets_a_403(ours: Callable[..., Server], headers: dict[str, str]) -> None:
    server = ours()
    for method, target in (("GET", "/proxies"), ("POST", "/reset"), ("GET", "/version"), ("DELETE", "/proxies/p")):
        filled = {name.replace("-", "_"): value.format(port=_port(server)) for name, value in headers.items()}
        assert server.call(method, target, None, **filled).status == 403, method


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost"},
        {"Host": "LOCALHOST.:{port}"},
        {"Host": "127.0.0.1:{port}"},
        {"Host": "127.1.2.3"},
        {"Host": "[::1]:{port}"},
        {"Host": "localhost:1"},
        {"Origin": "http://127.0.0.1:{port}"},
        {"Origin": "http://localhost:{port}"},
        {"Host": "localhost:1", "Origin": "http://localhost:1"},
        {"Sec_Fetch_Site": "none"},
        {"User_Agent": "python-requests/2"},
    ],
)
def test_a_client_of_this_machine_is_served(ours: Callable[..., Server], headers: dict[str, str]) -> None:
    assert get(ours(), **headers).status == 200


def test_the_host_of_a_whole_url_counts_too(ours: Callable[..., Server]) -> None:
    server = ours()
    assert get(server, "http://evil.example/proxies").status == 403
    assert get(server, "http://localhost/proxies").status == 200


def test_a_server_for_all_interfaces_takes_any_name_and_no_foreign_page(kind: str) -> None:
    server = Server(kind, "-host", "0.0.0.0")
    try:
        assert get(server, Host="toxiproxy:{port}").status == 200
        assert get(server, Host="toxiproxy:{port}", Origin="http://evil.example").status == 403
    finally:
        server.stop()


# --- other users -----------------------------------------------------------------------------------------------------

AS_ANOTHER = """
import socket, sys
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
try: sock.sendall(sys.argv[3].encode())
except ConnectionError: print("reset"); sys.exit()
if sys.argv[4] == "close": sock.close(); sys.exit()
try:
    if sys.argv[4] == "half": sock.shutdown(socket.SHUT_WR)
    print(sock.recv(65536).decode())
except OSError: print("reset")
"""
# The checkout may be where only root can read, so all is imported before.
AS_NOBODY = """
import os, sys
import encodings.idna, resource
from pytest_resilience.proxy import __main__, api, metrics, peer_user, proxy, proxy_collection, refused_connections, resolver
os.setgid(65534)
os.setuid(65534)
sys.exit(__main__.main(*sys.argv[1:]))
"""
RESET = "POST /reset HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def as_user(uid: int, server_address: str, request: str, how: str = "wait") -> str:
    """Send a request as another user. Return what that process reads."""
    host, port = server_address.rsplit(":", 1)
    python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    done = subprocess.run(
        [python, "-I", "-S", "-c", AS_ANOTHER, host.strip("[]"), port, request, how],
        user=uid, group=uid, extra_groups=[], cwd="/", env={}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 126 or "Permission denied" in done.stderr:
        pytest.skip("no Python here that another user can run")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@root
@linux
@pytest.mark.parametrize("how", ["wait", "half", "close"])
def test_owner_only_refuses_other_users(ours: Callable[..., Server], how: str) -> None:
    """With `close`, the client closes its socket first: the kernel then reports root as its owner."""
    server = ours("-owner-only")
    server.call("POST", "/proxies", {**UP, "enabled": False})
    for _ in range(5):
        answer = as_user(NOBODY, server.address, RESET, how)
        assert answer in ("", "reset") or answer.startswith("HTTP/1.1 403 "), answer
    assert server.call("GET", "/proxies/p").json["enabled"] is False, "another user has reset the proxies"


@root
@linux
def test_owner_only_serves_its_own_user_and_root(kind: str) -> None:
    python = [sys.executable, "-c", AS_NOBODY]
    process = subprocess.Popen(
        [*python, "-host", "127.0.0.1", "-port", "0", "-owner-only"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())["address"]
        assert as_user(NOBODY, address, RESET).startswith("HTTP/1.1 204 ")
        assert as_user(0, address, RESET).startswith("HTTP/1.1 204 ")
        assert as_user(12345, address, RESET).startswith(("HTTP/1.1 403 ", "reset"))
    finally:
        process.kill()
        process.communicate()


@root
@linux
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::"])
def test_owner_only_works_on_every_kind_of_loopback(kind: str, host: str) -> None:
    try:
        socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        pytest.skip(f"no {host} here: {error}")
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest_resilience.proxy", "-host", host, "-port", "0", "-owner-only"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["port"]
        for each in ("127.0.0.1", "::1") if host == "::" else (host,):
            with socket.create_connection((each, int(port)), PATIENCE) as client:
                client.sendall(RESET.encode())
                assert take(client, 12) == b"HTTP/1.1 204"
            assert as_user(NOBODY, f"{each}:{port}", RESET).startswith(("HTTP/1.1 403 ", "reset"))
    finally:
        process.kill()
        process.communicate()


def test_a_sessions_proxy_serves_its_own_user_only_and_takes_no_paths(kind: str, tmp_path: Path) -> None:
    with EmbeddedBackend() as backend:
        host, port = backend.api
        talk = http.client.HTTPConnection(host, port, timeout=PATIENCE)
        for fields in ({"listen": f"unix:{tmp_path}/s"}, {"upstream": "unix:/x"}, {"listen": "0.0.0.0:0"}):
            talk.request("POST", "/proxies", json.dumps({**UP, **fields}))
            reply = talk.getresponse()
            assert (reply.status, reply.read()[:31]) == (
                400,
                b'{"error":"bad request body: ' + next(iter(fields)).encode()[:3],
            )
        talk.close()
        if os.geteuid() == 0 and sys.platform == "linux":
            assert as_user(NOBODY, f"{host}:{port}", RESET).startswith(("HTTP/1.1 403 ", "reset"))
