"""The client of a Docker engine: requests, and the removal of all containers and networks of a session."""

import contextlib
import json
import os
import socket
import subprocess
import threading

import pytest

from pytest_resilience.backends.docker import engine
from pytest_resilience.backends.docker.engine import Engine, EngineUnavailable
from pytest_resilience.backends.session.isolated_python import isolated_command
from pytest_resilience.wire.http import HttpResponse


class Scripted(Engine):
    """An engine with one network, and one container that appears after some polls. A network in use can't be deleted.

    Args:
        polls: the number of polls without the container.
        busy: how often a deletion of the network is refused.
    """

    def __init__(self, polls: int, busy: int = 0):
        self.container = "pending"
        self.network = "listed"
        self.polls = polls
        self.busy = busy

    def request(self, method, path, *, within=1.0):
        if method == "GET" and path.startswith("/containers"):
            self.polls -= 1
            if self.container == "pending" and self.polls < 0:
                self.container = "listed"
            return self.response(self.container)
        if method == "GET":
            return self.response(self.network)
        if path.startswith("/containers"):
            self.container = "removed"
            return HttpResponse(204, {}, b"")
        if self.busy or self.container == "listed":
            self.busy -= 1
            return HttpResponse(403, {}, b"has active endpoints")
        self.network = "removed"
        return HttpResponse(204, {}, b"")

    @staticmethod
    def response(state):
        return HttpResponse(
            200, {}, json.dumps([{"Id": "1", "Names": ["/one"], "Name": "net"}] if state == "listed" else []).encode()
        )


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    taken = []

    def pause(seconds):
        taken.append(seconds)
        threading.Event().wait(0.001)  # lets the threads that delete go on

    monkeypatch.setattr(engine, "_pause", pause)
    return taken


def test_everything_listed_is_removed_and_confirmed_by_one_poll(pauses):
    scripted = Scripted(polls=0)
    scripted.remove("session")
    assert (scripted.container, scripted.network) == ("removed", "removed")
    assert len(pauses) == 2, "one after each deletion"


def test_a_container_that_appears_late_is_removed_too():
    scripted = Scripted(polls=12)
    scripted.remove("session", ["net", "one"])
    assert (scripted.container, scripted.network) == ("removed", "removed")


def test_a_pending_name_that_appeared_is_not_waited_for(pauses):
    scripted = Scripted(polls=10)
    scripted.remove("session", ["one"])
    assert (scripted.container, scripted.network) == ("removed", "removed")
    assert len(pauses) < 15


def test_a_pending_name_that_never_appears_is_waited_for_almost_a_second(pauses):
    scripted = Scripted(polls=0)
    scripted.remove("session", ["another"])
    assert 0.5 < sum(pauses) < 2


def test_the_deletion_of_a_network_in_use_is_repeated(pauses):
    scripted = Scripted(polls=0, busy=30)
    scripted.remove("session")
    assert scripted.network == "removed"
    assert sum(pauses) > 1, "with pauses between the attempts"


@contextlib.contextmanager
def answering(answer):
    """Serve the responses `answer(request)`, one for each connection. Yield the URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with contextlib.suppress(OSError):  # the listener is closed
                while True:
                    with listener.accept()[0] as connection:
                        connection.sendall(answer(connection.recv(1 << 16)))

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def test_a_request_is_one_of_http_1_0():
    requests = []

    def answer(request):
        requests.append(request)
        return b"HTTP/1.0 200 OK\r\nA: b\r\n\r\n[1]"

    with answering(answer) as url:
        reply = Engine(url).request("GET", "/_ping")
    assert (reply.status, reply.json) == (200, [1])
    assert requests == [b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n"]


def test_another_server_is_not_an_engine():
    with (
        answering(lambda _: b"-ERR unknown command\r\n") as url,
        pytest.raises(EngineUnavailable, match="not as an engine does"),
    ):
        Engine(url).request("GET", "/_ping")


def test_the_supervisor_can_run_the_removal_without_installed_packages(tmp_path):
    containers = [{"Id": "abc", "Names": ["/one"], "Name": "one"}]

    def answer(request):
        if request.startswith(b"DELETE /containers/abc?force=1&v=1 "):
            containers.clear()
            return b"HTTP/1.1 204 No Content\r\n\r\n"
        listed = containers if request.startswith(b"GET /containers/json") else []
        return b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(listed).encode()

    with answering(answer) as url:
        argv = isolated_command("backends.docker.engine", url, "s1", os.fspath(tmp_path))
        subprocess.run(argv, check=True, timeout=30)
    assert not containers
