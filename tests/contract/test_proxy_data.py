"""The data plane, with and without toxics, of this proxy and of the real one."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Callable

import pytest

from .conftest import ProxyHandle, Server, silent, take

# Times in here are wide enough for a busy machine: lower bounds are the promise, upper ones catch hanging only.
SOON = 4.0


def gone(sock: socket.socket) -> str:
    """Discard data until the connection ends. Return "end" or "reset"."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        return "reset"
    return "end"


class Watch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start


# --- without toxics --------------------------------------------------------------------------------------------------


def test_bytes_pass_both_ways(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    client.sendall(b"question")
    assert take(served, 8) == b"question"
    served.sendall(b"answer")
    assert take(client, 6) == b"answer"


def test_eight_mebibytes_arrive_as_they_were_sent(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    sent = bytes(range(256)) * 32768
    sender = threading.Thread(target=served.sendall, args=(sent,))
    sender.start()
    got = take(client, len(sent))
    sender.join()
    assert hashlib.sha256(got).digest() == hashlib.sha256(sent).digest()


def test_end_of_stream_passes_after_the_data(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    served.sendall(b"last words")
    served.close()
    assert take(client, 100) == b"last words"


def test_client_sees_an_end_when_the_upstream_is_down(server: Server, make_proxy: Callable[..., ProxyHandle]) -> None:
    proxy = make_proxy(server)
    proxy.upstream.close()
    assert gone(proxy.dial()) == "end"


def test_disabled_proxy_refuses_and_cuts(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    proxy.call("PATCH", "", {"enabled": False})
    assert gone(client) == "end"
    assert gone(served) == "end"
    with pytest.raises(ConnectionRefusedError):
        proxy.dial()
    proxy.call("PATCH", "", {"enabled": True})
    client, served = proxy.connect()
    client.sendall(b"x")
    assert served.recv(1) == b"x"


def test_deleted_proxy_cuts(proxy: ProxyHandle) -> None:
    client, _ = proxy.connect()
    proxy.call("DELETE")
    assert gone(client) == "end"


# --- one toxic -------------------------------------------------------------------------------------------------------


def test_latency_shifts_a_stream_and_does_not_slow_it(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    proxy.add("latency", latency=100)
    watch = Watch()
    for number in range(20):
        served.sendall(bytes([number]))
    served.close()
    assert take(client, 21) == bytes(range(20))
    assert 0.1 <= watch.seconds < SOON


def test_latency_works_on_its_own_stream_only(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    proxy.add("latency", "upstream", latency=60_000)
    served.sendall(b"x")
    assert client.recv(1) == b"x"
    client.sendall(b"y")
    assert silent(served)


def test_removing_latency_releases_held_data_in_order(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    toxic = proxy.add("latency", latency=60_000)
    for number in range(10):
        served.sendall(bytes([number]))
    assert silent(client)
    proxy.remove(toxic)
    assert take(client, 10) == bytes(range(10))


def test_updating_latency_releases_the_chunk_that_is_worked_on(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    toxic = proxy.add("latency", latency=60_000)
    served.sendall(b"1")
    assert silent(client, 0.05)
    served.sendall(b"2")
    assert silent(client, 0.05)
    proxy.set(toxic, latency=60_001)
    assert client.recv(2) == b"1"
    assert silent(client, 0.05)
    proxy.set(toxic, latency=0)
    assert client.recv(2) == b"2"


def test_bandwidth_takes_its_time(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    proxy.add("bandwidth", rate=500)
    watch = Watch()
    served.sendall(b"x" * 100_000)
    assert len(take(client, 100_000)) == 100_000
    assert 0.19 <= watch.seconds < SOON


def test_bandwidth_zero_holds_data_and_delivers_it_on_removal(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    toxic = proxy.add("bandwidth", rate=0)
    served.sendall(b"x" * 1000)
    assert silent(client)
    proxy.remove(toxic)
    assert take(client, 1000) == b"x" * 1000


def test_slow_close_holds_the_end_only(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    proxy.add("slow_close", delay=1000)
    watch = Watch()
    served.sendall(b"data")
    served.close()
    assert take(client, 4) == b"data"
    assert watch.seconds < 1.0
    assert client.recv(1) == b""
    assert watch.seconds >= 1.0


def test_timeout_drops_data_and_closes(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    proxy.add("timeout", timeout=150)
    watch = Watch()
    served.sendall(b"lost")
    assert client.recv(10) == b""
    assert 0.14 <= watch.seconds < SOON


def test_timeout_zero_drops_for_ever_and_its_removal_closes(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    toxic = proxy.add("timeout", timeout=0)
    served.sendall(b"lost")
    assert silent(client)
    proxy.remove(toxic)
    assert gone(client) == "end"
    assert gone(served) == "end"


def test_reset_removes_a_timeout_and_closes_too(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    proxy.add("timeout", timeout=0)
    served.sendall(b"lost")
    assert silent(client, 0.05)
    assert proxy.server.call("POST", "/reset").status == 204
    assert gone(client) == "end"


def test_reset_peer_resets_a_new_connection_at_its_first_data(proxy: ProxyHandle) -> None:
    proxy.add("reset_peer", "upstream", timeout=0)
    try:
        client = proxy.dial()
        client.sendall(b"x")
    except ConnectionResetError:
        return  # this proxy may reset before connect() returns
    assert gone(client) == "reset"


def test_slicer_cuts_and_pauses(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    proxy.add("slicer", average_size=10, size_variation=0, delay=20_000)
    watch = Watch()
    served.sendall(b"x" * 80)
    assert len(client.recv(80)) <= 10
    assert len(take(client, 70)) == 70
    assert watch.seconds >= 0.07 * 2


def test_limit_data_passes_exactly_its_bytes_and_closes(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    proxy.add("limit_data", bytes=7)
    served.sendall(b"12345")
    assert take(client, 5) == b"12345"
    served.sendall(b"67890")
    assert take(client, 5) == b"67"


def test_limit_data_zero_closes_at_the_first_chunk(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    proxy.add("limit_data", bytes=0)
    assert silent(client, 0.05)
    served.sendall(b"x")
    assert gone(client) in ("end", "reset")


def test_limit_data_counts_on_after_an_update(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    toxic = proxy.add("limit_data", bytes=20)
    served.sendall(b"x" * 15)
    assert len(take(client, 15)) == 15
    proxy.set(toxic, bytes=30)
    served.sendall(b"y" * 100)
    assert take(client, 100) == b"y" * 15


def test_noop_and_toxicity_zero_do_nothing(proxy: ProxyHandle) -> None:
    proxy.add("noop")
    proxy.add("latency", latency=60_000, toxicity=0.0)
    client, served = proxy.connect()
    served.sendall(b"x")
    assert client.recv(1) == b"x"


# --- several toxics, and changes under way ---------------------------------------------------------------------------


def test_toxics_add_up_in_order(proxy: ProxyHandle, kind: str) -> None:
    early = 0.0 if kind == "ours" else 0.02  # D5: it subtracts the time for which the data waited for a toxic
    client, served = proxy.connect()
    proxy.add("latency", name="one", latency=80)
    proxy.add("latency", name="two", latency=80)
    watch = Watch()
    served.sendall(b"x")
    assert client.recv(1) == b"x"
    assert 0.16 - early <= watch.seconds < SOON


def test_toxics_survive_disabling(proxy: ProxyHandle) -> None:
    proxy.add("latency", latency=100)
    proxy.call("POST", "", {"enabled": False})
    proxy.call("POST", "", {"enabled": True})
    client, served = proxy.connect()
    watch = Watch()
    served.sendall(b"x")
    assert client.recv(1) == b"x"
    assert watch.seconds >= 0.1


def test_no_byte_is_lost_while_toxics_come_and_go(proxy: ProxyHandle) -> None:
    client, served = proxy.connect()
    sent = bytes(range(251)) * 40_000
    sender = threading.Thread(target=served.sendall, args=(sent,))
    got = bytearray()
    receiver = threading.Thread(target=lambda: got.extend(take(client, len(sent))))
    sender.start()
    receiver.start()
    for _ in range(20):
        for kind, attributes in (("latency", {"latency": 2}), ("bandwidth", {"rate": 90_000}), ("noop", {})):
            toxic = proxy.add(kind, **attributes)
            proxy.remove(toxic)
    sender.join()
    receiver.join()
    assert hashlib.sha256(got).digest() == hashlib.sha256(sent).digest()
