"""The check for leaks waits for what is about to be released."""

from __future__ import annotations

import asyncio

from pytest_resilience.leaks.check import LeakCheck
from pytest_resilience.leaks.compare import Leak
from pytest_resilience.leaks.findings import Finding
from tests.support.clocks import FakeClock


class SlowCheck(LeakCheck):
    """A check whose looks take longer than its patience. A socket is open until its event loop has run."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loops = [loop]
        self._clock = FakeClock()
        self._allowed = []
        self._timeout, self._server_timeout = 0.5, 3.0
        self._closed_with_loops = {}
        self._reported_sockets = set()
        self.is_closed = False
        loop.call_soon(setattr, self, "is_closed", True)

    def _find(self) -> list[Finding]:
        self._clock.sleep(1.0)
        return [] if self.is_closed else [Finding(Leak("socket:127.0.0.1:1", "a socket without a peer"), "socket")]


def test_an_idle_event_loop_gets_a_turn_although_one_look_takes_all_of_the_time() -> None:
    loop = asyncio.new_event_loop()
    try:
        assert SlowCheck(loop).leaks() == []
    finally:
        loop.close()
