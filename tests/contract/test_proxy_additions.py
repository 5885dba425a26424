"""The additions to Toxiproxy: counters, triggers, admission control, more toxics, unix sockets."""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_resilience.destroyed_sockets import wait_for_notices

from .conftest import PATIENCE, ProxyHandle, Server, free_port, silent, take
from .test_proxy_data import Watch, gone

pytestmark = pytest.mark.addition


def until(question: Callable[[], Any]) -> Any:
    """The first answer that is true."""
    watch = Watch()
    while watch.seconds < PATIENCE:
        answer = question()
        if answer:
            return answer
        time.sleep(0.002)
    raise AssertionError("never")


def add(proxy: ProxyHandle, **body: Any) -> Any:
    reply = proxy.call("POST", "/toxics", body)
    assert reply.status == 200, reply
    return reply.json


# --- counters and the list of connections ----------------------------------------------------------------------------


def test_counters_of_a_quiet_proxy(proxy: ProxyHandle) -> None:
    none = {"count": 0, "first": None, "last": None}
    counters = proxy.counters()
    assert abs(counters.pop("now") - time.monotonic()) < PATIENCE
    assert counters == {
        "connections": 0,
        "accepted": none,
        "refused": {**none, "unattributed": 0},
        "cut": none,
        "bytes": {"upstream": 0, "downstream": 0},
        "toxics": {},
    }


def test_counters_count_connections_and_bytes_while_they_live(proxy: ProxyHandle) -> None:
    before = time.monotonic()
    client, served = proxy.connect()
    client.sendall(b"12345")
    assert take(served, 5) == b"12345"
    served.sendall(b"123")
    assert take(client, 3) == b"123"
    counters = proxy.counters()
    assert counters["connections"] == 1
    assert counters["accepted"]["count"] == 1
    assert before <= counters["accepted"]["first"] == counters["accepted"]["last"] <= counters["now"]
    assert counters["bytes"] == {"upstream": 5, "downstream": 3}
    client.close()
    assert served.recv(1) == b""
    served.close()
    until(lambda: proxy.counters()["connections"] == 0)
    assert proxy.counters()["bytes"] == {"upstream": 5, "downstream": 3}


def test_held_bytes_count_at_once(proxy: ProxyHandle) -> None:
    first, second = proxy.connect(), proxy.connect()
    proxy.connect()
    proxy.add("bandwidth", rate=0)
    for _, served in (first, second, second):
        served.sendall(b"1234")
    counted = until(lambda: (c := proxy.counters()["toxics"]["bandwidth_downstream"])["bytes"] == 12 and c)
    assert counted["connections"] == 2
    assert counted["first"] <= counted["last"]


def test_attached_toxic_that_touched_nothing_counts_nothing(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    for kind in ("latency", "noop", "slicer", "limit_data", "slow_close"):
        proxy.add(
            kind,
            **{"slicer": {"average_size": 100}, "limit_data": {"bytes": 100}, "slow_close": {"delay": 1}}.get(kind, {}),
        )
    served.sendall(b"x")
    assert client.recv(1) == b"x"
    for counted in proxy.counters()["toxics"].values():
        assert counted == {"connections": 0, "bytes": 0, "first": None, "last": None}


def test_cut_connections_count(proxy: ProxyHandle) -> None:
    proxy.connect()
    proxy.connect()
    proxy.call("POST", "", {"enabled": False})
    assert proxy.counters()["cut"]["count"] == 2


def refuse(*proxies: ProxyHandle) -> None:
    """Disable proxies that count refused attempts."""
    for proxy in proxies:
        proxy.call("POST", "", {"enabled": False})
        if proxy.counters()["refused"]["count"] is None:
            pytest.skip("this kernel does not tell about refused connections")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_refused_attempts_count_and_our_own_clients_do_not(
    server: Server, make_proxy: Callable[..., ProxyHandle], host: str
) -> None:
    proxy = make_proxy(server, "counted", listen=f"[{host}]:0" if ":" in host else f"{host}:0")
    client = socket.create_connection((host, proxy.port), PATIENCE)
    with client:
        proxy.accept().close()
        proxy.call("POST", "", {"enabled": False})
        assert gone(client) == "end"
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, proxy.port), PATIENCE)
    refused = proxy.counters()["refused"]
    if refused["count"] is None:
        pytest.skip("this kernel does not tell about refused connections")
    until(lambda: proxy.counters()["refused"]["count"] == 3)
    proxy.call("POST", "", {"enabled": True})
    proxy.call("POST", "", {"enabled": False})
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, proxy.port), PATIENCE)
    until(lambda: proxy.counters()["refused"]["count"] == 4)


def test_each_of_two_proxies_with_one_port_counts_its_own_attempts(
    server: Server, make_proxy: Callable[..., ProxyHandle]
) -> None:
    first = make_proxy(server, "first", listen="127.0.0.1:0")
    second = make_proxy(server, "second", listen=f"127.0.0.2:{first.port}")
    refuse(first, second)
    for host in ("127.0.0.1", "127.0.0.1", "127.0.0.2"):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, first.port), PATIENCE)
    until(lambda: [proxy.counters()["refused"]["count"] for proxy in (first, second)] == [2, 1])


@contextlib.contextmanager
def client_at(port: int) -> Iterator[socket.socket]:
    """A client with a port of its own, which is free at once when the connection has ended."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.settimeout(PATIENCE)
        client.bind(("127.0.0.1", port))
        yield client


def test_a_refused_attempt_with_the_port_of_an_earlier_client_counts(proxy: ProxyHandle) -> None:
    port = free_port()
    with client_at(port) as client:
        client.connect(("127.0.0.1", proxy.port))
        proxy.accept()
    until(lambda: proxy.counters()["connections"] == 0)
    refuse(proxy)
    with client_at(port) as client, pytest.raises(ConnectionRefusedError):
        client.connect(("127.0.0.1", proxy.port))
    until(lambda: proxy.counters()["refused"]["count"] == 1)


@contextlib.contextmanager
def stopped(server: Server) -> Iterator[None]:
    """The proxy reads no notice until the end of the block."""
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


def attempt(proxy: ProxyHandle) -> None:
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.settimeout(PATIENCE)  # the notice of a client without a timeout has no port
        client.connect(("127.0.0.1", proxy.port))


def test_counters_include_a_notice_that_arrived_after_their_request(server: Server, proxy: ProxyHandle) -> None:
    refuse(proxy)
    with contextlib.closing(http.client.HTTPConnection(server.address, timeout=PATIENCE)) as reader:
        reader.connect()
        with stopped(server):
            reader.request("GET", f"/proxies/{proxy.name}/counters")
            attempt(proxy)
            until(wait_for_notices)
        assert json.load(reader.getresponse())["refused"]["count"] == 1


def test_sockets_of_other_programs_leave_room_for_the_notice_of_an_attempt(server: Server, proxy: ProxyHandle) -> None:
    refuse(proxy)
    with stopped(server):
        for _ in range(1000):
            socket.socket().close()
        attempt(proxy)
        until(wait_for_notices)
    until(lambda: proxy.counters()["refused"]["count"] == 1)


def test_notices_that_the_kernel_drops_are_unattributed(server: Server, proxy: ProxyHandle) -> None:
    refuse(proxy)
    with stopped(server):
        for _ in range(1000):
            attempt(proxy)
        until(wait_for_notices)
    refused = proxy.counters()["refused"]
    assert 0 < refused["count"] < 1000
    assert refused["unattributed"] > 0


def test_connections_are_listed(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    proxy.add("bandwidth", rate=0)
    client.sendall(b"ab")
    assert take(served, 2) == b"ab"
    served.sendall(b"held")
    (connection,) = until(lambda: (c := proxy.call("GET", "/connections").json)[0]["held"]["downstream"] and c)
    assert connection.pop("since") <= time.monotonic()
    host, port = client.getsockname()
    assert connection == {
        "number": 1,
        "client": f"{host}:{port}",
        "upstream": f"127.0.0.1:{proxy.upstream.getsockname()[1]}",
        "via": "{}:{}".format(*served.getpeername()),
        "connected": True,
        "bytes": {"upstream": 2, "downstream": 4},
        "held": {"upstream": 0, "downstream": 4},
    }


# --- triggers --------------------------------------------------------------------------------------------------------


def test_trigger_is_echoed_only_if_it_was_sent(proxy: ProxyHandle) -> None:
    toxic = add(proxy, type="latency", after={"bytes": 5}, count=2, connections=[1, "127.0.0.1"])
    assert {**toxic, "attributes": {}} == {
        "attributes": {}, "name": "latency_downstream", "type": "latency", "stream": "downstream", "toxicity": 1,
        "after": {"bytes": 5}, "count": 2, "connections": [1, "127.0.0.1"],
    }  # fmt: skip


@pytest.mark.parametrize(
    "trigger",
    [
        {"after": -1},
        {"after": {"days": 1}},
        {"after": 1.5},
        {"count": {"bytes": 1}},
        {"count": "x"},
        {"connections": 1},
        {"connections": [0]},
        {"connections": [True]},
    ],
)
def test_bad_trigger_is_a_400(proxy: ProxyHandle, trigger: Any) -> None:
    reply = proxy.call("POST", "/toxics", {"type": "noop", **trigger})
    assert (reply.status, next(iter(trigger)) in reply.error) == (400, True)


def test_after_chunks_the_toxic_strikes(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    add(proxy, type="reset_peer", after=2)
    for number in range(2):
        assert proxy.counters()["toxics"]["reset_peer_downstream"]["connections"] == 0
        served.sendall(bytes([number]))
        assert client.recv(1) == bytes([number])
    assert gone(client) == "reset"
    assert proxy.counters()["toxics"]["reset_peer_downstream"]["connections"] == 1


def test_after_bytes_cuts_inside_a_chunk(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    add(proxy, type="bandwidth", after={"bytes": 3})
    served.sendall(b"12345")
    assert take(client, 3) == b"123"
    assert silent(client, 0.05)
    proxy.remove("bandwidth_downstream")
    assert take(client, 2) == b"45"


def test_count_ends_the_toxics_work(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    add(proxy, type="latency", count=1, attributes={"latency": 1500})
    watch = Watch()
    served.sendall(b"a")
    assert client.recv(1) == b"a"
    assert watch.seconds >= 1.5
    watch = Watch()
    served.sendall(b"b")
    assert client.recv(1) == b"b"
    assert watch.seconds < 1.5


def held(proxy: ProxyHandle, pair: tuple[socket.socket, socket.socket]) -> bool:
    pair[1].sendall(b"x")
    return silent(pair[0], 0.03)


@pytest.mark.parametrize(
    ("trigger", "expected"),
    [
        ({"after": {"connections": 1}}, [False, True, True]),
        ({"count": {"connections": 2}}, [True, True, False]),
        ({"after": {"connections": 1}, "count": {"connections": 1}}, [False, True, False]),
        ({"connections": [1, 3]}, [True, False, True]),
        ({"connections": ["127.0.0.1"]}, [True, True, True]),
        ({"connections": ["127.0.0.9"]}, [False, False, False]),
    ],
)
def test_trigger_names_connections(proxy: ProxyHandle, trigger: Any, expected: list[bool]) -> None:
    add(proxy, type="bandwidth", **trigger)
    assert [held(proxy, proxy.connect()) for _ in range(3)] == expected


# --- toxics ----------------------------------------------------------------------------------------------------------


def test_limit_time_closes_although_data_flows(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    watch = Watch()
    proxy.add("limit_time", time=150)
    with pytest.raises((ConnectionError, AssertionError)):
        while watch.seconds < PATIENCE:
            served.sendall(b"x")
            assert client.recv(1) == b"x"
    assert 0.15 <= watch.seconds < PATIENCE


def test_cut_ends_one_direction_only(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    proxy.add("cut", "upstream")
    assert served.recv(1) == b""
    served.sendall(b"still here")
    assert take(client, 10) == b"still here"
    served.close()
    assert client.recv(1) == b""


def test_shared_bandwidth_is_shared(proxy: ProxyHandle) -> None:
    pairs = [proxy.connect() for _ in range(2)]
    proxy.add("shared_bandwidth", rate=100)
    watch = Watch()
    for _, served in pairs:
        served.sendall(b"x" * 10_000)
    for client, _ in pairs:
        assert len(take(client, 10_000)) == 10_000
    assert watch.seconds >= 0.199


def test_corrupt_flips_bits_by_the_seed(start: Callable[..., Server], make_proxy: Callable[..., ProxyHandle]) -> None:
    def flipped() -> bytes:
        proxy = make_proxy(start("-seed", "7"))
        proxy.add("corrupt", every=50)
        client, served = proxy.connect()
        served.sendall(bytes(1000))
        return take(client, 1000)

    first = flipped()
    assert 5 <= sum(byte != 0 for byte in first) <= 60
    assert all(byte.bit_count() <= 1 for byte in first)
    assert flipped() == first


@pytest.mark.parametrize("distribution", ["normal", "pareto"])
def test_latency_with_another_distribution(proxy: ProxyHandle, distribution: str) -> None:
    attributes = {"latency": 20, "jitter": 1, "distribution": distribution}
    assert add(proxy, type="latency", attributes=attributes)["attributes"] == attributes
    client, served = proxy.connect()
    watch = Watch()
    served.sendall(b"x")
    assert client.recv(1) == b"x"
    assert watch.seconds >= 0.01


def test_unknown_distribution_is_a_400(proxy: ProxyHandle) -> None:
    reply = proxy.call("POST", "/toxics", {"type": "latency", "attributes": {"distribution": "cauchy"}})
    assert (reply.status, "distribution" in reply.error) == (400, True)


# --- at the proxy -----------------------------------------------------------------------------------------------------


def test_accept_delay_keeps_the_client_waiting(proxy: ProxyHandle) -> None:
    assert proxy.call("PATCH", "", {"accept_delay": 100}).json["accept_delay"] == 100
    watch = Watch()
    client, served = proxy.connect()
    assert watch.seconds >= 0.1
    client.sendall(b"x")
    assert served.recv(1) == b"x"


def test_refuse_after_counts_connections_and_leaves_them_alone(proxy: ProxyHandle) -> None:
    proxy.call("PATCH", "", {"refuse_after": 2})
    pairs = [proxy.connect() for _ in range(2)]
    with pytest.raises(ConnectionRefusedError):
        until(proxy.dial)
    for client, served in pairs:
        client.sendall(b"x")
        assert served.recv(1) == b"x"
    until(lambda: proxy.counters()["refused"]["count"] in (1, None))
    assert "refuse_after" not in proxy.call("PATCH", "", {"refuse_after": -1}).json
    proxy.connect()


def test_hang_answers_no_connect(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    proxy.call("PATCH", "", {"hang": True})
    late = socket.socket()
    with late:
        late.settimeout(0.2)
        assert late.connect_ex(("127.0.0.1", proxy.port)) in (errno.EAGAIN, errno.ETIMEDOUT)
    client.sendall(b"x")
    assert served.recv(1) == b"x"
    assert proxy.server.call("POST", "/reset").status == 204
    proxy.connect()
    assert proxy.counters()["accepted"]["count"] == 2


def test_refuse_when_down_refuses_until_the_upstream_is_back(proxy: ProxyHandle) -> None:
    proxy.call("PATCH", "", {"refuse_when_down": True})
    address = proxy.upstream.getsockname()
    proxy.upstream.close()
    try:
        assert gone(proxy.dial()) == "reset"
    except ConnectionResetError:
        pass  # that quick

    def refused() -> bool:
        try:
            proxy.dial()
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:
            pass
        return False

    until(refused)
    proxy.upstream = socket.create_server(address)
    proxy.upstream.settimeout(PATIENCE)
    proxy.sockets.append(proxy.upstream)
    until(lambda: not refused())
    served = proxy.accept()
    served.close()


def test_admission_options_come_with_create_and_go_with_reset(
    server: Server, make_proxy: Callable[..., ProxyHandle]
) -> None:
    proxy = make_proxy(server, accept_delay=5, refuse_when_down=True)
    assert proxy.call("GET").json["accept_delay"] == 5
    server.call("POST", "/reset")
    state = proxy.call("GET").json
    assert ("accept_delay" in state, state["refuse_when_down"]) == (False, True)


# --- unix sockets ----------------------------------------------------------------------------------------------------


def test_unix_sockets_on_both_sides(server: Server, tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    with socket.socket(socket.AF_UNIX) as upstream:
        upstream.settimeout(PATIENCE)
        upstream.bind(str(inside))
        upstream.listen()
        reply = server.call(
            "POST", "/proxies", {"name": "u", "listen": f"unix:{outside}", "upstream": f"unix:{inside}"}
        )
        assert reply.json["listen"] == f"unix:{outside}"
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(outside))
            served, _ = upstream.accept()
            with served:
                client.sendall(b"x")
                assert served.recv(1) == b"x"
                assert server.call("GET", "/proxies/u/counters").json["connections"] == 1
                assert server.call("PATCH", "/proxies/u", {"enabled": False}).status == 200
                assert client.recv(1) == b""
        with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
            client.connect(str(outside))
    server.call("DELETE", "/proxies/u")
    assert not outside.exists()


# --- names -----------------------------------------------------------------------------------------------------------


def test_name_that_cannot_be_resolved_closes_the_client_and_blocks_no_other(
    server: Server, make_proxy: Callable[..., ProxyHandle]
) -> None:
    proxy = make_proxy(server)
    proxy.call("PATCH", "", {"upstream": "no.such.host.invalid:80"})
    assert gone(proxy.dial()) == "end"


@pytest.mark.parametrize("name", ["localhost", "LocalHost"])  # the second one is looked up as any name is
def test_upstream_by_name(server: Server, make_proxy: Callable[..., ProxyHandle], name: str) -> None:
    proxy = make_proxy(server)
    proxy.call("PATCH", "", {"upstream": f"{name}:{proxy.upstream.getsockname()[1]}"})
    client = proxy.dial()
    client.sendall(b"x")
    served = proxy.accept()
    assert served.recv(1) == b"x"


def test_the_next_address_of_a_name_is_tried(server: Server, make_proxy: Callable[..., ProxyHandle]) -> None:
    if not any(family is socket.AF_INET6 for family, *_ in socket.getaddrinfo("localhost", 0)):
        pytest.skip("localhost has no IPv6 address here")
    proxy = make_proxy(server)
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as upstream:
        upstream.settimeout(PATIENCE)
        proxy.call("PATCH", "", {"upstream": f"localhost:{upstream.getsockname()[1]}"})
        client = proxy.dial()
        client.sendall(b"sent before the upstream listens")
        served, _ = upstream.accept()
        with served:
            served.settimeout(PATIENCE)
            assert take(served, 32) == b"sent before the upstream listens"
