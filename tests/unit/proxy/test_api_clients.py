"""Clients of the HTTP API that are slow or idle are let go, each in its own time."""

from __future__ import annotations

import _socket
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_resilience.proxy import api
from pytest_resilience.proxy.loop import Timer

GET = b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n"


class FakeLoop:
    """A loop whose time is set by hand."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.handlers: dict[int, Callable[[int], None]] = {}
        self.timers: list[Timer] = []

    def now(self) -> float:
        return self.time

    def at(self, when: float, call: Callable[[], None]) -> Timer:
        timer = Timer(when, call)
        self.timers.append(timer)
        return timer

    def watch(self, fd: int, mask: int, before: int) -> None: ...

    def forget(self, fd: int, mask: int) -> None: ...

    def pass_to(self, time: float) -> None:
        self.time = time
        due = [timer for timer in self.timers if timer.when <= time and timer.call is not None]
        self.timers = [timer for timer in self.timers if timer.when > time]
        for timer in due:
            timer.call()


class FakeApi:
    """Answers everything; knows who has gone."""

    def __init__(self) -> None:
        self.left: list[int] = []

    def answer(self, *_: object) -> Any:
        return api._plain(200, "yes", matched=False)

    def gone(self, fd: int) -> None:
        self.left.append(fd)


class Talk:
    """One client of the API, and both ends of its connection."""

    def __init__(self) -> None:
        self.loop, self.api = FakeLoop(), FakeApi()
        self.far, near = socket.socketpair()
        self.far.setblocking(False)
        near.setblocking(False)
        self.near = _socket.socket(fileno=near.detach())
        self.client = api._Client(self.api, self.loop, self.near)  # type: ignore[arg-type]

    def say(self, text: bytes) -> None:
        self.far.sendall(text)
        self.loop.handlers[self.near.fileno()](1)

    @property
    def over(self) -> bool:
        return bool(self.api.left)


@pytest.fixture
def talk() -> Iterator[Talk]:
    talk = Talk()
    yield talk
    if not talk.over:
        talk.client.close()
    talk.far.close()


def test_who_says_nothing_is_let_go_after_a_minute(talk: Talk) -> None:
    talk.loop.pass_to(1059)
    assert not talk.over
    talk.loop.pass_to(1061)
    assert talk.over


def test_who_was_answered_may_be_idle_for_a_minute(talk: Talk) -> None:
    talk.loop.pass_to(1010)
    talk.say(GET)
    assert b"yes" in talk.far.recv(65536)
    for time in (1026, 1061, 1069):
        talk.loop.pass_to(time)
        assert not talk.over, f"let go after {time - 1010} s"
    talk.say(GET)
    assert b"yes" in talk.far.recv(65536)
    talk.loop.pass_to(1128)
    assert not talk.over
    talk.loop.pass_to(1131)
    assert talk.over


def test_who_is_slow_with_a_request_is_let_go_after_fifteen_seconds(talk: Talk) -> None:
    talk.say(GET)
    talk.far.recv(65536)
    talk.loop.pass_to(1020)
    talk.say(b"POST /reset HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12")
    talk.loop.pass_to(1034)
    talk.say(b"3")
    assert not talk.over
    talk.loop.pass_to(1036)
    assert talk.over, "a byte now and then must not hold a connection for ever"


def test_two_requests_in_one_piece_get_two_answers(talk: Talk) -> None:
    talk.say(GET + GET)
    assert talk.far.recv(65536).count(b"yes") == 2
