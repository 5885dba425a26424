"""A failed dial tries the next address of the upstream, and loses no data of the client."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from pytest_resilience.proxy.address import SocketAddress, resolve_listen_address
from pytest_resilience.proxy.event_loop import EventLoop
from pytest_resilience.proxy.installed_toxic import InstalledToxic
from pytest_resilience.proxy.listener import Listener
from pytest_resilience.proxy.log import Log
from pytest_resilience.proxy.proxy import Proxy
from pytest_resilience.proxy.runtime import ProxyRuntime


@pytest.fixture(params=[False, True], ids=["epoll", "selectors"])
def proxy(request: pytest.FixtureRequest) -> Iterator[Proxy]:
    lines: list[str] = []
    problems: list[Exception] = []
    loop = EventLoop(on_error=problems.append, portable=request.param)
    proxy = Proxy(ProxyRuntime(loop, Log("error", lines.append), seed=1), "p", "", "some.name:1")
    proxy.start(Listener(resolve_listen_address("127.0.0.1:0")))
    yield proxy
    proxy.close()
    loop.close()
    assert problems == []


def run_until(loop: EventLoop, question: Callable[[], object], within: float = 5.0) -> None:
    """Let the loop run until the answer is true."""
    end = loop.now() + within

    def poll() -> None:
        if question() or loop.now() > end:
            loop.stop()
        else:
            loop.call_at(loop.now() + 0.001, poll)

    poll()
    loop.run()
    assert question()


def dead_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def dial(proxy: Proxy) -> socket.socket:
    assert proxy.listener is not None
    return socket.create_connection(proxy.listener.address.sockaddr, 5)


def test_next_address_is_tried_and_nothing_is_lost(proxy: Proxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        upstream.setblocking(False)
        places = [("127.0.0.1", dead_port()), ("127.0.0.1", dead_port()), upstream.getsockname()]
        proxy.upstream._addresses = [SocketAddress(socket.AF_INET, *place) for place in places]
        served: list[socket.socket] = []

        def accepted() -> bool:
            try:
                served.append(upstream.accept()[0])
            except BlockingIOError:
                pass
            return bool(served)

        with dial(proxy) as client:
            client.sendall(b"early words")
            run_until(proxy.runtime.loop, accepted)
            with served[0]:
                served[0].sendall(b"answer")
                run_until(
                    proxy.runtime.loop,
                    lambda: proxy.total(upward=False) == 6 and proxy.total(upward=True, sent=True) == 11,
                )
                assert served[0].recv(100) == b"early words"
                assert client.recv(100) == b"answer"


def test_client_is_given_up_when_no_address_answers(proxy: Proxy) -> None:
    proxy.upstream._addresses = [SocketAddress(socket.AF_INET, "127.0.0.1", dead_port()) for _ in range(2)]
    with dial(proxy) as client:
        run_until(proxy.runtime.loop, lambda: proxy.accepted.count == 1 and not proxy.connections)
        assert client.recv(1) == b""


def test_toxic_added_before_the_upstream_is_dialled_is_installed_once(proxy: Proxy) -> None:
    """A connection that `accept_delay` holds back gets each toxic once, in the order of their addition."""
    upstream = socket.create_server(("127.0.0.1", 0))
    proxy.upstream._addresses = [SocketAddress(socket.AF_INET, *upstream.getsockname())]
    proxy.set_admission({"accept_delay": 50})
    first, second = (installed_latency(name) for name in ("first", "second"))
    proxy.add_toxic(first)
    with upstream, dial(proxy):
        run_until(proxy.runtime.loop, lambda: proxy.connections)
        proxy.add_toxic(second)
        link = proxy.connections[1].down
        run_until(proxy.runtime.loop, lambda: link.fd >= 0)
        assert [stage.installed.name for stage in link.stages] == ["first", "second"]


def installed_latency(name: str) -> InstalledToxic:
    return InstalledToxic(
        name=name, kind="latency", stream="downstream", toxicity=1.0, attributes={"latency": 0, "jitter": 0}
    )
