"""The readiness loop keeps timers in order and on time with both pollers, and survives a handler that raises."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pytest_resilience.proxy.event_loop import IN, OUT, EventLoop
from pytest_resilience.proxy.log import Log


@pytest.fixture(params=[False, True], ids=["epoll", "selectors"])
def loop(request: pytest.FixtureRequest) -> Iterator[EventLoop]:
    loop = EventLoop(on_error=broken.append, portable=request.param)
    yield loop
    loop.close()
    broken.clear()


broken: list[Exception] = []


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_timers_fire_in_order_and_never_early(loop: EventLoop) -> None:
    start = loop.now()
    fired: list[tuple[str, float]] = []
    for name, after in (("c", 0.006), ("a", 0.0), ("b", 0.003)):
        loop.call_at(start + after, lambda name=name, after=after: fired.append((name, loop.now() - start - after)))  # type: ignore[misc]
    loop.call_at(start + 0.002, lambda: fired.append(("never", 0))).cancel()
    loop.call_at(start + 0.007, loop.stop)
    loop.run()
    assert [name for name, _ in fired] == ["a", "b", "c"]
    assert min(late for _, late in fired) >= 0


def test_handlers_are_called_for_watched_events(loop: EventLoop, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    seen: list[int] = []

    def on_read(events: int) -> None:
        seen.append(events)
        os.read(reader, 1)
        loop.watch(reader, 0, IN)
        loop.unregister(reader, 0)
        loop.handlers[writer] = on_write
        loop.watch(writer, OUT, 0)

    def on_write(events: int) -> None:
        seen.append(events)
        loop.unregister(writer, OUT)
        loop.stop()

    loop.handlers[reader] = on_read
    loop.watch(reader, IN, 0)
    os.write(writer, b"x")
    loop.run()
    assert seen == [IN, OUT]


def test_handler_that_breaks_does_not_end_the_loop(loop: EventLoop) -> None:
    now = loop.now()
    loop.call_at(now, lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    loop.call_at(now + 0.001, loop.stop)
    loop.run()
    assert [type(error) for error in broken] == [ZeroDivisionError]


def lines_of(level: str) -> list[str]:
    lines: list[str] = []
    log = Log(level, lines.append)
    log.info("i", name='a"b\n')
    log.warning("w")
    log.error("e")
    log.announce("a")
    return lines


@pytest.mark.parametrize(
    ("level", "messages"),
    [
        ("", "iwea"),
        ("trace", "iwea"),
        ("info", "iwea"),
        ("warn", "wea"),
        ("ERROR", "ea"),
        ("fatal", "a"),
        ("panic", "a"),
    ],
)
def test_log_level(level: str, messages: str) -> None:
    import json

    entries = [json.loads(line) for line in lines_of(level)]
    assert "".join(entry["message"] for entry in entries) == messages
    assert all(entry["time"].endswith("Z") for entry in entries)


def test_unknown_log_level_is_reported_and_ignored() -> None:
    assert len(lines_of("loud")) == 5
