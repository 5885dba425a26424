"""TLS between a socket and its link, with fakes in place of what no real peer can be made to do in time."""

from __future__ import annotations

import gc
import ssl
import weakref
from collections.abc import Callable
from errno import EAGAIN, ECONNREFUSED, ECONNRESET, EPIPE
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme

from pytest_resilience.proxy.event_counter import EventCounter
from pytest_resilience.proxy.event_loop import ERR, IN, OUT, Timer
from pytest_resilience.proxy.tls import HANDSHAKE_TIMEOUT, TlsStream
from pytest_resilience.proxy.tls_config import TlsConfig, _host
from pytest_resilience.proxy.tls_records import MAX_RECORD
from pytest_resilience.wire.api_error import ApiError
from pytest_resilience.wire.toxiproxy import TlsBody

CA = trustme.CA()
BUFFER = bytearray(262144)


class FakeLoop:
    def __init__(self) -> None:
        self.time = 0.0
        self.timers: list[Timer] = []
        self.handlers: dict[int, Callable[[int], None]] = {}
        self.mask = 0

    def now(self) -> float:
        return self.time

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        self.timers.append(Timer(when, call))
        return self.timers[-1]

    def unregister(self, fd: int, mask: int) -> None:
        assert mask == self.mask
        del self.handlers[fd]

    def watch(self, fd: int, mask: int, before: int) -> None:
        assert before == self.mask
        self.mask = mask

    def fire(self) -> None:
        """Call what is due."""
        due = [timer for timer in self.timers if timer.when <= self.time]
        self.timers = [timer for timer in self.timers if timer not in due]
        for timer in due:
            if timer.call is not None:
                timer.call()


class FakeSocket:
    """A socket with `incoming` to read, `sent` as written, and `room` for more."""

    def __init__(self) -> None:
        self.incoming = bytearray()
        self.sent = bytearray()
        self.room = 1 << 30
        self.error: OSError | None = None  # that sending meets
        self.failed: OSError | None = None  # that reading meets
        self.ended = self.closed = self.shut = False

    def fileno(self) -> int:
        return 7

    def recv(self, size: int) -> bytes:
        view = memoryview(bytearray(size))
        return bytes(view[: self.recv_into(view, size)])

    def recv_into(self, view: memoryview, size: int) -> int:
        if self.failed is not None:
            raise self.failed
        if not self.incoming:
            if self.ended:
                return 0
            raise BlockingIOError(EAGAIN, "")
        part = self.incoming[:size]
        del self.incoming[: len(part)]
        view[: len(part)] = part
        return len(part)

    def send(self, data: memoryview) -> int:
        if self.error is not None:
            raise self.error
        if not self.room:
            raise BlockingIOError(EAGAIN, "")
        part = data[: self.room]
        self.room -= len(part)
        self.sent += part
        return len(part)

    def shutdown(self, how: int) -> None:
        self.shut = True

    def close(self) -> None:
        self.closed = True


class Peer:
    """A TLS stream among fakes, and the session of its peer."""

    def __init__(self, *, upward: bool = True, limit: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> None:
        serving, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        CA.issue_cert("proxy.test").configure_cert(serving)
        CA.configure_trust(trusting)
        serving.maximum_version = limit
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.session = (trusting if upward else serving).wrap_bio(
            self.incoming, self.outgoing, not upward, "proxy.test" if upward else None
        )
        self.loop = FakeLoop()
        self.socket = FakeSocket()
        self.events: list[int] = []
        self.calls: list[Any] = []
        self.connection = SimpleNamespace(
            connected=True,
            close=lambda: self.calls.append("closed"),
            tls_failed=lambda why, upward: self.calls.append(why),
            dial_failed=self.calls.append,
        )
        self.reader = SimpleNamespace(peer_done=False, on_event=self.events.append)
        self.failures = EventCounter()
        args: Any = (self.socket, serving if upward else trusting, None if upward else "proxy.test")
        self.side = TlsStream(*args, self.reader, self.connection, self.loop, self.failures)

    def begin(self, mask: int = IN) -> None:
        self.side.watch(7, IN, 0)
        if mask != IN:
            self.side.watch(7, mask, IN)

    def event(self, events: int = IN) -> None:
        self.loop.handlers[7](events)

    def carry(self) -> None:
        """Carry cipher text from the stream to the peer's session, and back."""
        self.incoming.write(bytes(self.socket.sent))
        self.socket.sent.clear()
        self.socket.incoming += self.outgoing.read()

    def shake(self) -> None:
        for _ in range(4):
            try:
                self.session.do_handshake()
            except ssl.SSLWantReadError:
                pass
            self.carry()
            if self.socket.incoming:
                self.event()
                self.carry()

    def read(self) -> bytes:
        self.carry()
        got = b""
        try:
            while part := self.session.read(1 << 20):
                got += part
        except ssl.SSLWantReadError:
            pass
        return got


@pytest.fixture(params=[True, False], ids=["client", "upstream"])
def peer(request: pytest.FixtureRequest) -> Peer:
    made = Peer(upward=request.param)
    made.begin()
    made.shake()
    assert made.loop.timers[0].call is None, "the handshake has no deadline any more"
    return made


def test_handshake_reads_even_while_its_link_would_not() -> None:
    peer = Peer()
    peer.begin(0)
    assert peer.loop.mask == IN
    peer.shake()
    assert peer.loop.mask == 0
    assert peer.events == []


def test_link_gets_writable_events_only_after_the_handshake() -> None:
    peer = Peer()
    peer.begin(IN | OUT)
    assert peer.loop.mask == IN, "or it would be called all the time"
    assert peer.side.send(b"early") == 0
    peer.shake()
    assert peer.loop.mask == IN | OUT
    assert peer.side.send(b"early") == 5
    assert peer.read() == b"early"


def test_silent_client_is_closed_after_the_deadline_and_counted() -> None:
    peer = Peer()
    peer.begin()
    peer.loop.time = HANDSHAKE_TIMEOUT - 0.01
    peer.loop.fire()
    assert peer.calls == []
    peer.loop.time = HANDSHAKE_TIMEOUT
    peer.loop.fire()
    assert peer.calls == ["no handshake within 30 s"]
    assert peer.failures.count == 1


def test_deadline_of_an_upstream_that_never_connected_is_a_failed_dial() -> None:
    peer = Peer(upward=False)
    peer.connection.connected = False
    peer.begin()
    peer.loop.time = HANDSHAKE_TIMEOUT
    peer.loop.fire()
    assert [type(each) for each in peer.calls] == [TimeoutError]
    assert peer.failures.count == 0


def test_hello_waits_for_the_connect_and_a_refusal_is_a_failed_dial() -> None:
    peer = Peer(upward=False)
    peer.connection.connected = False
    peer.socket.room = 0
    peer.begin()
    assert peer.loop.mask == IN | OUT
    peer.socket.error = refused = ConnectionRefusedError(ECONNREFUSED, "refused")
    peer.event(OUT | ERR)
    assert peer.calls == [refused]


@pytest.mark.parametrize(("upward", "calls"), [(True, ["closed"]), (False, ["closed in the middle of the handshake"])])
def test_end_before_the_first_byte(upward: bool, calls: list[str]) -> None:
    peer = Peer(upward=upward)
    peer.begin()
    peer.socket.ended = True
    peer.event()
    assert peer.calls == calls


def test_end_in_mid_handshake_is_a_failure() -> None:
    peer = Peer()
    peer.begin()
    peer.socket.incoming += b"\x16\x03\x01\x02\x00\x01"
    peer.event()
    peer.socket.ended = True
    peer.event()
    assert peer.calls == ["closed in the middle of the handshake"]


def test_data_behind_the_handshake_waits_until_the_link_reads() -> None:
    peer = Peer()
    peer.begin(0)
    for _ in range(2):
        try:
            peer.session.do_handshake()
        except ssl.SSLWantReadError:
            peer.carry()
            peer.event()
            peer.carry()
    peer.session.write(b"at once")
    peer.carry()
    peer.event()
    assert peer.events == []
    peer.side.watch(7, IN, 0)
    peer.loop.fire()
    assert peer.events == [IN], "though nothing is there to read any more"
    assert peer.side.recv_into(BUFFER) == 7
    assert BUFFER[:7] == b"at once"


@pytest.mark.parametrize("size", [0, 32768])
@pytest.mark.parametrize("limit", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_plain_text_stays_behind(size: int, limit: ssl.TLSVersion) -> None:
    peer = Peer(limit=limit)
    peer.begin()
    peer.shake()
    data = bytes(range(256)) * 1024
    for start in range(0, len(data), 5000):
        peer.session.write(data[start : start + 5000])
    for start in range(0, len(data), MAX_RECORD):
        peer.session.write(data[start : start + MAX_RECORD])
    peer.carry()
    got = b""
    while peer.socket.incoming:
        try:
            count = peer.side.recv_into(BUFFER, size)
        except BlockingIOError:
            continue  # not a whole record yet
        got += BUFFER[:count]
        assert peer.side._records._session.pending() == 0
    assert got == data + data


def test_only_bytes_that_have_left_count_as_sent(peer: Peer) -> None:
    data = bytes(range(256)) * 1024
    peer.socket.room = 20_000
    sent, got = 0, b""
    for _ in range(1000):
        more = peer.side.send(data[sent:])
        peer.socket.room += 7000
        sent += more
        got += peer.read()
        assert sent <= len(got), "no bytes count as sent before they left"
        if sent == len(data):
            break
        assert peer.loop.mask & OUT
    assert got == data
    assert peer.side.send(b"") == 0
    assert not peer.loop.mask & OUT


def test_close_notify_behind_data_is_reported_although_nothing_follows(peer: Peer) -> None:
    peer.session.write(b"last")
    with pytest.raises(ssl.SSLWantReadError):
        peer.session.unwrap()
    peer.carry()
    peer.event()
    assert peer.side.recv_into(BUFFER) == 4
    peer.events.clear()
    peer.loop.fire()
    assert peer.events == [IN]
    assert peer.side.recv_into(BUFFER) == 0


def test_end_goes_out_when_there_is_room_for_it(peer: Peer) -> None:
    peer.side.watch(7, 0, IN)
    peer.socket.room = 0
    peer.side.shutdown(1)
    assert (peer.loop.mask, peer.socket.shut) == (OUT, False)
    peer.socket.room = 1000
    peer.event(OUT)
    assert (peer.loop.mask, peer.socket.shut) == (0, True)
    peer.carry()
    assert peer.session.read(1, bytearray(1)) == 0, "close_notify"


def test_end_before_the_handshake_is_sent_after_it() -> None:
    peer = Peer(upward=False)
    peer.begin()
    peer.side.shutdown(1)
    assert not peer.socket.shut
    peer.shake()
    assert peer.socket.shut


@pytest.mark.parametrize(("done", "rest"), [(True, 0), (False, None)])
def test_closing_sends_the_end_only_if_the_end_was_reached(peer: Peer, done: bool, rest: int | None) -> None:
    peer.reader.peer_done = done
    peer.side.close()
    assert peer.socket.closed
    assert peer.socket.shut is done
    peer.carry()
    if done:
        assert peer.session.read(1, bytearray(1)) == rest
    else:
        with pytest.raises(ssl.SSLWantReadError):
            peer.session.read(1)


def test_closed_side_is_freed_without_the_collector() -> None:
    peer = Peer()
    peer.begin()
    peer.shake()
    reader, owner, side = peer.reader, peer.connection, peer.side
    reader.recv_into, reader.send, reader.loop, owner.client = side.recv_into, side.send, side, side
    del peer.reader, peer.connection, peer.side
    session = weakref.ref(side._records._session)
    gc.disable()
    try:
        side.unregister(7, IN)
        side.close()
        side.close()
        del reader, owner, side
        assert session() is None
    finally:
        gc.enable()


def test_garbage_after_the_handshake_is_a_failure(peer: Peer) -> None:
    peer.socket.incoming += b"\x17\x03\x03\x00\x20" + b"x" * 32
    with pytest.raises(BlockingIOError):
        peer.side.recv_into(BUFFER)
    assert len(peer.calls) == peer.failures.count == 1


def test_an_error_of_a_background_write_is_raised_by_the_next_call(peer: Peer) -> None:
    peer.events.clear()
    peer.socket.incoming.clear()  # tickets
    peer.socket.room = 0
    peer.side.shutdown(1)
    peer.socket.error = BrokenPipeError(EPIPE, "gone")
    peer.event(OUT)
    assert peer.events == [ERR]
    with pytest.raises(BrokenPipeError):
        peer.side.send(b"x")
    with pytest.raises(BrokenPipeError):
        peer.side.recv_into(BUFFER)
    peer.socket.ended = True
    with pytest.raises(BrokenPipeError):
        peer.side.recv_into(BUFFER)


def test_reset_of_the_socket_reaches_the_link(peer: Peer) -> None:
    peer.socket.error = ConnectionResetError(ECONNRESET, "reset")
    with pytest.raises(ConnectionResetError):
        peer.side.send(b"x")


@pytest.mark.parametrize(
    ("upstream", "name"),
    [
        ("db.test:5432", "db.test"),
        ("[::1]:5432", "::1"),
        (":5432", "localhost"),
        ("unix:/s", "localhost"),
        ("what", "localhost"),
    ],
)
def test_name_of_an_upstream(upstream: str, name: str) -> None:
    assert _host(upstream) == name


def test_files_are_read_once(tmp_path: Path) -> None:
    path = tmp_path / "both.pem"
    CA.issue_cert("proxy.test").private_key_and_cert_chain_pem.write_to_path(path)
    tls = TlsConfig(TlsBody(client={"cert": str(path), "key": str(path)}))
    path.unlink()
    loop: Any = FakeLoop()
    link: Any = SimpleNamespace()
    owner: Any = SimpleNamespace()
    sock: Any = FakeSocket()
    assert isinstance(tls.client_stream(sock, link, owner, loop), TlsStream)
    assert tls.upstream_stream(sock, "x:1", link, owner, loop) is None


# --- options -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """ca.pem, cert.pem and key.pem that belong together, and other.pem, a key of something else."""
    cert = CA.issue_cert("proxy.test")
    CA.cert_pem.write_to_path(tmp_path / "ca.pem")
    cert.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    cert.private_key_pem.write_to_path(tmp_path / "key.pem")
    CA.issue_cert("else.test").private_key_pem.write_to_path(tmp_path / "other.pem")
    return tmp_path


def test_both_sides_of_a_proxy(folder: Path) -> None:
    own = {"cert": str(folder / "cert.pem"), "key": str(folder / "key.pem")}
    trusted = {**own, "ca": str(folder / "ca.pem"), "alpn": ["h2"]}
    tls = TlsConfig(TlsBody(client=trusted, upstream={**trusted, "server_name": "proxy.test"}))
    none = {"count": 0, "first": None, "last": None}
    assert tls.counters_json() == {"failed": {"client": none, "upstream": none}}
    loop: Any = FakeLoop()
    link: Any = SimpleNamespace()
    owner: Any = SimpleNamespace()
    sock: Any = FakeSocket()
    assert isinstance(tls.upstream_stream(sock, "10.0.0.1:1", link, owner, loop), TlsStream)
    for upstream in ({}, {"verify": False}):
        tls = TlsConfig(TlsBody(upstream=upstream))
        assert tls.client_stream(sock, link, owner, loop) is None
        assert isinstance(tls.upstream_stream(sock, "10.0.0.1:1", link, owner, loop), TlsStream)


@pytest.mark.parametrize(
    ("cert", "key", "message"),
    [
        ("gone.pem", "key.pem", "cert: {}/gone.pem: No such file or directory"),
        ("", "key.pem", "cert: {}/: not a regular file"),
        ("key.pem", "key.pem", "cert: {}/key.pem: no certificate or crl found"),
        ("cert.pem", "cert.pem", "key: {}/cert.pem: not PEM of the right kind, or encrypted"),
        ("cert.pem", "other.pem", "key: {}/other.pem: key values mismatch"),
        ("cert.pem", "a\0b", "key: {}/a\0b: embedded null byte"),
    ],
)
def test_files_that_are_no_use(folder: Path, cert: str, key: str, message: str) -> None:
    with pytest.raises(ApiError) as refused:
        TlsConfig(TlsBody(client={"cert": f"{folder}/{cert}", "key": f"{folder}/{key}"}))
    assert refused.value.message == f"bad request body: tls.client.{message}".format(folder)


@pytest.mark.parametrize("options", [{"server_name": ""}, {"alpn": [""]}, {"alpn": ["\u00e9"]}])
def test_names_that_are_no_use(options: dict[str, Any]) -> None:
    with pytest.raises(ApiError, match=next(iter(options))):
        TlsConfig(TlsBody(upstream=options))


def test_alert_and_reason_of_a_handshake_that_failed() -> None:
    peer = Peer(upward=False)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("proxy.test").configure_cert(serving)
    peer.session = serving.wrap_bio(peer.incoming, peer.outgoing, server_side=True)
    peer.begin()
    with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
        peer.shake()
    assert peer.calls == ["certificate verify failed: unable to get local issuer certificate"]


def test_reset_of_a_client_in_mid_handshake_is_a_failure() -> None:
    peer = Peer()
    peer.begin()
    peer.socket.incoming += b"\x16"
    peer.event()
    peer.event()  # nothing there after all
    assert peer.calls == []
    peer.socket.failed = ConnectionResetError(ECONNRESET, "reset")
    peer.event()
    assert peer.calls == ["reset"]
