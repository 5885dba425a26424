"""The data that toxics hold is bounded for each proxy, and its memory is released."""

from __future__ import annotations

import socket
import struct
import threading

import psutil
import pytest

from pytest_resilience import eventually

from .conftest import PATIENCE, ProxyHandle

pytestmark = pytest.mark.addition

READERS = 20
MIB = 1 << 20


def fill(served: socket.socket) -> None:
    """Send for as long as the connection lives."""
    served.settimeout(60)
    try:
        while True:
            served.sendall(b"x" * MIB)
    except OSError:
        pass


def reset(client: socket.socket) -> None:
    """Close with a RST, so that the proxy has no destination left."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def test_memory_of_readers_that_stall_behind_a_latency_is_bounded_and_comes_back(own_proxy: ProxyHandle) -> None:
    process = psutil.Process(own_proxy.server.process.pid)
    own_proxy.add("latency", latency=60_000)
    before = process.memory_info().rss
    pairs = [own_proxy.connect() for _ in range(READERS)]
    threads = [threading.Thread(target=fill, args=[served]) for _, served in pairs]
    for thread in threads:
        thread.start()

    def held() -> int:
        return sum(each["held"]["downstream"] for each in own_proxy.call("GET", "/connections").json)

    assert eventually(lambda: held() > 60 * MIB, within=30)
    seen = [0]

    def stands() -> bool:
        seen.append(held())
        return seen[-1] == seen[-2]

    assert eventually(stands, within=30, every=0.2)
    # The bound, one chunk for each connection, and what a chunk on its way out has
    assert held() <= 66 * MIB
    assert process.memory_info().rss - before < 100 * MIB
    # One client stays, with chunks in between those of the clients that go.
    for client, _ in pairs[:-1]:
        reset(client)
    assert eventually(lambda: process.memory_info().rss - before < 16 * MIB, within=PATIENCE + 5)
    reset(pairs[-1][0])
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
