"""Each thread has one client for the service under test, and no client is left open."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest

from pytest_resilience import eventually
from pytest_resilience.targets.thread_clients import ThreadLocalClients


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_thread_keeps_its_client_and_no_two_threads_share_one(url: str) -> None:
    clients = ThreadLocalClients(lambda *_: "")
    ours = clients.of_this_thread(url)
    assert clients.of_this_thread(url) is ours
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(lambda: clients.of_this_thread(url)).result() is not ours
    clients.close()


def test_connections_of_threads_that_have_ended_are_closed(url: str) -> None:
    clients = ThreadLocalClients(lambda *_: "")

    def to_the_server() -> int:
        port = int(url.rpartition(":")[2])
        process = psutil.Process()
        connections = getattr(process, "net_connections", None) or process.connections  # before psutil 6.0
        return sum(c.raddr != () and c.raddr.port == port for c in connections("tcp"))

    for _ in range(3):
        together = threading.Barrier(4)

        def request(together: threading.Barrier = together) -> int:
            together.wait()
            return clients.of_this_thread(url).get("/").status_code

        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(lambda _: request(), range(4))) == [200] * 4
    eventually(lambda: to_the_server() == 0, within=2.0)


def test_after_close_a_thread_gets_a_new_client(url: str) -> None:
    clients = ThreadLocalClients(lambda *_: "")
    ours = clients.of_this_thread(url)
    clients.close()
    assert ours.is_closed
    assert clients.of_this_thread(url).get("/").status_code == 200
    clients.close()


def test_clients_follow_a_service_to_another_url(url: str) -> None:
    clients = ThreadLocalClients(lambda *_: "")
    ours = clients.of_this_thread("http://127.0.0.1:1")
    clients.follow(url)
    assert ours.get("/").status_code == 200
    clients.close()


def test_the_time_out_is_that_of_the_description(url: str) -> None:
    clients = ThreadLocalClients(lambda *_: "", 0.5)
    assert clients.of_this_thread(url).timeout.read == 0.5
    clients.close()
