"""The kernel's notices of destroyed sockets arrive, or their absence is known."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator

import pytest

from pytest_resilience import destroyed_sockets
from pytest_resilience.destroyed_sockets import DestroyedSockets, NotReported, wait_for_notices

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sock_diag is Linux'")


@pytest.fixture
def destroyed() -> Iterator[DestroyedSockets]:
    destroyed = DestroyedSockets()
    yield destroyed
    destroyed.close()


def test_the_notices_of_all_processors_are_awaited(destroyed: DestroyedSockets) -> None:
    allowed = os.sched_getaffinity(0)
    for _ in range(50):
        cookies = destroyed_sockets._destroy_sockets()
        assert len(cookies) >= len(allowed)
        assert cookies <= {each.cookie for each in destroyed.all()}
    assert os.sched_getaffinity(0) == allowed


def test_a_notice_that_does_not_arrive_is_an_error(
    destroyed: DestroyedSockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destroyed_sockets, "NOTICE_TIMEOUT", 0.05)
    with socket.socket() as alive:
        cookie = int.from_bytes(alive.getsockopt(socket.SOL_SOCKET, destroyed_sockets._SO_COOKIE, 8), sys.byteorder)
        monkeypatch.setattr(destroyed_sockets, "_destroy_sockets", lambda: {cookie})
        with pytest.raises(NotReported):
            destroyed.all()
        assert not wait_for_notices()


def test_all_subscribers_have_the_notices_of_destroyed_sockets(destroyed: DestroyedSockets) -> None:
    for _ in range(50):
        with socket.socket() as each:
            cookie = int.from_bytes(each.getsockopt(socket.SOL_SOCKET, destroyed_sockets._SO_COOKIE, 8), sys.byteorder)
        assert wait_for_notices()
        assert cookie in {notice.cookie for notice in destroyed.reported()}
