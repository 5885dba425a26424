"""What is left of a session is removed, also what an engine makes after the session's death."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pytest_resilience.backends.docker import engine
from pytest_resilience.backends.docker.engine import Engine, EngineUnavailable
from pytest_resilience.backends.session.supervised import _RUN
from pytest_resilience.wire.http import HttpResponse


class Scripted(Engine):
    """An engine with one network, and one container that is there after so many looks; a network in use can't be deleted."""

    def __init__(self, looks: int, busy: int = 0):
        self.container = "to come"
        self.network = "there"
        self.looks = looks
        self.busy = busy  # how often a deletion of the network is refused

    def request(self, method, path, *, within=1.0):
        if method == "GET" and path.startswith("/containers"):
            self.looks -= 1
            if self.container == "to come" and self.looks < 0:
                self.container = "there"
            return self.listed(self.container)
        if method == "GET":
            return self.listed(self.network)
        if path.startswith("/containers"):
            self.container = "gone"
            return HttpResponse(204, {}, b"")
        if self.busy or self.container == "there":
            self.busy -= 1
            return HttpResponse(403, {}, b"has active endpoints")
        self.network = "gone"
        return HttpResponse(204, {}, b"")

    @staticmethod
    def listed(state):
        return HttpResponse(
            200, {}, json.dumps([{"Id": "1", "Names": ["/one"], "Name": "net"}] if state == "there" else []).encode()
        )


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    taken = []
    monkeypatch.setattr(engine, "_pause", taken.append)
    return taken


def test_what_is_there_goes_and_one_look_says_so(pauses):
    scripted = Scripted(looks=0)
    scripted.remove("session")
    assert (scripted.container, scripted.network) == ("gone", "gone")
    assert len(pauses) == 2, "one after each deletion"


def test_a_container_that_appears_a_while_after_a_killed_start_goes_too():
    scripted = Scripted(looks=12)
    scripted.remove("session", ["net", "one"])
    assert (scripted.container, scripted.network) == ("gone", "gone")


def test_what_was_awaited_and_came_is_not_waited_for(pauses):
    scripted = Scripted(looks=10)
    scripted.remove("session", ["one"])
    assert (scripted.container, scripted.network) == ("gone", "gone")
    assert len(pauses) < 15


def test_what_never_comes_is_waited_for_most_of_a_second(pauses):
    scripted = Scripted(looks=0)
    scripted.remove("session", ["another"])
    assert 0.5 < sum(pauses) < 2


def test_a_network_in_use_is_tried_again_until_it_is_free(pauses):
    scripted = Scripted(looks=0, busy=30)
    scripted.remove("session")
    assert scripted.network == "gone"
    assert sum(pauses) > 1, "not again and again without a pause"


@contextlib.contextmanager
def answering(answer):
    """Answer requests by `answer(request)`, each on a connection of its own; yields the URL."""
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


def test_a_question_is_a_request_of_http_1_0():
    requests = []

    def answer(request):
        requests.append(request)
        return b"HTTP/1.0 200 OK\r\nA: b\r\n\r\n[1]"

    with answering(answer) as url:
        reply = Engine(url).request("GET", "/_ping")
    assert (reply.status, reply.json) == (200, [1])
    assert requests == [b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n"]


def test_other_servers_are_no_engines():
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
        package = Path(engine.__file__).parents[2]
        program = _RUN.format(module="backends.docker.engine")
        argv = [sys.executable, "-I", "-S", "-c", program, str(package), url, "s1", os.fspath(tmp_path)]
        subprocess.run(argv, check=True, timeout=30)
    assert not containers
