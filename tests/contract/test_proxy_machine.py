"""Random proxies, toxics, changes and traffic against a model, and misbehaving peers of all kinds at once.

There is no crash and no hang, no byte is lost or out of order unless a toxic does that, and the API answers throughout.
"""

from __future__ import annotations

import hashlib
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from .conftest import PATIENCE, ProxyHandle, Server, take
from .test_proxy_data import Watch

pytestmark = pytest.mark.addition

KEEPS = st.sampled_from(
    [
        ("noop", {}),
        ("latency", {"latency": 3, "jitter": 2}),
        ("latency", {"latency": 60_000}),
        ("bandwidth", {"rate": 0}),
        ("bandwidth", {"rate": 5000}),
        ("slicer", {"average_size": 50, "size_variation": 20, "delay": 10}),
        ("slow_close", {"delay": 5}),
        ("reset_peer", {"timeout": 600_000}),
        ("shared_bandwidth", {"rate": 9000}),
    ]
)
LOSES = st.sampled_from(
    [
        ("timeout", {"timeout": 0}),
        ("limit_data", {"bytes": 10}),
        ("reset_peer", {"timeout": 0}),
        ("limit_time", {"time": 1}),
    ]
)
STREAMS = st.sampled_from(["upstream", "downstream"])


class Flow:
    """One direction of one connection, as it should be."""

    def __init__(self, source: socket.socket, destination: socket.socket) -> None:
        self.source = source
        self.destination = destination
        self.sent = bytearray()
        self.got = bytearray()
        self.over = False

    def send(self, data: bytes) -> None:
        try:
            self.sent += data[: self.source.send(data)]
        except BlockingIOError:
            pass
        except OSError:
            self.over = True

    def receive(self) -> None:
        try:
            while data := self.destination.recv(65536):
                self.got += data
            self.over = True
        except BlockingIOError:
            pass
        except OSError:
            self.over = True


class Machine(RuleBasedStateMachine):
    server: Server

    @initialize()
    def begin(self) -> None:
        self.server.clear()
        self.proxy = ProxyHandle(self.server, "proxy")
        self.flows: list[Flow] = []
        self.toxics: list[str] = []
        self.lossy = False
        self.enabled = True

    def teardown(self) -> None:
        if not hasattr(self, "proxy"):
            return
        try:
            assert self.server.call("POST", "/reset").status == 204
            watch = Watch()
            while not self.lossy and watch.seconds < PATIENCE:
                self.drain()
                if all(flow.over or flow.got == flow.sent for flow in self.flows):
                    break
                time.sleep(0.001)
            for flow in self.flows:
                assert flow.sent.startswith(flow.got)
                assert self.lossy or flow.over or flow.got == flow.sent, "bytes are missing"
        finally:
            self.proxy.close()

    def drain(self) -> None:
        for flow in self.flows:
            flow.receive()

    @precondition(lambda self: self.enabled and len(self.flows) < 8)
    @rule()
    def connect(self) -> None:
        try:
            client = self.proxy.dial()
        except ConnectionResetError:  # by reset_peer, after the proxy has connected to the upstream
            self.proxy.accept().close()  # or the next client would be paired with this connection
            return
        served = self.proxy.accept()
        for each in (client, served):
            each.setblocking(False)
        self.flows += [Flow(client, served), Flow(served, client)]

    @precondition(lambda self: self.flows)
    @rule(which=st.integers(0, 7), size=st.sampled_from([1, 10, 1000, 40_000, 300_000]))
    def send(self, which: int, size: int) -> None:
        flow = self.flows[which % len(self.flows)]
        flow.send(random.Random(size + len(flow.sent)).randbytes(size))

    @rule(toxic=KEEPS, stream=STREAMS, name=st.sampled_from("abc"), toxicity=st.sampled_from([1, 0.5]))
    def add(self, toxic: tuple[str, dict[str, int]], stream: str, name: str, toxicity: float) -> None:
        reply = self.proxy.call(
            "POST",
            "/toxics",
            {"name": name, "type": toxic[0], "stream": stream, "attributes": toxic[1], "toxicity": toxicity},
        )
        assert reply.status == (409 if name in self.toxics else 200)
        if reply.status == 200:
            self.toxics.append(name)

    @rule(toxic=LOSES, stream=STREAMS)
    def add_one_that_loses(self, toxic: tuple[str, dict[str, int]], stream: str) -> None:
        self.lossy = True
        reply = self.proxy.call(
            "POST", "/toxics", {"name": "lossy", "type": toxic[0], "stream": stream, "attributes": toxic[1]}
        )
        assert reply.status == (409 if "lossy" in self.toxics else 200)
        self.toxics = [*dict.fromkeys([*self.toxics, "lossy"])]

    @precondition(lambda self: self.toxics)
    @rule(which=st.integers(0, 3), toxicity=st.sampled_from([0, 0.5, 1]))
    def update(self, which: int, toxicity: float) -> None:
        name = self.toxics[which % len(self.toxics)]
        assert self.proxy.call("PATCH", f"/toxics/{name}", {"toxicity": toxicity}).status == 200

    @precondition(lambda self: self.toxics)
    @rule(which=st.integers(0, 3))
    def remove(self, which: int) -> None:
        self.proxy.remove(self.toxics.pop(which % len(self.toxics)))

    @rule()
    def disable(self) -> None:
        self.enabled = False
        assert self.proxy.call("POST", "", {"enabled": False}).json["enabled"] is False
        self.forget_connections()

    @rule()
    def enable(self) -> None:
        self.enabled = True
        assert self.proxy.call("POST", "", {"enabled": True}).json["enabled"] is True

    @rule()
    def delete_and_create(self) -> None:
        assert self.proxy.call("DELETE").status == 204
        self.forget_connections()
        port = self.proxy.upstream.getsockname()[1]
        body = {"name": "proxy", "listen": self.proxy.listen, "upstream": f"127.0.0.1:{port}"}
        assert self.server.call("POST", "/populate", [body]).status == 201
        self.toxics = []
        self.enabled = True

    @rule()
    def reset(self) -> None:
        assert self.server.call("POST", "/reset").status == 204
        self.toxics = []
        self.enabled = True

    def forget_connections(self) -> None:
        self.drain()
        for flow in self.flows:
            assert flow.sent.startswith(flow.got)
            flow.source.close()
            flow.destination.close()
        self.flows = []

    @invariant()
    def what_arrived_is_what_was_sent(self) -> None:
        for flow in getattr(self, "flows", []):
            flow.receive()
            assert flow.sent.startswith(flow.got)

    @invariant()
    def the_api_knows_what_we_know(self) -> None:
        if hasattr(self, "proxy"):
            state = self.proxy.call("GET").json
            assert (state["enabled"], sorted(each["name"] for each in state["toxics"])) == (
                self.enabled,
                sorted(self.toxics),
            )


@pytest.fixture
def _machine_server(server: Server) -> Iterator[None]:
    Machine.server = server
    yield
    del Machine.server


@pytest.mark.usefixtures("_machine_server")
def test_random_changes_and_traffic_agree_with_the_model() -> None:
    from hypothesis.stateful import run_state_machine_as_test

    checks = list(HealthCheck)
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=checks)
    )


def test_a_big_stream_arrives_intact_while_toxics_flap(proxy: ProxyHandle) -> None:
    """The stream has 32 MiB, or $PROXY_SOAK_MIB."""
    size = int(os.environ.get("PROXY_SOAK_MIB", "32")) * 1048576
    client, served = proxy.connect()
    block = random.Random(1).randbytes(1048576)
    digests: list[str] = []

    def send() -> None:
        digest = hashlib.blake2b()
        for number in range(size // len(block)):
            piece = number.to_bytes(4) + block[4:]
            digest.update(piece)
            served.sendall(piece)
        digests.append(digest.hexdigest())
        served.close()

    def receive() -> None:
        digest = hashlib.blake2b()
        client.settimeout(60)
        while data := client.recv(1048576):
            digest.update(data)
        digests.append(digest.hexdigest())

    threads = [threading.Thread(target=send), threading.Thread(target=receive)]
    for thread in threads:
        thread.start()
    flaps = 0
    while threads[1].is_alive():
        for kind, attributes in (
            ("latency", {"latency": 1}),
            ("bandwidth", {"rate": 0}),
            ("slicer", {"average_size": 9000}),
        ):
            proxy.add(kind, name=f"t{flaps}", **attributes)
            proxy.remove(f"t{flaps}")
            flaps += 1
        threads[1].join(0.005)
    for thread in threads:
        thread.join()
    assert flaps > 0
    assert len(set(digests)) == 1


def test_bad_peers_of_every_kind_at_once_leave_the_api_quick(
    server: Server, make_proxy: Callable[..., ProxyHandle]
) -> None:
    proxy = make_proxy(server)
    dead = make_proxy(server, "dead")
    dead.upstream.close()
    proxy.add("latency", latency=5)
    proxy.add("slicer", "upstream", average_size=1000, delay=1000)
    over = threading.Event()

    def stall(sock: socket.socket) -> None:
        sock.setblocking(False)
        try:
            while True:
                sock.send(b"x" * 65536)
        except BlockingIOError:
            pass

    pairs = [proxy.connect() for _ in range(24)]
    for number, (client, served) in enumerate(pairs):
        what = number % 6
        if what == 0:
            stall(served)  # a client that never reads
        elif what == 1:
            stall(client)  # an upstream that never reads
        elif what == 2:
            client.shutdown(socket.SHUT_WR)
        elif what == 3:
            served.shutdown(socket.SHUT_WR)
        elif what == 4:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            client.close()  # gone with a RST

    def come_and_go() -> None:
        while not over.is_set():
            for port in (dead.port, proxy.port):
                try:
                    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
                        client.sendall(b"x" * 100)
                except OSError:
                    pass

    thread = threading.Thread(target=come_and_go)
    thread.start()
    times: list[float] = []
    try:
        for number in range(40):
            for method, path, body in (
                ("POST", "/toxics", {"name": f"t{number}", "type": "bandwidth", "attributes": {"rate": 10}}),
                ("GET", "/connections", None),
                ("DELETE", f"/toxics/t{number}", None),
            ):
                watch = Watch()
                reply: Any = proxy.call(method, path, body)
                times.append(watch.seconds)
                assert reply.status in (200, 204)
    finally:
        over.set()
        thread.join()
    # The promise is 50 ms. The machine may be busy with something else, so the worst one proves nothing, and the median does.
    assert sorted(times)[len(times) // 2] < 0.05
    assert max(times) < 1.0
    for client, _ in pairs[5::6]:  # the good ones
        client.sendall(b"still here")
    for _, served in pairs[5::6]:
        assert take(served, 10) == b"still here"
