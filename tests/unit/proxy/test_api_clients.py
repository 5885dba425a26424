"""Clients of the HTTP API that are slow or idle are let go, each in its own time."""

from __future__ import annotations

import _socket
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_resilience.proxy.api_connection import ApiConnection
from pytest_resilience.proxy.api_response import Response, text_response
from pytest_resilience.proxy.event_loop import Timer

GET = b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n"


class FakeLoop:
    """A loop with a time that the test sets."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.handlers: dict[int, Callable[[int], None]] = {}
        self.timers: list[Timer] = []

    def now(self) -> float:
        return self.time

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        timer = Timer(when, call)
        self.timers.append(timer)
        return timer

    def watch(self, fd: int, mask: int, before: int) -> None: ...

    def unregister(self, fd: int, mask: int) -> None: ...

    def pass_to(self, time: float) -> None:
        self.time = time
        due = [timer for timer in self.timers if timer.when <= time and timer.call is not None]
        self.timers = [timer for timer in self.timers if timer.when > time]
        for timer in due:
            timer.call()


class FakeApi:
    """A handler that answers every request and records the clients that were closed."""

    def __init__(self) -> None:
        self.closed: list[int] = []

    def answer(self, *_: object) -> Any:
        return text_response(200, "yes", matched=False)

    def next_request_id(self) -> str:
        return "0" * 20

    def on_client_closed(self, fd: int) -> None:
        self.closed.append(fd)


class Talk:
    """One client of the API, and both ends of its connection."""

    def __init__(self) -> None:
        self.loop, self.api = FakeLoop(), FakeApi()
        self.far, near = socket.socketpair()
        self.far.setblocking(False)
        near.setblocking(False)
        self.near = _socket.socket(fileno=near.detach())
        self.client = ApiConnection(self.api, self.loop, self.near)  # type: ignore[arg-type]

    def say(self, text: bytes) -> None:
        self.far.sendall(text)
        self.loop.handlers[self.near.fileno()](1)

    @property
    def over(self) -> bool:
        return bool(self.api.closed)


@pytest.fixture
def talk() -> Iterator[Talk]:
    talk = Talk()
    yield talk
    if not talk.over:
        talk.client.close()
    talk.far.close()


def test_silent_client_is_closed_after_a_minute(talk: Talk) -> None:
    talk.loop.pass_to(1059)
    assert not talk.over
    talk.loop.pass_to(1061)
    assert talk.over


def test_answered_client_may_be_idle_for_a_minute(talk: Talk) -> None:
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


def test_slow_request_is_closed_after_fifteen_seconds(talk: Talk) -> None:
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


def test_a_head_that_comes_a_byte_a_second_has_fifteen_seconds_in_all(talk: Talk) -> None:
    talk.loop.pass_to(1010)
    for second, byte in enumerate(GET[:15]):
        talk.loop.pass_to(1010 + second)
        assert not talk.over, f"let go after {second} s"
        talk.say(bytes([byte]))
    talk.loop.pass_to(1026)
    assert talk.over


def test_the_time_of_a_request_runs_over_head_and_body_together(talk: Talk) -> None:
    talk.say(b"POST /reset HTTP/1.1\r\n")
    talk.loop.pass_to(1010)
    talk.say(b"Host: a\r\nContent-Length: 5\r\n\r\n")
    talk.loop.pass_to(1014)
    talk.say(b"1234")
    assert not talk.over
    talk.loop.pass_to(1016)
    assert talk.over


def test_an_answered_request_gives_the_next_one_its_own_time(talk: Talk) -> None:
    talk.say(GET[:10])
    talk.loop.pass_to(1014)
    talk.say(GET[10:] + GET[:10])
    assert talk.far.recv(65536).count(b"yes") == 1
    talk.loop.pass_to(1028)
    assert not talk.over
    talk.say(GET[10:])
    assert talk.far.recv(65536).count(b"yes") == 1


def test_a_client_that_is_refused_is_read_from_for_half_a_second_and_not_answered_again(talk: Talk) -> None:
    talk.say(b"nonsense\r\n\r\n")
    assert talk.far.recv(65536).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    talk.say(GET)
    assert talk.far.recv(65536) == b""
    assert not talk.over
    talk.loop.pass_to(1000.6)
    assert talk.over


@pytest.mark.parametrize("version", [b"0.9", b"1.2", b"2.0", b"9.9"])
def test_another_version_of_http_is_a_505(talk: Talk, version: bytes) -> None:
    talk.say(GET.replace(b"1.1", version))
    assert talk.far.recv(65536).startswith(b"HTTP/1.1 505 HTTP Version Not Supported")


def test_a_handler_that_raises_is_a_500_and_the_connection_goes_on(talk: Talk) -> None:
    def fail(*_: object) -> Any:
        raise ValueError("broken")

    talk.api.answer = fail  # type: ignore[method-assign]
    for _ in range(2):
        talk.say(GET)
        assert b'{"error":"internal error: ValueError: broken","status":500}' in talk.far.recv(65536)


def test_an_answer_that_cannot_be_written_closes_the_connection_and_is_reported(talk: Talk) -> None:
    talk.api.answer = lambda *_: Response(200, b"x", content_type="bad\r\nheader")  # type: ignore[method-assign]
    with pytest.raises(Exception, match=r"[Ii]llegal header"):
        talk.say(GET)
    assert talk.over
