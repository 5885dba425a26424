"""TLS to the client and to the upstream, an addition to Toxiproxy, with certificates made here."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
import trustme

from pytest_resilience.backends.embedded import binaries

from .conftest import PATIENCE, ProxyHandle, Server, free_port, silent, take
from .test_proxy_additions import until
from .test_proxy_data import Watch, gone

pytestmark = pytest.mark.addition

MIB = os.urandom(1 << 20)


class Papers(NamedTuple):
    """Paths of PEM files of a trusted CA with its certificates, and of another CA."""

    ca: str
    cert: str
    key: str
    client_cert: str
    client_key: str
    stranger: str

    @property
    def proxy(self) -> dict[str, str]:
        return {"cert": self.cert, "key": self.key}

    def trusting(self, *, known: bool = False) -> ssl.SSLContext:
        """Return the context of a client, with a certificate if `known`."""
        context = ssl.create_default_context(cafile=self.ca)
        if known:
            context.load_cert_chain(self.client_cert, self.client_key)
        return context

    def serving(self, *, certificate: bool = False) -> ssl.SSLContext:
        """Return the context of an upstream, which requires a client certificate with `certificate`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        if certificate:
            context.load_verify_locations(self.ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="session")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    folder = tmp_path_factory.mktemp("papers")
    ca, stranger = trustme.CA(), trustme.CA()
    server, client = ca.issue_cert("127.0.0.1", "localhost", "proxy.test"), ca.issue_cert("client.test")
    files: dict[str, Any] = {
        "ca": ca.cert_pem,
        "cert": server.cert_chain_pems[0],
        "key": server.private_key_pem,
        "client_cert": client.cert_chain_pems[0],
        "client_key": client.private_key_pem,
        "stranger": stranger.cert_pem,
    }
    for name, blob in files.items():
        blob.write_to_path(folder / f"{name}.pem")
    return Papers(**{name: str(folder / f"{name}.pem") for name in files})


class Ends:
    """Makes proxies with TLS and both ends of connections through them, and closes what it made."""

    def __init__(self, server: Server, make: Callable[..., ProxyHandle], papers: Papers) -> None:
        self._server, self._make, self._papers = server, make, papers
        self._open: list[socket.socket] = []

    def proxy(self, name: str = "proxy", **tls: Any) -> ProxyHandle:
        return self._make(self._server, name, tls=tls)

    def client(self, proxy: ProxyHandle, *, known: bool = False, name: str = "127.0.0.1") -> ssl.SSLSocket:
        client = self._papers.trusting(known=known).wrap_socket(proxy.dial(), server_hostname=name)
        self._open.append(client)
        return client

    def served(self, proxy: ProxyHandle, *, certificate: bool = False) -> ssl.SSLSocket:
        served = self._papers.serving(certificate=certificate).wrap_socket(proxy.accept(), server_side=True)
        self._open.append(served)
        return served

    def close(self) -> None:
        for each in self._open:
            each.close()


@pytest.fixture
def ends(server: Server, make_proxy: Callable[..., ProxyHandle], papers: Papers) -> Iterator[Ends]:
    made = Ends(server, make_proxy, papers)
    yield made
    made.close()


def failed(proxy: ProxyHandle, side: str) -> int:
    return int(proxy.counters()["tls"]["failed"][side]["count"])


def talk(client: socket.socket, served: socket.socket) -> None:
    """A few bytes each way."""
    client.sendall(b"question")
    assert take(served, 8) == b"question"
    served.sendall(b"answer")
    assert take(client, 6) == b"answer"


def exchange(sock: socket.socket, data: bytes) -> bytes:
    """Send `data` and take as much in one thread, as two threads on one SSL object crash the interpreter."""
    not_yet = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
    sent, got = 0, bytearray()
    sock.setblocking(False)
    while len(got) < len(data):
        before = sent + len(got)
        if sent < len(data):
            with contextlib.suppress(*not_yet):
                sent += sock.send(data[sent : sent + 65536])
        with contextlib.suppress(*not_yet):
            part = sock.recv(65536)
            assert part, f"the end came after {len(got)} of {len(data)} bytes"
            got += part
        if sent + len(got) == before:
            ready = select.select([sock], [sock] if sent < len(data) else [], [], PATIENCE)
            assert any(ready), f"{sent} bytes were taken and {len(got)} came back, and then nothing for {PATIENCE:g} s"
    sock.settimeout(PATIENCE)
    return bytes(got)


def echo(served: socket.socket) -> threading.Thread:
    """Send back what comes, until the end, and end then."""

    def work() -> None:
        while part := served.recv(65536):
            served.sendall(part)
        if isinstance(served, ssl.SSLSocket):
            served.unwrap()
        else:
            served.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


# --- the four ways -----------------------------------------------------------------------------------------------------


def test_tls_to_the_client(ends: Ends, papers: Papers) -> None:
    proxy = ends.proxy(client=papers.proxy)
    client, served = ends.client(proxy), proxy.accept()
    talk(client, served)
    assert client.version() == "TLSv1.3"
    assert proxy.counters()["bytes"] == {"upstream": 8, "downstream": 6}, "counted as plain text"


def test_tls_to_the_upstream(ends: Ends, papers: Papers) -> None:
    proxy = ends.proxy(upstream={"ca": papers.ca})
    talk(proxy.dial(), ends.served(proxy))


def test_tls_on_both_sides(ends: Ends, papers: Papers) -> None:
    proxy = ends.proxy(client=papers.proxy, upstream={"ca": papers.ca, "server_name": "proxy.test"})
    talk(ends.client(proxy), ends.served(proxy))


def test_older_tls(ends: Ends, papers: Papers) -> None:
    proxy = ends.proxy(client=papers.proxy)
    context = papers.trusting()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with context.wrap_socket(proxy.dial(), server_hostname="localhost") as client:
        talk(client, proxy.accept())
        assert client.version() == "TLSv1.2"


def test_client_speaks_before_the_upstream_has_shaken_hands(ends: Ends, papers: Papers) -> None:
    proxy = ends.proxy(upstream={"ca": papers.ca})
    client = proxy.dial()
    client.sendall(b"early")
    client.shutdown(socket.SHUT_WR)
    served = ends.served(proxy)
    assert take(served, 6) == b"early"
    served.sendall(b"late")
    assert take(client, 4) == b"late"


def test_application_protocol_is_agreed_on(ends: Ends, papers: Papers) -> None:
    proxy = ends.proxy(
        client={**papers.proxy, "alpn": ["postgresql"]}, upstream={"ca": papers.ca, "alpn": ["postgresql"]}
    )
    trusting, serving = papers.trusting(), papers.serving()
    for context in (trusting, serving):
        context.set_alpn_protocols(["postgresql"])
    with (
        trusting.wrap_socket(proxy.dial(), server_hostname="localhost") as client,
        serving.wrap_socket(proxy.accept(), server_side=True) as served,
    ):
        assert client.selected_alpn_protocol() == served.selected_alpn_protocol() == "postgresql"


@pytest.mark.parametrize("sides", ["client", "upstream", "client upstream"])
def test_a_mebibyte_arrives_intact_both_ways_and_ends_arrive_behind_it(ends: Ends, papers: Papers, sides: str) -> None:
    options: dict[str, Any] = {"client": papers.proxy, "upstream": {"ca": papers.ca}}
    proxy = ends.proxy(**{side: options[side] for side in sides.split()})
    client = ends.client(proxy) if "client" in sides else proxy.dial()
    served = ends.served(proxy) if "upstream" in sides else proxy.accept()
    thread = echo(served)
    assert exchange(client, MIB) == MIB
    if isinstance(client, ssl.SSLSocket):
        client.unwrap()  # sends close_notify, and waits for the peer's
    else:
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    thread.join(PATIENCE)
    assert not thread.is_alive()
    until(lambda: proxy.counters()["connections"] == 0)
    assert failed(proxy, "client") == failed(proxy, "upstream") == 0


def test_the_answer_to_a_half_closed_request_arrives(ends: Ends, papers: Papers) -> None:
    proxy = ends.proxy(client=papers.proxy)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = papers.trusting().wrap_bio(incoming, outgoing, server_hostname="localhost")
    client = proxy.dial()

    def step(call: Callable[[], Any]) -> Any:
        while True:
            try:
                return call()
            except ssl.SSLWantReadError:
                client.sendall(outgoing.read())
                incoming.write(client.recv(4096))

    step(session.do_handshake)
    session.write(b"all of the question")
    with pytest.raises(ssl.SSLWantReadError):
        session.unwrap()
    client.sendall(outgoing.read())  # data and close_notify at once, and no FIN
    served = proxy.accept()
    assert take(served, 20) == b"all of the question"
    served.sendall(b"answer")
    assert step(lambda: session.read(10)) == b"answer"
    served.close()
    with pytest.raises(ssl.SSLZeroReturnError):  # close_notify, and not just FIN
        step(lambda: session.read(10))


def test_a_client_that_does_not_read_holds_back_the_upstream(ends: Ends, papers: Papers) -> None:
    proxy = ends.proxy(client=papers.proxy)
    client, served = ends.client(proxy), proxy.accept()
    served.setblocking(False)
    sent = 0
    with pytest.raises(BlockingIOError):
        while sent < 64 << 20:
            sent += served.send(MIB)
    (connection,) = proxy.call("GET", "/connections").json
    assert connection["held"]["downstream"] <= 1 << 20
    served.setblocking(True)
    assert len(take(client, sent)) == sent


# --- toxics see plain text -----------------------------------------------------------------------------------------------


@pytest.fixture
def both(ends: Ends, papers: Papers) -> tuple[ProxyHandle, ssl.SSLSocket, ssl.SSLSocket]:
    proxy = ends.proxy(client=papers.proxy, upstream={"ca": papers.ca})
    client = ends.client(proxy)
    return proxy, client, ends.served(proxy)


def test_latency_with_tls(both: tuple[ProxyHandle, ssl.SSLSocket, ssl.SSLSocket]) -> None:
    proxy, client, served = both
    proxy.add("latency", latency=120)
    watch = Watch()
    served.sendall(b"x")
    assert take(client, 1) == b"x"
    assert 0.12 <= watch.seconds < PATIENCE


def test_limit_data_counts_plain_text_with_tls(both: tuple[ProxyHandle, ssl.SSLSocket, ssl.SSLSocket]) -> None:
    proxy, client, served = both
    proxy.add("limit_data", bytes=7)
    served.sendall(b"1234567890")
    assert take(client, 10) == b"1234567"


def test_blackhole_with_tls_is_silent_and_heals(both: tuple[ProxyHandle, ssl.SSLSocket, ssl.SSLSocket]) -> None:
    proxy, client, served = both
    toxic = proxy.add("bandwidth", rate=0)
    served.sendall(b"held")
    until(lambda: proxy.call("GET", "/connections").json[0]["held"]["downstream"] == 4)
    assert silent(client, 0.05)
    proxy.remove(toxic)
    assert take(client, 4) == b"held"


def test_timeout_closes_a_tls_connection(both: tuple[ProxyHandle, ssl.SSLSocket, ssl.SSLSocket]) -> None:
    proxy, client, served = both
    proxy.add("timeout", timeout=20)
    served.sendall(b"lost")
    with pytest.raises(ssl.SSLEOFError):
        client.suppress_ragged_eofs = False
        client.recv(1)


def test_reset_peer_with_tls(both: tuple[ProxyHandle, ssl.SSLSocket, ssl.SSLSocket]) -> None:
    proxy, client, _ = both
    proxy.add("reset_peer", timeout=0)
    with socket.socket(fileno=client.detach()) as bare:  # Python's ssl takes a reset for an end
        assert gone(bare) == "reset"


def test_slicer_slices_plain_text(both: tuple[ProxyHandle, ssl.SSLSocket, ssl.SSLSocket]) -> None:
    proxy, client, served = both
    proxy.add("slicer", average_size=2, delay=1000)
    served.sendall(b"abcdef")
    assert len(client.recv(10)) < 6
    assert take(client, 6 - 1)


# --- refused peers -------------------------------------------------------------------------------------------------------


def test_client_without_a_certificate_is_refused_if_one_is_asked_for(ends: Ends, papers: Papers) -> None:
    proxy = ends.proxy(client={**papers.proxy, "ca": papers.ca})
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        ends.client(proxy).recv(1)  # in TLS 1.3 the client learns this after its handshake
    assert until(lambda: failed(proxy, "client")) == 1
    until(lambda: proxy.counters()["connections"] == 0)
    served = proxy.accept()
    assert gone(served) == "end"
    client = ends.client(proxy, known=True)
    talk(client, proxy.accept())


def test_upstream_that_requires_a_certificate(ends: Ends, papers: Papers) -> None:
    ours = {"cert": papers.client_cert, "key": papers.client_key}
    proxy = ends.proxy(upstream={"ca": papers.ca, **ours})
    client = proxy.dial()
    served = ends.served(proxy, certificate=True)
    talk(client, served)
    assert dict(served.getpeercert() or {})["subjectAltName"] == (("DNS", "client.test"),)
    proxy.call("PATCH", "", {"tls": {"upstream": {"ca": papers.ca}}})
    client = proxy.dial()
    with pytest.raises(ssl.SSLError):
        ends.served(proxy, certificate=True)
    assert until(lambda: failed(proxy, "upstream")) == 1
    assert gone(client) == "end"


@pytest.mark.parametrize("options", [{"ca": "stranger"}, {"ca": "ca", "server_name": "else.test"}, {}])
def test_upstream_that_cannot_be_trusted(ends: Ends, papers: Papers, options: dict[str, str]) -> None:
    proxy = ends.proxy(upstream={**options, **({"ca": getattr(papers, options["ca"])} if options else {})})
    client = proxy.dial()
    client.sendall(b"secret")
    until(lambda: proxy.counters()["bytes"]["upstream"] == 6)
    with pytest.raises(ssl.SSLError, match=r"(?i)alert|unknown"):
        ends.served(proxy)
    assert until(lambda: failed(proxy, "upstream")) == 1
    assert gone(client) == "reset", "it waits for an answer"
    assert proxy.call("PATCH", "", {"tls": {"upstream": {"verify": False}}}).status == 200
    assert failed(proxy, "upstream") == 1, "an update does not count again"
    talk(proxy.dial(), ends.served(proxy))


def test_a_plain_client_of_a_tls_proxy(ends: Ends, papers: Papers) -> None:
    proxy = ends.proxy(client=papers.proxy)
    client = proxy.dial()
    client.sendall(b"PING\r\n")
    assert gone(client) == "end"
    assert failed(proxy, "client") == 1


def test_client_that_only_probes_the_port_is_no_failure(ends: Ends, papers: Papers) -> None:
    proxy = ends.proxy(client=papers.proxy)
    proxy.dial().close()
    assert gone(proxy.accept()) == "end"
    until(lambda: proxy.counters()["connections"] == 0)
    assert failed(proxy, "client") == 0


def test_upstream_that_is_down_or_hangs_up(ends: Ends, papers: Papers) -> None:
    proxy = ends.proxy(upstream={"ca": papers.ca})
    client = proxy.dial()
    proxy.accept().close()
    assert gone(client) == "end"
    assert until(lambda: failed(proxy, "upstream")) == 1
    proxy.upstream.close()
    assert gone(proxy.dial()) == "end"
    assert failed(proxy, "upstream") == 1, "no handshake that could fail"


@pytest.mark.parametrize("side", ["client", "upstream"])
def test_disabling_in_the_middle_of_a_handshake(ends: Ends, papers: Papers, side: str) -> None:
    proxy = ends.proxy(**({"client": papers.proxy} if side == "client" else {"upstream": {"ca": papers.ca}}))
    client, served = proxy.connect()
    if side == "client":
        client.sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a hello
    else:
        assert take(served, 1) == b"\x16"
    until(lambda: proxy.counters()["connections"] == 1)
    assert proxy.call("POST", "", {"enabled": False}).status == 200
    assert gone(client) in ("end", "reset")
    assert proxy.call("POST", "", {"enabled": True}).status == 200
    assert failed(proxy, side) == 0


def test_failures_are_logged_without_secrets(papers: Papers, make_proxy: Callable[..., ProxyHandle]) -> None:
    """Run a server with a log that the test reads."""
    lines: list[str] = []

    class Listening(Server):
        def __init__(self) -> None:
            super().__init__("ours")

    server = Listening.__new__(Listening)
    keep = threading.Thread.__init__

    def collecting(self: threading.Thread, **options: Any) -> None:
        read = options["target"]
        keep(self, target=lambda: lines.append(read()), daemon=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "__init__", collecting)
        server.__init__()  # type: ignore[misc]
    try:
        proxy = make_proxy(server, "logged", tls={"client": papers.proxy})
        client = proxy.dial()
        client.sendall(b"hunter2 in plain text\r\n")
        until(lambda: failed(proxy, "client"))
    finally:
        server.stop()
    (line,) = [line for line in lines[0].splitlines() if "TLS failed" in line]
    assert '"level":"warn"' in line
    assert '"side":"client"' in line
    assert "hunter2" not in lines[0]


@pytest.mark.skipif(sys.platform != "linux", reason="what a process has loaded is seen in /proc")
def test_ssl_is_loaded_when_it_is_used(
    own_server: Server, make_proxy: Callable[..., ProxyHandle], papers: Papers
) -> None:
    loaded = Path(f"/proc/{own_server.process.pid}/maps")
    make_proxy(own_server)
    assert "libssl" not in loaded.read_text()
    make_proxy(own_server, "secured", tls={"client": papers.proxy})
    assert "libssl" in loaded.read_text()


# --- the API ---------------------------------------------------------------------------------------------------------------


def test_tls_is_shown_only_when_set(ends: Ends, papers: Papers, proxy: ProxyHandle) -> None:
    assert "tls" not in proxy.call("GET", "").json
    assert "tls" not in proxy.counters()
    tls = {"client": {**papers.proxy, "ca": papers.ca}, "upstream": {"verify": False}}
    reply = proxy.call("PATCH", "", {"tls": tls})
    assert (reply.status, reply.json["tls"]) == (200, tls)
    assert proxy.call("PATCH", "", {"enabled": True}).json["tls"] == tls, "what is left out stays"


def test_update_and_removal_leave_live_connections_as_they_are(ends: Ends, papers: Papers, proxy: ProxyHandle) -> None:
    plain, plainly_served = proxy.connect()
    assert proxy.call("PATCH", "", {"tls": {"client": papers.proxy}}).status == 200
    secured, served = ends.client(proxy), proxy.accept()
    talk(plain, plainly_served)
    reply = proxy.call("POST", "", {"tls": None})
    assert "tls" not in reply.json
    talk(secured, served)
    talk(*proxy.connect())


def test_a_proxy_with_a_bad_certificate_is_not_created(server: Server, papers: Papers) -> None:
    body = {"name": "bad", "listen": "127.0.0.1:0", "upstream": "127.0.0.1:1", "tls": {"client": {**papers.proxy, "key": papers.client_key}}}  # fmt: skip
    reply = server.call("POST", "/proxies", body)
    assert (reply.status, reply.error) == (
        400,
        f"bad request body: tls.client.key: {papers.client_key}: key values mismatch",
    )
    reply = server.call("POST", "/populate", [{**body, "name": "good", "tls": None}, body])
    assert reply.status == 400
    assert server.call("GET", "/proxies").json == {}


EMPTY_NAME = "tls.upstream.server_name: " + (
    "check_hostname requires server_hostname"
    if sys.version_info >= (3, 14)
    else "server_hostname cannot be an empty string or start with a leading dot."
)


@pytest.mark.parametrize(
    ("tls", "message"),
    [
        ({"client": {"cert": "/nowhere", "key": "/nowhere"}}, "tls.client.cert: /nowhere: No such file or directory"),
        ({"client": {"cert": "/dev/zero", "key": "/nowhere"}}, "tls.client.cert: /dev/zero: not a regular file"),
        ({"client": {"cert": "a\0b", "key": "/nowhere"}}, "tls.client.cert: a\0b: embedded null byte"),
        ({"upstream": {"ca": __file__}}, f"tls.upstream.ca: {__file__}: no certificate or crl found"),
        ({"upstream": {"server_name": ""}}, EMPTY_NAME),
        ({"upstream": {"alpn": [""]}}, "tls.upstream.alpn: a protocol's name has 1 to 255 ASCII characters"),
        ({"upstream": {"alpn": ["\u00e9"]}}, "tls.upstream.alpn: a protocol's name has 1 to 255 ASCII characters"),
    ],
)  # fmt: skip
def test_a_refused_update_changes_nothing(proxy: ProxyHandle, tls: Any, message: str) -> None:
    before = proxy.call("GET", "").json
    reply = proxy.call("PATCH", "", {"upstream": "127.0.0.1:1", "tls": tls})
    assert (reply.status, reply.error) == (400, f"bad request body: {message}")
    assert proxy.call("GET", "").json == before


def test_an_encrypted_key_is_refused_without_a_password_prompt(
    server: Server, proxy: ProxyHandle, papers: Papers, tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(Path(papers.key).read_bytes(), None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"hunter2"),
        )
    )
    reply = proxy.call("PATCH", "", {"tls": {"client": {"cert": papers.cert, "key": str(locked)}}})
    assert reply.status == 400
    assert reply.error.startswith(f"bad request body: tls.client.key: {locked}: ")
    assert "hunter2" not in reply.error


def test_populate_sets_tls_takes_it_back_and_leaves_it_alone(server: Server, ends: Ends, papers: Papers) -> None:
    port = free_port()
    body = {"name": "p", "listen": f"127.0.0.1:{port}", "upstream": "127.0.0.1:1"}

    def populate(**more: Any) -> Any:
        return server.call("POST", "/populate", [{**body, **more}]).json["proxies"][0].get("tls")

    tls = {"client": papers.proxy}
    assert populate() is None
    assert populate(tls=tls) == tls
    assert populate() == tls
    assert populate(tls=None) is None


def test_tls_in_a_config_file(start: Callable[..., Server], papers: Papers, tmp_path: Path) -> None:
    import json

    config = tmp_path / "proxies.json"
    tls = {"client": papers.proxy}
    config.write_text(json.dumps([{"name": "c", "listen": "127.0.0.1:0", "upstream": "127.0.0.1:1", "tls": tls}]))
    assert start("-config", str(config)).call("GET", "/proxies/c").json["tls"] == tls


# --- a real client --------------------------------------------------------------------------------------------------------


def test_rediss_to_a_plain_redis(server: Server, papers: Papers, tmp_path: Path) -> None:
    import subprocess

    program, _ = binaries.find_redis(os.environ)
    path = tmp_path / "redis.sock"
    command = [program, "--port", "0", "--unixsocket", path, "--save", "", "--dir", tmp_path]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            until(path.exists)
            body = {"name": "r", "listen": "127.0.0.1:0", "upstream": f"unix:{path}", "tls": {"client": papers.proxy}}
            listen = server.call("POST", "/proxies", body).json["listen"]
            with redis.Redis.from_url(
                f"rediss://{listen}/0", ssl_ca_certs=papers.ca, socket_timeout=PATIENCE
            ) as client:
                assert client.set("k", MIB)
                assert client.get("k") == MIB
        finally:
            process.terminate()
