"""What is left of a session is removed, also what an engine makes after the session's death."""

import json

import pytest

from pytest_resilience.backends.docker import engine
from pytest_resilience.backends.docker.engine import Engine, Reply


class Scripted(Engine):
    """An engine with one network, and one container that is there after so many looks; a network in use can't be deleted."""

    def __init__(self, looks: int, busy: int = 0):
        self.container = "to come"
        self.network = "there"
        self.looks = looks
        self.busy = busy  # how often a deletion of the network is refused

    def ask(self, method, path, *, within=1.0):
        if method == "GET" and path.startswith("/containers"):
            self.looks -= 1
            if self.container == "to come" and self.looks < 0:
                self.container = "there"
            return self.listed(self.container)
        if method == "GET":
            return self.listed(self.network)
        if path.startswith("/containers"):
            self.container = "gone"
            return Reply(204, b"")
        if self.busy or self.container == "there":
            self.busy -= 1
            return Reply(403, b"has active endpoints")
        self.network = "gone"
        return Reply(204, b"")

    @staticmethod
    def listed(state):
        return Reply(
            200, json.dumps([{"Id": "1", "Names": ["/one"], "Name": "net"}] if state == "there" else []).encode()
        )


@pytest.fixture(autouse=True)
def naps(monkeypatch):
    taken = []
    monkeypatch.setattr(engine, "_nap", taken.append)
    return taken


def test_what_is_there_goes_and_one_look_says_so(naps):
    scripted = Scripted(looks=0)
    scripted.remove("session")
    assert (scripted.container, scripted.network) == ("gone", "gone")
    assert len(naps) == 2, "one after each deletion"


def test_a_container_that_appears_a_while_after_a_killed_start_goes_too():
    scripted = Scripted(looks=12)
    scripted.remove("session", ["net", "one"])
    assert (scripted.container, scripted.network) == ("gone", "gone")


def test_what_was_awaited_and_came_is_not_waited_for(naps):
    scripted = Scripted(looks=10)
    scripted.remove("session", ["one"])
    assert (scripted.container, scripted.network) == ("gone", "gone")
    assert len(naps) < 15


def test_what_never_comes_is_waited_for_most_of_a_second(naps):
    scripted = Scripted(looks=0)
    scripted.remove("session", ["another"])
    assert 0.5 < sum(naps) < 2


def test_a_network_in_use_is_tried_again_until_it_is_free(naps):
    scripted = Scripted(looks=0, busy=30)
    scripted.remove("session")
    assert scripted.network == "gone"
    assert sum(naps) > 1, "not again and again without a pause"
