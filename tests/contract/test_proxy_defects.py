"""The defects D1 to D18 of Toxiproxy 2.12, each with a test that this proxy passes.

A test marked `differs` runs on the real server, too, and must fail there, so that a repair shows. With `by_chance` it may pass there,
as a busy machine can hide the defect.
The numbers are those of the table in docs/proxy.md.
"""

from __future__ import annotations

import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import PATIENCE, ProxyHandle, Server, command_of, free_port, silent, take
from .test_proxy_data import Watch, gone

differs = pytest.mark.differs


@differs("D1: a client that does not read wedges the whole API")
def test_d1_peer_that_stops_reading_never_blocks_the_api(own_proxy: ProxyHandle) -> None:
    client, served = own_proxy.connect()
    served.setblocking(False)
    sent = 0
    idle = 0
    while idle < 20:  # fill the client's buffers, the proxy's and the kernel's
        try:
            sent += served.send(b"x" * 65536)
            idle = 0
        except BlockingIOError:
            idle += 1
            time.sleep(0.005)
    watch = Watch()
    connection = own_proxy.server
    connection.patience = PATIENCE
    for method, path, body in (
        ("POST", "/toxics", {"type": "latency", "attributes": {"latency": 1}}),
        ("GET", "", None),
        ("POST", "/toxics/latency_downstream", {"attributes": {"latency": 2}}),
        ("DELETE", "/toxics/latency_downstream", None),
        ("POST", "", {"enabled": False}),
    ):
        try:
            reply = connection.call(method, own_proxy.path + path, body)
        except TimeoutError:
            pytest.fail(f"{method} {path} hangs")
        assert reply.status < 300
    assert watch.seconds < 2.0
    assert gone(client) in ("end", "reset")


# Seconds in which a process ends that cannot serve. The real Toxiproxy does not end, so a long wait for it shows nothing.
END_WITHIN = {"ours": 10.0, "real": 1.0}
ABSURD = [
    ("slicer", {}),
    ("slicer", {"average_size": 0}),
    ("slicer", {"average_size": 1, "size_variation": 100}),
    ("bandwidth", {"rate": -1}),
    ("bandwidth", {"rate": 2**62}),
    ("latency", {"jitter": 2**62 + 2**60}),
    ("latency", {"latency": -1}),
    ("latency", {"latency": 2**63 - 1}),
    ("latency", {"jitter": -1}),
    ("timeout", {"timeout": -1}),
    ("slow_close", {"delay": -5}),
    ("reset_peer", {"timeout": -1}),
    ("limit_data", {"bytes": -1}),
    ("slicer", {"average_size": 10, "delay": -1}),
]


@differs("D2: such values are taken, and crash or stall the server at the first byte")
@pytest.mark.parametrize(("toxic", "attributes"), ABSURD)
def test_d2_absurd_attributes_are_a_400_that_names_the_field(
    proxy: ProxyHandle, toxic: str, attributes: dict[str, int]
) -> None:
    reply = proxy.call("POST", "/toxics", {"type": toxic, "attributes": attributes})
    assert reply.status == 400
    assert any(name in reply.error for name in attributes or ["average_size"])
    assert proxy.call("GET", "/toxics").text == "[]"


@differs("D2: toxicities outside 0 to 1 are taken")
@pytest.mark.parametrize("toxicity", [-1, 2, 1.5])
def test_d2_absurd_toxicity_is_a_400(proxy: ProxyHandle, toxicity: float) -> None:
    reply = proxy.call("POST", "/toxics", {"type": "noop", "toxicity": toxicity})
    assert (reply.status, "toxicity" in reply.text) == (400, True)


def test_d2_variation_as_large_as_the_average_is_legal(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    proxy.add("slicer", average_size=1000, size_variation=1000)
    served.sendall(b"x" * 30_000)
    assert len(take(client, 30_000)) == 30_000


@differs("D3: connections that exist are not reset while they are idle")
@pytest.mark.parametrize("stream", ["upstream", "downstream"])
def test_d3_reset_peer_resets_idle_connections_that_exist(own_proxy: ProxyHandle, stream: str) -> None:
    client, _ = own_proxy.connect()
    own_proxy.add("reset_peer", stream, timeout=0)
    with pytest.raises(ConnectionResetError):
        client.recv(1)


@differs("D3: new connections are not reset before they send")
def test_d3_reset_peer_resets_new_connections_as_they_connect(own_proxy: ProxyHandle) -> None:
    own_proxy.add("reset_peer", timeout=0)
    with pytest.raises(ConnectionResetError):
        client = own_proxy.dial()  # it is so quick that the connect itself may see it
        client.recv(1)


@differs("D3: connections older than the toxic get a FIN")
def test_d3_reset_peer_sends_a_true_rst_on_an_old_connection_with_data(own_proxy: ProxyHandle) -> None:
    client, served = own_proxy.connect()
    own_proxy.add("reset_peer", timeout=0)
    try:
        served.sendall(b"x")
    except ConnectionError:
        pass  # reset already
    assert gone(client) == "reset"


@differs("D3: toxicity 0 turns normal closes into RST")
def test_d3_reset_peer_with_toxicity_zero_leaves_closes_alone(own_proxy: ProxyHandle) -> None:
    own_proxy.add("reset_peer", toxicity=0.0)
    client, served = own_proxy.connect()
    client.sendall(b"unread")
    assert take(served, 6) == b"unread"
    served.sendall(b"x")
    assert take(client, 1) == b"x"
    client.close()
    assert gone(served) == "end"


@differs("D3: removal waits until the timeout has passed")
def test_d3_removing_reset_peer_does_not_wait_and_delivers(own_proxy: ProxyHandle) -> None:
    client, served = own_proxy.connect()
    toxic = own_proxy.add("reset_peer", timeout=3000)
    served.sendall(b"x")
    assert silent(client, 0.05)
    watch = Watch()
    own_proxy.remove(toxic)
    assert watch.seconds < 2.0
    assert client.recv(1) == b"x"


@differs("D4: every chunk restarts the clock", by_chance=True)
def test_d4_timeout_is_absolute(own_proxy: ProxyHandle) -> None:
    client, served = own_proxy.connect()
    own_proxy.add("timeout", timeout=200)
    client.settimeout(0.04)
    watch = Watch()
    while watch.seconds < 3.0:
        try:
            served.sendall(b"x")
            if client.recv(1) == b"":
                break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    assert 0.19 <= watch.seconds < 2.0


@differs("D5: chunks that wait in the second queue are stamped wrongly")
def test_d5_chained_latencies_add_up_under_a_burst(own_proxy: ProxyHandle) -> None:
    own_proxy.add("latency", name="one", latency=100)
    own_proxy.add("latency", name="two", latency=100)
    client, served = own_proxy.connect()
    delays = []
    sent = []
    for number in range(30):
        sent.append(time.monotonic())
        served.sendall(bytes([number]))
        time.sleep(0.005)
    for number in range(30):
        assert client.recv(1) == bytes([number])
        delays.append(time.monotonic() - sent[number])
    assert min(delays) >= 0.2
    assert sorted(delays)[15] < 1.0  # they add up once, not for each chunk in the queue


@differs("D5: latency after bandwidth is swallowed in part", by_chance=True)
def test_d5_bandwidth_then_latency_add_up(own_proxy: ProxyHandle) -> None:
    own_proxy.add("bandwidth", rate=200)
    own_proxy.add("latency", latency=200)
    client, served = own_proxy.connect()
    watch = Watch()
    served.sendall(b"x" * 100_000)
    assert len(take(client, 100_000)) == 100_000
    assert 0.69 <= watch.seconds < 2.5


def _delayed(start: Callable[..., Server], make_proxy: Callable[..., ProxyHandle], *flags: str) -> list[bool]:
    """Of 24 connections through a toxic of toxicity 0.5, which are held up."""
    proxy = make_proxy(start(*flags))
    proxy.add("bandwidth", rate=0, toxicity=0.5)
    return _held([proxy.connect() for _ in range(24)])


def _held(pairs: list[tuple[socket.socket, socket.socket]]) -> list[bool]:
    """Return the clients that receive nothing of what is sent to them."""
    for _, served in pairs:
        served.sendall(b"x")
    heard: set[socket.socket] = set()
    while ready := select.select([client for client, _ in pairs if client not in heard], [], [], 0.5)[0]:
        for client in ready:
            assert client.recv(10)
        heard.update(ready)
    return [client not in heard for client, _ in pairs]


@differs("D6: -seed does nothing")
def test_d6_same_seed_same_draws(start: Callable[..., Server], make_proxy: Callable[..., ProxyHandle]) -> None:
    first = _delayed(start, make_proxy, "-seed", "42")
    assert any(first)
    assert not all(first)
    assert _delayed(start, make_proxy, "-seed", "42") == first
    assert _delayed(start, make_proxy, "-seed", "43") != first


@differs("D7: adding a toxic draws again for the one before it")
def test_d7_unrelated_changes_never_draw_again(own_proxy: ProxyHandle) -> None:
    pairs = [own_proxy.connect() for _ in range(24)]
    own_proxy.add("bandwidth", rate=0, toxicity=0.5)
    before = _held(pairs)
    own_proxy.add("noop")
    own_proxy.remove("noop_downstream")
    own_proxy.set("bandwidth_downstream", rate=0)
    for (client, _), was_held in zip(pairs, before, strict=True):
        if was_held:
            assert client.recv(10) == b"x"  # the update has released it
    assert _held(pairs) == before


@differs("D8: an end of stream in one direction closes both")
def test_d8_half_close_passes_through(own_proxy: ProxyHandle) -> None:
    client, served = own_proxy.connect()
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert take(served, 100) == b"question"
    served.sendall(b"answer")
    served.close()
    assert take(client, 100) == b"answer"


@differs("D9: an upstream that does not answer blocks accepting, disabling and deleting")
def test_d9_dialling_never_blocks_the_proxy(own_server: Server, make_proxy: Callable[..., ProxyHandle]) -> None:
    proxy = make_proxy(own_server)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        fillers = [socket.socket() for _ in range(3)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(address)
            proxy.call("POST", "", {"upstream": f"127.0.0.1:{address[1]}"})
            waiting = [proxy.dial() for _ in range(3)]
            time.sleep(0.05)
            own_server.patience = 4.0
            watch = Watch()
            try:
                reply = proxy.call("POST", "", {"enabled": False})
            except TimeoutError:
                pytest.fail("disabling hangs")
            assert reply.status == 200
            assert watch.seconds < 3.0
            for client in waiting:
                assert gone(client) in ("end", "reset")
        finally:
            for filler in fillers:
                filler.close()


@differs("D10: a RST arrives as FIN")
@pytest.mark.parametrize("by", ["client", "upstream"])
def test_d10_rst_stays_rst(own_proxy: ProxyHandle, by: str) -> None:
    client, served = own_proxy.connect()
    client.sendall(b"x")
    assert served.recv(1) == b"x"
    sender, receiver = (client, served) if by == "client" else (served, client)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    sender.close()
    assert gone(receiver) == "reset"


@differs("D11: a failed move leaves the proxy disabled, at the new address")
def test_d11_update_that_cannot_bind_changes_nothing(own_proxy: ProxyHandle) -> None:
    client, served = own_proxy.connect()
    before = own_proxy.call("GET").json
    with socket.create_server(("127.0.0.1", 0)) as taken:
        body = {"listen": f"127.0.0.1:{taken.getsockname()[1]}", "upstream": "127.0.0.1:9"}
        assert own_proxy.call("PATCH", "", body).status == 500
    assert own_proxy.call("GET").json == before
    client.sendall(b"x")
    assert served.recv(1) == b"x"


@differs("D11: keys before the bad one are applied")
def test_d11_failed_toxic_update_changes_nothing(own_proxy: ProxyHandle) -> None:
    own_proxy.add("latency", latency=5)
    assert (
        own_proxy.call("PATCH", "/toxics/latency_downstream", '{"attributes":{"latency":9,"jitter":"x"}}').status == 400
    )
    assert own_proxy.call("GET", "/toxics/latency_downstream").json["attributes"] == {"latency": 5, "jitter": 0}


@differs("D11: populate stops half-way")
def test_d11_populate_is_all_or_nothing(own_proxy: ProxyHandle) -> None:
    client, served = own_proxy.connect()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        reply = own_proxy.server.call(
            "POST",
            "/populate",
            [
                {"name": "new", "listen": "127.0.0.1:0", "upstream": "127.0.0.1:1"},
                {"name": "proxy", "listen": own_proxy.listen, "upstream": "127.0.0.1:1"},
                {"name": "bad", "listen": f"127.0.0.1:{taken.getsockname()[1]}", "upstream": "127.0.0.1:1"},
            ],
        )
    assert (reply.status, reply.json["status"], reply.json["proxies"]) == (500, 500, None)
    assert list(own_proxy.server.call("GET", "/proxies").json) == ["proxy"]
    client.sendall(b"x")
    assert served.recv(1) == b"x"


@differs("D11: the ports of what it had done so far stay taken")
def test_d11_failed_populate_gives_ports_back_and_listens_where_it_did(own_proxy: ProxyHandle) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bodies = [
            {"name": "new", "listen": f"127.0.0.1:{port}", "upstream": "127.0.0.1:1"},
            {
                "name": "proxy",
                "listen": f"0.0.0.0:{own_proxy.port}",
                "upstream": "127.0.0.1:1",
            },  # has to step aside for itself
            {"name": "bad", "listen": f"127.0.0.1:{taken.getsockname()[1]}", "upstream": "127.0.0.1:1"},
        ]
        assert own_proxy.server.call("POST", "/populate", bodies).status == 500
    socket.create_server(("127.0.0.1", port)).close()
    client, served = own_proxy.connect()
    client.sendall(b"x")
    assert served.recv(1) == b"x"


@pytest.mark.differs("D11: the first proxy that can't be enabled keeps the others from being reset", by_chance=True)
def test_d11_reset_resets_all_that_can_be_and_names_the_rest(
    server: Server, make_proxy: Callable[..., ProxyHandle]
) -> None:
    proxies = [make_proxy(server, f"proxy{number}") for number in range(8)]
    for each in proxies:
        each.add("latency", latency=1)
        each.call("PATCH", "", {"enabled": False})
    taken = socket.create_server(("127.0.0.1", 0))
    with taken, socket.create_server(("127.0.0.1", 0)) as other:
        blocked = {f"blocked{each.getsockname()[1]}": each.getsockname()[1] for each in (taken, other)}
        for name, port in blocked.items():
            body = {"name": name, "listen": f"127.0.0.1:{port}", "upstream": "u:1", "enabled": False}
            assert server.call("POST", "/proxies", body).status == 201
            assert server.call("POST", f"/proxies/{name}/toxics", {"type": "noop"}).status == 200
        reply = server.call("POST", "/reset")
        assert reply.status == 500
        for name, port in blocked.items():
            assert f"{name}: listen tcp 127.0.0.1:{port}: bind: address already in use" in reply.error
            state = server.call("GET", f"/proxies/{name}").json
            assert (state["enabled"], state["toxics"]) == (False, [])
        for each in proxies:
            state = each.call("GET").json
            assert (state["enabled"], state["toxics"]) == (True, [])
    assert server.call("POST", "/reset").status == 204
    assert server.call("GET", f"/proxies/{name}").json["enabled"] is True


TOXIC = {"type": "latency", "stream": "upstream", "attributes": {"latency": 7}}
SHOWN = {**TOXIC, "name": "latency_upstream", "attributes": {"latency": 7, "jitter": 0}, "toxicity": 1}
WITH_TOXIC = {"name": "p", "listen": "127.0.0.1:0", "upstream": "127.0.0.1:1", "toxics": [TOXIC]}


@differs("D12: toxics in the body are ignored")
def test_d12_toxics_come_with_create(server: Server) -> None:
    assert server.call("POST", "/proxies", WITH_TOXIC).json["toxics"] == [SHOWN]


@differs("D12: toxics in the body are ignored")
def test_d12_toxics_come_with_populate(server: Server) -> None:
    assert server.call("POST", "/populate", [WITH_TOXIC]).json["proxies"][0]["toxics"] == [SHOWN]


@differs("D12: toxics in the body are ignored")
def test_d12_bad_toxic_in_create_creates_nothing(server: Server) -> None:
    assert server.call("POST", "/proxies", {**WITH_TOXIC, "toxics": [{"type": "nope"}]}).status == 400
    assert server.call("GET", "/proxies").text == "{}"


@differs("D12: silently ignored")
@pytest.mark.parametrize("change", [{"stream": "upstream"}, {"type": "timeout"}, {"name": "other"}])
def test_d12_change_of_a_fixed_field_is_refused(proxy: ProxyHandle, change: dict[str, str]) -> None:
    proxy.add("latency", latency=5)
    reply = proxy.call("PATCH", "/toxics/latency_downstream", {"attributes": {"latency": 6}, **change})
    assert (reply.status, next(iter(change)) in reply.error) == (400, True)
    assert proxy.call("GET", "/toxics/latency_downstream").json["attributes"]["latency"] == 5


@differs("D13: bytes are counted when a connection ends")
def test_d13_metrics_are_live(start: Callable[..., Server], make_proxy: Callable[..., ProxyHandle]) -> None:
    server = start("-proxy-metrics")
    proxy = make_proxy(server)
    client, served = proxy.connect()
    client.sendall(b"12345")
    assert take(served, 5) == b"12345"
    text = server.call("GET", "/metrics").text
    for word in ("received", "sent"):
        assert (
            f'toxiproxy_proxy_{word}_bytes_total{{direction="upstream",listener="{proxy.listen}",proxy="proxy",'
            f'upstream="127.0.0.1:{proxy.upstream.getsockname()[1]}"}} 5'
        ) in text


@differs("D14: the process lives on without an API")
def test_d14_api_port_in_use_ends_the_start(kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [*command_of(kind), "-host", "127.0.0.1", "-port", str(taken.getsockname()[1])]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=END_WITHIN[kind])
        except subprocess.TimeoutExpired:
            pytest.fail("it lives on")
    assert (ended.returncode, "in use" in ended.stderr) == (1, True)


@differs("D14: a config file that cannot be read or used is only logged")
@pytest.mark.parametrize(
    "content", ["[", '[{"name":"a"}]', '[{"name":"a","upstream":"u:1","listen":"nonsense"}]', None]
)
def test_d14_bad_config_ends_the_start(kind: str, tmp_path: Path, content: str | None) -> None:
    config = tmp_path / "config.json"
    if content is not None:
        config.write_text(content)
    command = [*command_of(kind), "-host", "127.0.0.1", "-port", str(free_port()), "-config", str(config)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=END_WITHIN[kind])
    except subprocess.TimeoutExpired:
        pytest.fail("it lives on")
    assert (ended.returncode, "config.json" in ended.stderr) == (1, True)


@differs("D15: the port of a disabled proxy is anybody's")
def test_d15_disabled_proxy_keeps_its_port(own_proxy: ProxyHandle) -> None:
    own_proxy.call("POST", "", {"enabled": False})
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("127.0.0.1", own_proxy.port)).close()
    with pytest.raises(ConnectionRefusedError):
        own_proxy.dial()
    assert own_proxy.call("POST", "", {"enabled": True}).status == 200
    own_proxy.connect()


@differs("D16: 45 to 61 kB per idle connection")
def test_d16_an_idle_connection_costs_less_than_two_kilobytes(own_proxy: ProxyHandle) -> None:
    import psutil

    process = psutil.Process(own_proxy.server.process.pid)
    for _ in range(100):
        own_proxy.connect()
    before = process.memory_info().rss
    for _ in range(1000):
        own_proxy.connect()
    assert (process.memory_info().rss - before) / 1000 < 2000


@differs("D17: such a proxy can be made and never addressed")
def test_d17_name_with_a_slash_can_be_addressed_and_deleted(own_server: Server) -> None:
    own_server.call("POST", "/proxies", {"name": "a/b", "listen": "127.0.0.1:0", "upstream": "127.0.0.1:1"})
    assert own_server.call("GET", "/proxies/a%2Fb").json["name"] == "a/b"
    assert own_server.call("POST", "/proxies/a%2Fb/toxics", {"type": "noop", "name": "x/y"}).status == 200
    assert own_server.call("GET", "/proxies/a%2Fb/toxics/x%2Fy").json["name"] == "x/y"
    assert own_server.call("DELETE", "/proxies/a%2Fb").status == 204


@differs("D18: panics within seconds when connections and toxics come and go", by_chance=True)
def test_d18_connections_and_toxics_that_come_and_go_at_once_do_no_harm(own_proxy: ProxyHandle) -> None:
    server = own_proxy.server
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            try:
                with socket.create_connection(("127.0.0.1", own_proxy.port), PATIENCE) as client:
                    client.sendall(b"x" * 1000)
            except OSError:
                continue

    def take_in() -> None:
        own_proxy.upstream.settimeout(0.2)
        while not over.is_set():
            try:
                served, _ = own_proxy.upstream.accept()
            except TimeoutError:
                continue
            served.close()

    threads = [threading.Thread(target=each) for each in (come_and_go, come_and_go, take_in)]
    for thread in threads:
        thread.start()
    watch = Watch()
    try:
        while watch.seconds < (1.5 if server.kind == "ours" else 10.0):
            for stream in ("upstream", "downstream"):
                for name in ("one", "two"):
                    own_proxy.add("latency", stream, name=f"{name}_{stream}", latency=1)
            for stream in ("upstream", "downstream"):
                for name in ("one", "two"):
                    own_proxy.remove(f"{name}_{stream}")
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert server.call("GET", "/version").status == 200
