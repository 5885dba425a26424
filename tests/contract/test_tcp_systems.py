"""The contract of TCP systems on all backends."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_resilience.errors import CannotInject
from pytest_resilience.resilience import Resilience
from pytest_resilience.stack import Stack
from pytest_resilience.targets.tcp import TcpTarget
from tests.contract.test_backend_stack import Started
from tests.support.backends import KINDS, started, unavailable_reason

SETTINGS: dict[str, tuple[Any, ...]] = {
    "refuse": (),
    "reset": (),
    "blackhole": (),
    "latency": (0.01,),
    "bandwidth": (100_000,),
    "slow_close": (0.01,),
    "slicer": (2,),
    "limit_data": (2,),
    "flap": (),
    "half_open": (),
    "slow_accept": (0.01,),
}


class Echo(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            for line in self.rfile:
                self.wfile.write(line)


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module", params=KINDS)
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    if reason := unavailable_reason(request.param):
        pytest.skip(reason)
    with started(request.param) as backend:
        made = Stack(Started(backend), seed=1)  # type: ignore[arg-type]  # starts and closes nothing
        yield made
        made.close()


@pytest.fixture
def echo(resilience: Resilience, upstream: str) -> TcpTarget:
    return resilience.add_tcp("echo", upstream)


def ask(target: TcpTarget, timeout: float = 5.0) -> bytes:
    with socket.create_connection((target.host, target.port), timeout=timeout) as connection:
        connection.sendall(b"hello\n")
        return connection.makefile("rb").readline()


@pytest.mark.parametrize("fault", SETTINGS)
def test_a_fault_strikes_or_is_an_error_with_the_reason(echo: TcpTarget, stack: Stack, fault: str) -> None:
    assert ask(echo) == b"hello\n"
    if reason := stack.unsupported.get(f"tcp.{fault}"):
        with pytest.raises(CannotInject, match=f"cannot echo.{fault}: {reason}"):
            getattr(echo, fault)(*SETTINGS[fault])
        return
    with socket.create_connection((echo.host, echo.port), timeout=5) as before:
        before.sendall(b"1\n")
        assert before.recv(10) == b"1\n"
        with getattr(echo, fault)(*SETTINGS[fault]) as strike, contextlib.suppress(OSError):
            before.settimeout(0.1)
            before.sendall(b"2\n")
            before.recv(10)
            ask(echo, timeout=0.3)
    assert strike.receipt.touched != 0, "not vacuous"
    assert ask(echo) == b"hello\n", "healed"


def test_a_fault_without_traffic_is_vacuous(echo: TcpTarget) -> None:
    with echo.latency(0.05) as strike:
        pass
    assert strike.receipt.touched == 0 or strike.receipt.touched is None
    assert strike.vacuous is (strike.receipt.touched == 0)


def test_toxics_of_a_test_are_gone_after_it(echo: TcpTarget, resilience: Resilience) -> None:
    echo.proxy.add_toxic(type="reset_peer", attributes={"timeout": 0})
    with contextlib.suppress(OSError):
        assert ask(echo) == b"", "closed or reset"
    resilience.finish()
    assert ask(echo) == b"hello\n"


def test_a_strike_on_one_system_leaves_the_others_alone(echo: TcpTarget, resilience: Resilience, upstream: str) -> None:
    other = resilience.add_tcp("other", upstream)
    assert other.port != echo.port
    with echo.refuse():
        assert ask(other) == b"hello\n"
