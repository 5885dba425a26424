"""What the data plane does, with and without toxics, on our proxy and on the real one."""

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
    """How a connection ended: "end" or "reset"; what comes before is thrown away."""
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


def test_bytes_pass_both_ways(door: ProxyHandle) -> None:
    client, served = door.connect()
    client.sendall(b"question")
    assert take(served, 8) == b"question"
    served.sendall(b"answer")
    assert take(client, 6) == b"answer"


def test_eight_mebibytes_arrive_as_they_were_sent(door: ProxyHandle) -> None:
    client, served = door.connect()
    sent = bytes(range(256)) * 32768
    sender = threading.Thread(target=served.sendall, args=(sent,))
    sender.start()
    got = take(client, len(sent))
    sender.join()
    assert hashlib.sha256(got).digest() == hashlib.sha256(sent).digest()


def test_end_of_stream_passes_after_the_data(door: ProxyHandle) -> None:
    client, served = door.connect()
    served.sendall(b"last words")
    served.close()
    assert take(client, 100) == b"last words"


def test_client_sees_an_end_when_the_upstream_is_down(server: Server, make_door: Callable[..., ProxyHandle]) -> None:
    door = make_door(server)
    door.upstream.close()
    assert gone(door.dial()) == "end"


def test_disabled_proxy_refuses_and_cuts(door: ProxyHandle) -> None:
    client, served = door.connect()
    door.call("PATCH", "", {"enabled": False})
    assert gone(client) == "end"
    assert gone(served) == "end"
    with pytest.raises(ConnectionRefusedError):
        door.dial()
    door.call("PATCH", "", {"enabled": True})
    client, served = door.connect()
    client.sendall(b"x")
    assert served.recv(1) == b"x"


def test_deleted_proxy_cuts(door: ProxyHandle) -> None:
    client, _ = door.connect()
    door.call("DELETE")
    assert gone(client) == "end"


# --- one toxic -------------------------------------------------------------------------------------------------------


def test_latency_shifts_a_stream_and_does_not_slow_it(door: ProxyHandle) -> None:
    client, served = door.connect()
    door.add("latency", latency=100)
    watch = Watch()
    for number in range(20):
        served.sendall(bytes([number]))
    served.close()
    assert take(client, 21) == bytes(range(20))
    assert 0.1 <= watch.seconds < SOON


def test_latency_works_on_its_own_stream_only(door: ProxyHandle) -> None:
    client, served = door.connect()
    door.add("latency", "upstream", latency=60_000)
    served.sendall(b"x")
    assert client.recv(1) == b"x"
    client.sendall(b"y")
    assert silent(served)


def test_removing_latency_releases_what_it_holds_in_order(door: ProxyHandle) -> None:
    client, served = door.connect()
    toxic = door.add("latency", latency=60_000)
    for number in range(10):
        served.sendall(bytes([number]))
    assert silent(client)
    door.remove(toxic)
    assert take(client, 10) == bytes(range(10))


def test_updating_latency_releases_the_chunk_that_is_worked_on(door: ProxyHandle) -> None:
    client, served = door.connect()
    toxic = door.add("latency", latency=60_000)
    served.sendall(b"1")
    assert silent(client, 0.05)
    served.sendall(b"2")
    assert silent(client, 0.05)
    door.set(toxic, latency=60_001)
    assert client.recv(2) == b"1"
    assert silent(client, 0.05)
    door.set(toxic, latency=0)
    assert client.recv(2) == b"2"


def test_bandwidth_takes_its_time(door: ProxyHandle) -> None:
    client, served = door.connect()
    door.add("bandwidth", rate=500)
    watch = Watch()
    served.sendall(b"x" * 100_000)
    assert len(take(client, 100_000)) == 100_000
    assert 0.19 <= watch.seconds < SOON


def test_bandwidth_zero_holds_data_and_delivers_it_on_removal(door: ProxyHandle) -> None:
    client, served = door.connect()
    toxic = door.add("bandwidth", rate=0)
    served.sendall(b"x" * 1000)
    assert silent(client)
    door.remove(toxic)
    assert take(client, 1000) == b"x" * 1000


def test_slow_close_holds_the_end_only(door: ProxyHandle) -> None:
    client, served = door.connect()
    door.add("slow_close", delay=1000)
    watch = Watch()
    served.sendall(b"data")
    served.close()
    assert take(client, 4) == b"data"
    assert watch.seconds < 1.0
    assert client.recv(1) == b""
    assert watch.seconds >= 1.0


def test_timeout_drops_data_and_closes(door: ProxyHandle) -> None:
    client, served = door.connect()
    door.add("timeout", timeout=150)
    watch = Watch()
    served.sendall(b"lost")
    assert client.recv(10) == b""
    assert 0.14 <= watch.seconds < SOON


def test_timeout_zero_drops_for_ever_and_its_removal_closes(door: ProxyHandle) -> None:
    client, served = door.connect()
    toxic = door.add("timeout", timeout=0)
    served.sendall(b"lost")
    assert silent(client)
    door.remove(toxic)
    assert gone(client) == "end"
    assert gone(served) == "end"


def test_reset_removes_a_timeout_and_closes_too(door: ProxyHandle) -> None:
    client, served = door.connect()
    door.add("timeout", timeout=0)
    served.sendall(b"lost")
    assert silent(client, 0.05)
    assert door.server.call("POST", "/reset").status == 204
    assert gone(client) == "end"


def test_reset_peer_resets_a_new_connection_at_its_first_data(door: ProxyHandle) -> None:
    door.add("reset_peer", "upstream", timeout=0)
    try:
        client = door.dial()
        client.sendall(b"x")
    except ConnectionResetError:
        return  # ours is that quick: the connect itself may see it
    assert gone(client) == "reset"


def test_slicer_cuts_and_pauses(door: ProxyHandle) -> None:
    client, served = door.connect()
    door.add("slicer", average_size=10, size_variation=0, delay=20_000)
    watch = Watch()
    served.sendall(b"x" * 80)
    assert len(client.recv(80)) <= 10
    assert len(take(client, 70)) == 70
    assert watch.seconds >= 0.07 * 2


def test_limit_data_passes_exactly_its_bytes_and_closes(door: ProxyHandle) -> None:
    client, served = door.connect()
    door.add("limit_data", bytes=7)
    served.sendall(b"12345")
    assert take(client, 5) == b"12345"
    served.sendall(b"67890")
    assert take(client, 5) == b"67"


def test_limit_data_zero_closes_at_the_first_chunk(door: ProxyHandle) -> None:
    client, served = door.connect()
    door.add("limit_data", bytes=0)
    assert silent(client, 0.05)
    served.sendall(b"x")
    assert gone(client) in ("end", "reset")


def test_limit_data_counts_on_after_an_update(door: ProxyHandle) -> None:
    client, served = door.connect()
    toxic = door.add("limit_data", bytes=20)
    served.sendall(b"x" * 15)
    assert len(take(client, 15)) == 15
    door.set(toxic, bytes=30)
    served.sendall(b"y" * 100)
    assert take(client, 100) == b"y" * 15


def test_noop_and_toxicity_zero_do_nothing(door: ProxyHandle) -> None:
    door.add("noop")
    door.add("latency", latency=60_000, toxicity=0.0)
    client, served = door.connect()
    served.sendall(b"x")
    assert client.recv(1) == b"x"


# --- several toxics, and changes under way ---------------------------------------------------------------------------


def test_toxics_add_up_in_order(door: ProxyHandle) -> None:
    client, served = door.connect()
    door.add("latency", name="one", latency=80)
    door.add("latency", name="two", latency=80)
    watch = Watch()
    served.sendall(b"x")
    assert client.recv(1) == b"x"
    assert 0.16 <= watch.seconds < SOON


def test_toxics_survive_disabling(door: ProxyHandle) -> None:
    door.add("latency", latency=100)
    door.call("POST", "", {"enabled": False})
    door.call("POST", "", {"enabled": True})
    client, served = door.connect()
    watch = Watch()
    served.sendall(b"x")
    assert client.recv(1) == b"x"
    assert watch.seconds >= 0.1


def test_no_byte_is_lost_while_toxics_come_and_go(door: ProxyHandle) -> None:
    client, served = door.connect()
    sent = bytes(range(251)) * 40_000
    sender = threading.Thread(target=served.sendall, args=(sent,))
    got = bytearray()
    receiver = threading.Thread(target=lambda: got.extend(take(client, len(sent))))
    sender.start()
    receiver.start()
    for _ in range(20):
        for kind, attributes in (("latency", {"latency": 2}), ("bandwidth", {"rate": 90_000}), ("noop", {})):
            toxic = door.add(kind, **attributes)
            door.remove(toxic)
    sender.join()
    receiver.join()
    assert hashlib.sha256(got).digest() == hashlib.sha256(sent).digest()
