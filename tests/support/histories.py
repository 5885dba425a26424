"""Histories for tests of checkers: written by hand, or of a simulated store that keeps every promise."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pytest_resilience.history import History
from pytest_resilience.operation import FaultMark, Operation, Phase, PhaseMark, Record

INFINITY = float("inf")


def history(*operations: Operation, faults: Iterable[tuple[float, float | None]] = ()) -> History:
    """Return a history of operations in the order in which they began, with indexes from 0 on, and of faults.

    Args:
        operations: the operations, as `op` returns them.
        faults: the times of strike and heal of each fault.
    """
    records: list[Record] = []
    for number, (struck, healed) in enumerate(faults):
        records.append(FaultMark("strike", "redis.refuse", struck, number))
        if healed is not None:
            records.append(FaultMark("heal", "redis.refuse", healed, number, 1, "connections"))
    ordered = sorted(operations, key=lambda each: each.time)
    return History.of([*records, *(each._replace(index=index) for index, each in enumerate(ordered))])


def op(client: int, f: str, time: float, key: str | None = None, value: Any = None, **fields: Any) -> Operation:
    """Return an operation that lasts 0.5 s, unless `end` says otherwise. Its index comes with `history`."""
    defaults: dict[str, Any] = {"end": time + 0.5, "client": client, "process": client}
    return Operation(0, f=f, time=time, key=key, value=value, **{**defaults, **fields})


@dataclass
class Mix:
    """The settings of a simulated run.

    Attributes:
        clients: their number, each with one operation at a time.
        keys: the number of keys of a store of registers. The store of a mix with `ids` has as many as are created.
        operations: the number of operations, without the reads at the end.
        info: the share of operations with an unknown outcome.
        fail: the share of operations that are refused before the heal.
        kinds: the kinds of operation, as often as they stand here.
        ids: True if the store chooses the key of each object, so that a create with an unknown outcome has none.
        versions: True if writes and reads have versions. They restart at 1 when a key is created again.
        late: seconds after which an operation with an unknown outcome may still happen.
        final: True if the recovery phase ends with a read of each key and a list by each client.
    """

    clients: int = 3
    keys: int = 2
    operations: int = 20
    info: float = 0.15
    fail: float = 0.1
    kinds: tuple[str, ...] = ("create", "read", "read", "update", "update", "update", "delete", "list")
    ids: bool = False
    versions: bool = True
    late: float = 10.0
    final: bool = True


@dataclass
class _Pending:
    """An operation that has begun. Its fields are those of `Operation`."""

    index: int
    client: int
    process: int
    f: str
    key: str | None
    value: Any
    time: float
    end: float
    phase: Phase
    expected: int | None
    outcome: str
    seen: dict[str, Any] = field(default_factory=dict)


class _Store:
    """A linearizable store: each operation takes effect at one moment between its begin and its end."""

    def __init__(self, mix: Mix) -> None:
        self.mix = mix
        self.objects: dict[str, tuple[Any, int]] = {}
        self.ids = itertools.count(1)

    def perform(self, each: _Pending) -> dict[str, Any]:
        """Return what the answer to an operation shows, or the error with which it is refused."""
        if each.f == "list":
            return {"value": {key: value for key, (value, _) in self.objects.items()}}
        if each.f == "create" and each.key is None:
            each.key = str(next(self.ids))
        assert each.key is not None
        value, version = self.objects.get(each.key, (None, None))
        if each.f == "read":
            return {"value": value, "version": version if self.mix.versions else None}
        return self.write(each, each.key, version)

    def write(self, each: _Pending, key: str, version: int | None) -> dict[str, Any]:
        if (version is None) != (each.f == "create"):
            return {"error": "409" if each.f == "create" else "404"}
        if each.expected is not None and each.expected != version:
            return {"error": "412"}
        if each.f == "delete":
            del self.objects[key]
            return {}
        self.objects[key] = (each.value, (version or 0) + 1)
        return {"key": key, "version": self.objects[key][1] if self.mix.versions else None}


def true_history(chance: random.Random, mix: Mix | None = None) -> History:
    """Return the history of a correct store with concurrent clients, unknown outcomes, two faults and all phases.

    Args:
        chance: decides on everything, so that equal seeds give equal histories.
        mix: the settings; None for the defaults.
    """
    return _Simulation(chance, mix or Mix()).run()


class _Simulation:
    def __init__(self, chance: random.Random, mix: Mix) -> None:
        self.chance = chance
        self.mix = mix
        self.store = _Store(mix)
        self.events: list[tuple[float, int, Callable[[float], object]]] = []
        self.order = itertools.count()
        self.indexes = itertools.count()
        self.processes = itertools.count(mix.clients)
        self.process = list(range(mix.clients))
        self.left = mix.operations
        self.records: list[Record] = []
        self.ended: list[Operation] = []
        self.known = [] if mix.ids else [f"k{n}" for n in range(mix.keys)]
        self.versions_seen: dict[tuple[int, str], int] = {}
        length = mix.operations / mix.clients * 0.02
        self.struck, self.healed, self.recovery = 0.2 * length, 0.6 * length, 0.7 * length

    def at(self, time: float, action: Callable[[float], object]) -> None:
        heapq.heappush(self.events, (time, next(self.order), action))

    def run(self) -> History:
        for client in range(self.mix.clients):
            self.at(self.chance.uniform(0, 0.01), partial(self.begin, client))
        while self.events:
            now, _, action = heapq.heappop(self.events)
            action(now)
        return History.of([*self.marks(), *sorted(self.ended, key=lambda each: each.end)])

    def marks(self) -> list[Record]:
        phases: list[tuple[Phase, float]] = [("baseline", 0.0), ("run", self.struck), ("heal", self.healed)]
        marks: list[Record] = [PhaseMark(phase, time) for phase, time in [*phases, ("recovery", self.recovery)]]
        for number, (struck, healed) in enumerate([(self.struck, self.healed), (self.struck * 1.1, self.healed * 0.9)]):
            marks.append(FaultMark("strike", "redis.refuse", struck, number))
            marks.append(FaultMark("heal", "redis.refuse", healed, number, 1, "connections"))
        return marks

    def phase(self, now: float) -> Phase:
        if now >= self.recovery:
            return "recovery"
        return "heal" if now >= self.healed else "run" if now >= self.struck else "baseline"

    def finish(self, client: int, now: float) -> None:
        """Read each key and list, one after the other, while other clients may still have an operation in flight."""
        now = max(now, self.recovery)
        for f, key in [*(("read", key) for key in self.keys()), ("list", None)]:
            now += 0.001
            end = now + self.chance.uniform(0.0001, 0.0009)
            self.at(now, partial(self.start, client, f, key, None, outcome="ok", end=end))

    def keys(self) -> list[str]:
        return self.known or ["1"]

    def begin(self, client: int, now: float) -> None:
        if self.left <= 0:
            if self.mix.final:
                self.finish(client, now)
            return
        self.left -= 1
        f = self.chance.choice(self.mix.kinds)
        key = None if f == "list" or (f == "create" and self.mix.ids) else self.chance.choice(self.keys())
        expected = self.versions_seen.get((client, key or "")) if f in ("update", "delete") else None
        fail = self.mix.fail if now < self.healed else 0.0
        outcome = self.chance.choices(("info", "fail", "ok"), (self.mix.info, fail, 1 - self.mix.info - fail))[0]
        end = now + self.chance.uniform(0.001, 0.03)
        self.start(client, f, key, expected if self.chance.random() < 0.5 else None, now, end, outcome)
        self.at(end + self.chance.uniform(0.0001, 0.01), lambda then: self.begin(client, then))

    def start(
        self, client: int, f: str, key: str | None, expected: int | None, now: float, end: float, outcome: str
    ) -> None:
        index = next(self.indexes)
        value = f"w{client}.{index}" if f in ("create", "update") else None
        each = _Pending(
            index, client, self.process[client], f, key, value, now, end, self.phase(now), expected, outcome
        )
        if outcome == "info":
            self.process[client] = next(self.processes)
            self.ended.append(self.operation(each))
            if self.chance.random() < 0.6:
                late = self.chance.choice((end - now, end - now, self.mix.late))
                self.at(now + self.chance.uniform(0, late), lambda _: self.store.perform(each))
        elif outcome == "fail":
            self.ended.append(self.operation(each, error="503"))
        else:
            self.at(self.chance.uniform(now, end), lambda _: self.take_effect(each))

    def take_effect(self, each: _Pending) -> None:
        given = each.key
        seen = self.store.perform(each)
        if "error" in seen:
            each.outcome, each.key = "fail", given
        elif each.key is not None and seen.get("version") is not None:
            self.versions_seen[each.client, each.key] = seen["version"]
        if each.key is not None and each.f == "create" and self.mix.ids:
            self.known.append(each.key)
        self.ended.append(self.operation(each, **seen))

    @staticmethod
    def operation(each: _Pending, **seen: Any) -> Operation:
        fields: Mapping[str, Any] = {
            "index": each.index,
            "process": each.process,
            "f": each.f,
            "key": each.key,
            "value": each.value,
            "type": each.outcome,
            "time": each.time,
            "end": each.end,
            "expected": each.expected,
            "error": None if each.outcome == "ok" else "ReadTimeout",
            "phase": each.phase,
            "client": each.client,
        }
        return Operation(**{**fields, **seen})


def spoiled(true: History, index: int, **fields: Any) -> History:
    """Return the history with other fields of the operation with that index."""
    records = [
        each._replace(**fields) if isinstance(each, Operation) and each.index == index else each
        for each in true.records
    ]
    return History.of(records)
