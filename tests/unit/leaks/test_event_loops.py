"""Event loops that nothing runs close their connections while the plugin waits."""

from __future__ import annotations

import asyncio
import socket

import pytest

from pytest_resilience.leaks.event_loops import open_connections, run_idle
from tests.support.clocks import FakeClock


class Loops:
    """Loops of a test, which are closed at its end."""

    def __init__(self) -> None:
        self.all: list[asyncio.AbstractEventLoop] = []

    def new(self) -> asyncio.AbstractEventLoop:
        self.all.append(asyncio.new_event_loop())
        return self.all[-1]


@pytest.fixture
def loops():
    made = Loops()
    yield made
    for loop in made.all:
        loop.close()


def test_idle_loops_run_in_turn(loops: Loops) -> None:
    clock, ran = FakeClock(), []
    begun = clock.now()
    for number in range(2):
        loops.new().call_soon(ran.append, number)
    run_idle(loops.all, 0.001, clock)
    assert ran == [0, 1]
    assert clock.now() == begun, "the loops have spent the time"


def test_without_an_idle_loop_time_passes(loops: Loops) -> None:
    clock = FakeClock()
    begun = clock.now()
    loops.new().close()
    run_idle([], 0.5, clock)
    run_idle(loops.all, 0.5, clock)
    assert clock.now() == begun + 1.0


def test_a_running_loop_lets_no_other_one_run(loops: Loops) -> None:
    clock, ran = FakeClock(), []
    begun = clock.now()
    loops.new().call_soon(ran.append, 0)

    async def body() -> None:
        run_idle(loops.all, 0.5, clock)

    loops.new().run_until_complete(body())
    assert (ran, clock.now()) == ([], begun + 0.5)


def test_a_connection_is_open_until_its_peer_resets_it_or_the_client_closes_it(loops: Loops) -> None:
    loop = loops.new()

    async def connect(port: int) -> asyncio.StreamWriter:
        return (await asyncio.open_connection("127.0.0.1", port))[1]

    with socket.create_server(("127.0.0.1", 0)) as server:
        writers = [loop.run_until_complete(connect(server.getsockname()[1])) for _ in range(3)]
        peers = [server.accept()[0] for _ in range(3)]
        numbers = [writer.get_extra_info("socket").fileno() for writer in writers]
        assert open_connections(loop) == set(numbers)
        peers[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # close by RST
        peers[0].close()
        writers[1].close()
        assert open_connections(loop) == {numbers[2]}
        run_idle([loop], 0.001, FakeClock())
        assert open_connections(loop) == {numbers[2]}
        writers[2].close()
        run_idle([loop], 0.001, FakeClock())
        for peer in peers:
            peer.close()
    assert open_connections(loop) == set()
