"""A system without servers, and workloads without requests, for tests of the runner."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from pytest_resilience.clock import SYSTEM, Clock
from pytest_resilience.faults.fault import Receipt, Strike
from pytest_resilience.history import Client, History, recording
from pytest_resilience.runner.system import ReadyAnswer
from pytest_resilience.schedule import Step


class FakeStrike:
    """A strike that tests let touch things, or fail to heal.

    Attributes:
        touched, unit: of its receipt.
        heal_errors: what the next attempts to heal raise.
    """

    def __init__(self, step: Step, system: FakeSystem) -> None:
        self.touched: int | None = 0
        self.unit = "commands"
        self.heal_errors: list[Exception] = []
        self.step = step
        self._system = system

    def heal(self) -> None:
        self._system.calls.append(f"heal {self.step.fault}")
        if self.heal_errors:
            raise self.heal_errors.pop(0)

    def receipt(self) -> Receipt:
        return Receipt(self.touched, self.unit)


class FakeWatch:
    """A count of statements that tests set."""

    def __init__(self, system: FakeSystem, target: str, verb: str) -> None:
        self._system = system
        self._event = target, verb

    def count(self) -> int | None:
        return self._system.statements[self._event]

    def close(self) -> None:
        self._system.calls.append(f"unwatch {' '.join(self._event)}")


class FakeSystem:
    """The targets of a test, of which all calls are kept.

    Attributes:
        calls: "strike redis.oom", "heal redis.oom" and what tests append, in order.
        struck: the strikes by the name of their fault.
        errors: what a strike of a fault raises, by its name.
        accepted: the connections of each server.
        open: the open connections of each server.
        statements: the number of statements by server and verb, for those that can be watched.
        status: of the readiness path.
    """

    def __init__(self, clock: Clock = SYSTEM, *, has_service: bool = False) -> None:
        self.clock = clock
        self.history = History(start=clock.now(), clock=clock)
        self.has_service = has_service
        self.calls: list[str] = []
        self.struck: dict[str, FakeStrike] = {}
        self.errors: dict[str, Exception] = {}
        self.accepted = {"redis": 0, "postgres": 0}
        self.open: dict[str, int] = {}
        self.statements: dict[tuple[str, str], int] = {}
        self.status: int | None = 200
        self.on_strike: Callable[[FakeStrike], object] = lambda strike: None

    @property
    def resilience(self) -> Any:
        return self

    @property
    def targets(self) -> list[str]:
        return list(self.accepted)

    def strike(self, step: Step) -> Strike:
        self.calls.append(f"strike {step.fault}")
        if step.fault in self.errors:
            raise self.errors[step.fault]
        fake = self.struck[step.fault] = FakeStrike(step, self)
        self.on_strike(fake)
        with recording(self.history):
            return Strike(step.fault, step.to_fault(), heal=fake.heal, read_receipt=fake.receipt, clock=self.clock)

    def connections(self, target: str) -> int | None:
        return self.accepted.get(target)

    def watch_statements(self, target: str, verb: str) -> FakeWatch | None:
        if (target, verb) not in self.statements:
            return None
        self.calls.append(f"watch {target} {verb}")
        return FakeWatch(self, target, verb)

    def open_connections(self, target: str) -> int | None:
        return self.open.get(target)

    def counters(self, target: str) -> object:
        return object()

    def commands(self, target: str) -> int | None:
        return 7

    def ready(self, within: float) -> ReadyAnswer:
        return ReadyAnswer(self.status)


class FakeWorkload:
    """Operations that record their number.

    Attributes:
        calls: a call for each operation and for `begin`, `read_all` and `end`.
        work: called in each operation of a run with its number.
    """

    kinds: tuple[str, ...] = ("update", "read")

    def __init__(self, calls: list[str], work: Callable[[int], object] = lambda n: None) -> None:
        self.calls = calls
        self.work = work
        self._lock = threading.Lock()

    def begin(self, resilience: Any) -> None:
        self.calls.append("begin")

    def end(self) -> None:
        self.calls.append("end")

    def kind(self, n: int) -> str:
        return self.kinds[n % len(self.kinds)]

    def perform(self, client: Client, kind: str, n: int) -> None:
        if client.history.phase != "run":
            client.invoke(kind, key="1").ok()
            return
        with self._lock:
            self.calls.append(f"operation {n}")
            invocation = client.invoke(kind, key="1")
        self.work(n)
        invocation.ok()

    def read_all(self, client: Client) -> None:
        self.calls.append("read all")


class AsyncFakeWorkload(FakeWorkload):
    """Operations of an event loop.

    Args:
        calls: as for `FakeWorkload`.
        wait: awaited in each operation of a run with its number.
    """

    def __init__(self, calls: list[str], wait: Callable[[int], Any]) -> None:
        super().__init__(calls)
        self.wait = wait

    async def perform(self, client: Client, kind: str, n: int) -> None:  # type: ignore[override]
        invocation = client.invoke(kind, key="1")
        if client.history.phase == "run":
            self.calls.append(f"operation {n}")
            try:
                await self.wait(n)
            except BaseException as error:
                invocation.info(error)
                raise
        invocation.ok()
