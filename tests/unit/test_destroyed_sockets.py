"""The kernel's notices of destroyed sockets arrive, or their absence is known."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import sys
from collections.abc import Callable

import pytest

from pytest_resilience import destroyed_sockets
from pytest_resilience.destroyed_sockets import DestroyedSockets, NoticesDropped, NotReported, wait_for_notices
from pytest_resilience.wire import sock_diag
from pytest_resilience.wire.sock_diag import TcpSocket
from tests.support.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sock_diag is Linux'")


def subscribed(promise: Callable[[DestroyedSockets], None]) -> None:
    """Check a promise with a subscription of its own, again where tests beside it destroy so many sockets that the kernel drops notices."""

    def attempt() -> bool:
        with contextlib.closing(DestroyedSockets()) as destroyed, contextlib.suppress(NoticesDropped):
            promise(destroyed)
            return True
        return False

    until(attempt, within=20)


def cookie_of(sock: socket.socket) -> int:
    return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, destroyed_sockets._SO_COOKIE, 8), sys.byteorder)


def test_the_notices_of_all_processors_are_awaited() -> None:
    allowed = os.sched_getaffinity(0)

    def promise(destroyed: DestroyedSockets) -> None:
        cookies = destroyed_sockets._destroy_sockets()
        assert len(cookies) >= len(allowed)
        assert cookies <= {each.cookie for each in destroyed.all()}

    for _ in range(50):
        subscribed(promise)
    assert os.sched_getaffinity(0) == allowed


def test_a_notice_that_does_not_arrive_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def promise(destroyed: DestroyedSockets) -> None:
        with pytest.raises(NotReported) as error:
            destroyed.all()
        if error.type is NoticesDropped:
            raise error.value
        assert not wait_for_notices()

    monkeypatch.setattr(destroyed_sockets, "NOTICE_TIMEOUT", 0.05)
    with socket.socket() as alive:
        cookie = cookie_of(alive)
        monkeypatch.setattr(destroyed_sockets, "_destroy_sockets", lambda: {cookie})
        subscribed(promise)


def test_notices_that_are_dropped_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sock_diag, "EVENT_BUFFER", 4096)
        destroyed = DestroyedSockets()
    with contextlib.closing(destroyed):
        for _ in range(100):
            socket.socket().close()
        until(wait_for_notices, within=20)
        with pytest.raises(NoticesDropped):
            list(destroyed.reported())


def test_a_process_with_many_descriptors_can_wait() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip(f"this user may have {hard} descriptors only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        while stack.enter_context(socket.socket()).fileno() < 1100:
            pass
        assert wait_for_notices()


@pytest.mark.parametrize(("times", "complete"), [(2, True), (10**9, False)])
def test_the_wait_begins_again_when_notices_are_dropped(
    monkeypatch: pytest.MonkeyPatch, times: int, complete: bool
) -> None:
    """Other programs may destroy many sockets meanwhile."""
    drops = iter(range(times))

    def drop(_: DestroyedSockets) -> list[TcpSocket]:
        if next(drops, None) is not None:
            raise NoticesDropped
        return []

    monkeypatch.setattr(destroyed_sockets, "NOTICE_TIMEOUT", 0.05)
    monkeypatch.setattr(DestroyedSockets, "all", drop)
    assert wait_for_notices() is complete


def test_all_subscribers_have_the_notices_of_destroyed_sockets() -> None:
    def promise(destroyed: DestroyedSockets) -> None:
        with socket.socket() as each:
            cookie = cookie_of(each)
        assert wait_for_notices()
        assert cookie in {notice.cookie for notice in destroyed.reported()}

    for _ in range(50):
        subscribed(promise)
