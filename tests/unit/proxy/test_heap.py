"""The memory that toxics hold is bounded by shares and released when half of the peak is gone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_resilience.proxy import heap
from pytest_resilience.proxy.event_loop import Timer
from pytest_resilience.proxy.heap import CHECK_INTERVAL, MAX_HELD_BYTES, MIN_HELD_BYTES, HeldMemory


class FakeLoop:
    def __init__(self) -> None:
        self.timers: list[Timer] = []

    def now(self) -> float:
        return 0.0

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        assert when == CHECK_INTERVAL
        self.timers.append(Timer(when, call))
        return self.timers[-1]

    def fire(self) -> None:
        call = self.timers.pop().call
        assert call is not None
        call()


class Held:
    """A HeldMemory over a number of queued bytes, with the releases that it made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = FakeLoop()
        self.queued = 0
        self.releases = 0
        self.connections: list[int] = []
        self.toxics: list[int] = []
        monkeypatch.setattr(heap, "release_free_memory", self._release)
        self.memory = HeldMemory(self.loop, self.connections, self.toxics, lambda: self.queued)  # type: ignore[arg-type]

    def _release(self) -> None:
        self.releases += 1


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(monkeypatch)


@pytest.mark.parametrize(
    ("connections", "toxics", "limit"),
    [(0, 0, MAX_HELD_BYTES), (1, 1, MAX_HELD_BYTES), (4, 2, MAX_HELD_BYTES // 8), (10_000, 1, MIN_HELD_BYTES)],
)
def test_queue_limit_is_a_share_of_the_bound(held: Held, connections: int, toxics: int, limit: int) -> None:
    held.connections += range(connections)
    held.toxics += range(toxics)
    assert held.memory.queue_limit() == limit


def test_memory_is_released_when_half_of_the_peak_is_gone(held: Held) -> None:
    held.queued = 1_000_000
    held.memory.watch()
    held.memory.watch()
    assert len(held.loop.timers) == 1
    held.loop.fire()
    held.queued = 500_000
    held.loop.fire()
    assert held.releases == 0
    held.queued = 499_999
    held.loop.fire()
    assert held.releases == 1


def test_checks_end_when_little_is_held(held: Held) -> None:
    held.memory.watch()
    held.loop.fire()
    assert (held.releases, held.loop.timers) == (1, [])


def test_memory_of_a_closed_connection_is_released_although_no_check_saw_it(held: Held) -> None:
    held.queued = 100_000
    held.memory.watch()
    held.memory.add_freed(MIN_HELD_BYTES)
    held.memory.add_freed(200_000)
    held.loop.fire()
    assert held.releases == 1
