"""Services start side by side, or after each other."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from pytest_resilience import Service, SetupError
from pytest_resilience.targets.starting import start_order, start_together
from tests.support.clocks import FakeClock


class Running:
    """A service that is ready after some checks.

    Args:
        name: its name in the events.
        checks: how many checks it needs; -1 to fail at the second one.
        events: all that happens, in order.
        after: the services before it.
    """

    def __init__(self, name: str, checks: int, events: list[str], after: tuple[str, ...] = ()) -> None:
        self.name, self.checks, self.events = name, checks, events
        self.spec = Service([name], after=after)

    def beginning(self) -> Generator[None]:
        self.start = self._begin()  # kept, so that only `close` ends it
        return self.start

    def _begin(self) -> Generator[None]:
        self.events.append(f"begin {self.name}")
        try:
            yield from [None] * abs(self.checks)
            if self.checks < 0:
                raise SetupError(f"{self.name} failed")
        except GeneratorExit:
            self.events.append(f"abandon {self.name}")
            raise
        self.events.append(f"ready {self.name}")


def started(*services: Running) -> None:
    named: dict[str, Any] = {each.name: each for each in services}
    start_together(named, FakeClock())


def test_services_are_checked_in_turn_so_that_they_start_side_by_side() -> None:
    events: list[str] = []
    started(Running("slow", 3, events), Running("fast", 1, events))
    assert events == ["begin slow", "begin fast", "ready fast", "ready slow"]


def test_a_service_begins_once_those_before_it_are_ready() -> None:
    events: list[str] = []
    started(Running("last", 1, events, ("a", "b")), Running("a", 2, events), Running("b", 1, events))
    assert events == ["begin a", "begin b", "ready b", "ready a", "begin last", "ready last"]


def test_the_first_failure_abandons_the_starts_that_are_under_way() -> None:
    events: list[str] = []
    with pytest.raises(SetupError, match="broken failed"):
        started(Running("slow", 9, events), Running("broken", -1, events), Running("after", 1, events, ("broken",)))
    assert events == ["begin slow", "begin broken", "abandon slow"]


def test_the_order_names_a_service_after_those_that_it_waits_for() -> None:
    specs = {"web": Service(["x"], after=("db",)), "worker": Service(["x"], after=("web", "db")), "db": Service(["x"])}
    assert start_order(specs) == ["db", "web", "worker"]


def test_an_unknown_name_and_a_circle_are_errors() -> None:
    with pytest.raises(SetupError, match="no service 'wbe'; did you mean 'web'"):
        start_order({"web": Service(["x"]), "worker": Service(["x"], after=("wbe",))})
    with pytest.raises(SetupError, match="in a circle: "):
        start_order({"a": Service(["x"], after=("b",)), "b": Service(["x"], after=("a",))})
