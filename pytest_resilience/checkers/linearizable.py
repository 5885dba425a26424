"""The checker of linearizable registers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import SetupError
from ..history import History
from ..operation import Operation, Verdict
from .checker import MAX_WITNESS, Checker
from .register import ABSENT, Action, State, Value, by_key, comparable, register
from .wgl import Search

BUDGET = 1_000_000  # steps; 100,000 operations on 100 registers take about 250,000
MAX_UNKNOWN = 32  # writes of one register; with more of them, nearly every history has an order

Registers = dict[str, list[Operation]]


@dataclass(frozen=True)
class Linearizable(Checker):
    """Each key is a linearizable register.

    Some order of the operations on a key respects real time (an operation that ended before another one began comes first), and in
    it each operation returns and requires the register's state at its place. The keys are judged one by one, because a history is
    linearizable exactly if its part on each key is (P-compositionality).

    - "create", "update" and "delete" ("write", too) set the state, and a read returns it. A deleted or missing object is None.
      If versions are known, a read also has to return the version.
    - A write with `expected` is a compare-and-set of the version, or of the value if no operation on the key has a version. A "cas"
      with the value [old, new] is one of the value.
    - A write with an unknown outcome happens at any time after it began, or never. Failed writes and reads without an answer do
      not count, nor do reads with the state "stale", which admit their age. Lists and other kinds of operation are ignored.
    - A key begins as a missing object if its first operation is a create. Otherwise its first state is unknown, and the first read
      of it defines it.

    Cost: exponential in the number of operations at once, not in their total; about 2.5 steps an operation of four clients.
    Unknown: no operation on a register is ok, the budget is spent, or a key has more than 32 writes with an unknown outcome and
    no violation.
    Source: Wing & Gong 1993; Lowe 2017; P-compositionality: Horn & Kroening 2015; Porcupine's `checker.go`.

    Args:
        budget: the steps of the search for all keys together, and again for a minimal witness. A step takes about 2 microseconds.
    """

    name: ClassVar[str] = "linearizable"
    budget: int = BUDGET

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise SetupError(f"linearizable: budget must be 1 step or more, got {self.budget!r}")

    def judge(self, history: History) -> Verdict:
        registers = by_key(history.operations)
        if not any(each.type == "ok" for own in registers.values() for each in own):
            return self.unknown("no operation on a register succeeded")
        undecided, left = list(registers), self.budget
        for limit in (self.budget // len(registers), self.budget):
            undecided, left, broken = _search(registers, undecided, left, limit)
            if broken is not None:
                return self._broken(broken, registers[broken], history)
        if undecided:
            return self.unknown(
                f"{self.budget} steps found neither an order of the operations on key {undecided[0]} nor a contradiction"
            )
        return self._crowded(registers) or self.ok()

    def _crowded(self, registers: Registers) -> Verdict | None:
        for key, own in registers.items():
            count = sum(each.type == "info" for each in own)
            if count > MAX_UNKNOWN:
                return self.unknown(f"key {key} has {count} writes with an unknown outcome, more than {MAX_UNKNOWN}")
        return None

    def _broken(self, key: str, operations: list[Operation], history: History) -> Verdict:
        witness = _smallest(operations, self.budget)
        search = Search(register(witness, operations), self.budget)
        search.run()
        stuck = search.stuck()[0]
        numbers = {each.index for each in witness}
        proof = [each for each in operations if each.index in numbers]
        why = f"key {key}: {_words(stuck)}"
        if stuck.reads and not _made(stuck, operations) and stuck.state.value is not ABSENT:
            failed = _made(stuck, [each for each in history.operations if each.key == key and each.type == "fail"])
            return self.violated(
                f"{why}, which {'only a failed write' if failed else 'nothing'} had written", failed + proof
            )
        why += f", but the longest order of the operations before ends with {_state_words(search.deepest.state)}"
        return self.violated(why, _last(proof, stuck.operation))


def _search(registers: Registers, keys: Sequence[str], budget: int, limit: int) -> tuple[list[str], int, str | None]:
    """Search an order for each key.

    Args:
        registers: the operations by key.
        keys: those to search.
        budget: the steps for all of them.
        limit: the steps for one of them.

    Returns:
        The undecided keys, the steps left, and the first key without an order.
    """
    undecided: list[str] = []
    for key in keys:
        search = Search(register(registers[key]), min(budget, limit))
        found = search.run()
        budget = max(0, budget - search.steps)
        if found is False:
            return [], budget, key
        if found is None:
            undecided.append(key)
    return undecided, budget, None


def _smallest(operations: list[Operation], budget: int) -> list[Operation]:
    """Return as few of the operations as possible, which have no order either, by delta debugging (Zeller 2002).

    Reads may be left out, and so may writes on which none of the other operations depends. If there is no order without the
    conditions of conditional writes, then there is none with them.
    """
    unconditional = [_unconditional(each) for each in operations]
    search = Search(register(unconditional), budget)
    kept, size = unconditional if search.run() is False else operations, len(operations)
    budget -= search.steps
    while size and budget > 0:
        before = len(kept)
        for start in range(0, before, size):
            fewer = _with_sources(kept, [*kept[:start], *kept[start + size :]])
            if 0 < len(fewer) < len(kept):
                search = Search(register(fewer, operations), budget)
                kept = fewer if search.run() is False else kept
                budget -= search.steps + len(fewer)
        if size > 1 or len(kept) == before:
            size //= 2
    return kept


def _with_sources(operations: Sequence[Operation], some: Sequence[Operation]) -> list[Operation]:
    """Return some operations with all those that may have made what they read or required, in order."""
    chosen = {each.index for each in some}
    while True:
        own = [each for each in operations if each.index in chosen]
        values = {comparable(each.value) for each in own if each.f == "read"}
        versions = {each.expected for each in own if each.expected is not None}
        unclear = bool(versions) or any(each.f == "cas" for each in own)
        sources = {each.index for each in operations if _is_source(each, values, versions, unclear)}
        if sources <= chosen:
            return own
        chosen |= sources


def _is_source(operation: Operation, values: set[Any], versions: set[int], unclear: bool) -> bool:
    """True if a write may have made one of some values or versions.

    Args:
        operation: the write.
        values: those that are read.
        versions: those that are required.
        unclear: True if a write without a known version counts, too.
    """
    if operation.f == "read":
        return False
    made = ABSENT if operation.f == "delete" else comparable(operation.value)
    unknown = operation.value is None and operation.f != "delete"
    return made in values or operation.version in versions or unknown or (unclear and operation.version is None)


def _unconditional(operation: Operation) -> Operation:
    """Return a conditional write as one that requires nothing."""
    if operation.f == "cas" and isinstance(operation.value, list | tuple):
        return operation._replace(f="update", value=operation.value[-1])
    return operation._replace(expected=None)


def _made(read: Action, operations: Sequence[Operation]) -> list[Operation]:
    """Return the writes of the value of a read."""
    writes = [_unconditional(each) for each in operations if each.f != "read"]
    return [each for each in writes if comparable(each.value) == read.state.value]


def _last(witness: list[Operation], stuck: Operation) -> list[Operation]:
    """Return at most ten operations of a witness: the stuck one and the last of the others."""
    others = sorted((each for each in witness if each.index != stuck.index), key=lambda each: each.end)
    return [*others[1 - MAX_WITNESS :], *(each for each in witness if each.index == stuck.index)]


def _words(action: Action) -> str:
    """Return an action in words."""
    operation = action.operation
    times = f"from {operation.time:.3f} s to {operation.end:.3f} s"
    if action.reads:
        return f"the read {times} returned {_state_words(action.state)}"
    needed = _value_words(action.value[0]) if action.value else f"version {action.version}"
    return f"the {operation.f} {times} required {needed}"


def _state_words(state: State) -> str:
    version = f" in version {state.version}" if state.version else ""
    return _value_words(state.value) + version


def _value_words(value: Any) -> str:
    return value.name if isinstance(value, Value) else repr(value)


def linearizable(*, budget: int = BUDGET) -> Linearizable:
    """Return the checker that each key is a linearizable register.

    Args:
        budget: the steps of the search, after which the verdict is unknown.

    Raises:
        SetupError: `budget` is below 1.
    """
    return Linearizable(budget)
