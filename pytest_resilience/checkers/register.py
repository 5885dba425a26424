"""The register of one key, as the search for an order of its operations needs it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..operation import Operation

WRITES = ("create", "update", "delete", "write", "cas")
NOWHERE = float("inf")


class Value(NamedTuple):
    """A value that equals no value of a user.

    Args:
        name: for messages.
    """

    name: str


ABSENT = Value("no object")
ANY = Value("an unknown value")


class State(NamedTuple):
    """The state of a register.

    Args:
        value: in comparable form; ABSENT for a missing object, ANY for an unknown value.
        version: None for an unknown version; 0 for a missing object.
    """

    value: Any
    version: int | None


NEW = State(ABSENT, 0)
UNKNOWN = State(ANY, None)


class Action(NamedTuple):
    """An operation that the search has to place.

    Args:
        call: when it began.
        limit: when it had happened at the latest; infinity if it need not have happened.
        reads: True if it returned the state, False if it made it.
        state: the state that it returned or made.
        version: the version that it required; None for any.
        value: the value that it required, in a tuple; None for any.
        operation: the operation.
    """

    call: float
    limit: float
    reads: bool
    state: State
    version: int | None
    value: tuple[Any] | None
    operation: Operation

    def on(self, state: State) -> State | None:
        """Return the state after the action in a state, or None if the action is impossible in it."""
        if self.reads:
            return self._read(state)
        if self.version is not None and state.version not in (None, self.version):
            return None
        if self.value is not None and state.value != self.value[0] and state.value is not ANY:
            return None
        return self.state

    def _read(self, state: State) -> State | None:
        """Return the state with what the read has revealed, or None if the read contradicts it."""
        value, version = self.state
        if state.value != value and state.value is not ANY:
            return None
        if version is None or version == state.version:
            return state if state.value is not ANY else State(value, state.version)
        return self.state if state.version is None else None


class Register(NamedTuple):
    """The actions on one key.

    Args:
        actions: those that have happened, in the order of their beginnings.
        maybe: the writes with an unknown outcome of which no read shows that they have happened.
        initial: the state before all of them.
        unknown: the number of all writes with an unknown outcome.
    """

    actions: list[Action]
    maybe: list[Action]
    initial: State
    unknown: int


def comparable(value: Any) -> Any:
    """Return a value in a form that can be hashed and compared: lists and mappings as JSON."""
    if isinstance(value, str | int | float | bytes):
        return value
    if value is None:
        return ABSENT
    return Value(json.dumps(value, sort_keys=True, default=str))


def by_key(operations: Iterable[Operation]) -> dict[str, list[Operation]]:
    """Return the operations on each register that may have happened, in order.

    Reads without an answer are left out, and so are reads with the state "stale", which admit their age.
    A create with an unknown outcome has no key. It belongs to the key at which its value was read.
    """
    keys: dict[str, list[Operation]] = {}
    without_key: dict[Any, Operation] = {}
    for each in operations:
        is_read = each.f == "read" and each.type == "ok" and each.state != "stale"
        if each.type == "fail" or not (is_read or each.f in WRITES):
            continue
        if each.key is not None:
            keys.setdefault(each.key, []).append(each)
        elif each.type == "info":
            without_key[comparable(each.value)] = each
    for own in keys.values() if without_key else ():
        shown = {comparable(each.value) for each in own if each.f == "read"}
        own += [without_key[value] for value in shown & without_key.keys()]
    return keys


def register(operations: Sequence[Operation], whole: Sequence[Operation] = ()) -> Register:
    """Return the register of one key.

    It begins as a missing object if a create is the first of all operations on the key, and in an unknown state otherwise.

    Args:
        operations: those on the key that may have happened.
        whole: all operations on the key, if `operations` are only some of them.
    """
    ordered = sorted(operations, key=lambda each: each.time)
    first = min(whole, key=lambda each: each.time) if whole else ordered[0]
    initial = NEW if first.f == "create" else UNKNOWN
    conditions = _Conditions(whole or ordered)
    actions = [conditions.action(each) for each in ordered]
    shown = _first_shown(actions) if initial is NEW else {}
    actions = [_closed(each, shown) for each in actions]
    maybe = [each for each in actions if each.limit == NOWHERE]
    if not any(each.version is not None or each.value is not None for each in actions):
        values = {each.state.value for each in actions if each.reads}
        maybe = [each for each in maybe if each.state.value in values or each.state.value is ANY]
    happened = [each for each in actions if each.limit < NOWHERE]
    return Register(happened, maybe, initial, sum(each.type == "info" for each in ordered))


class _Conditions:
    """The way in which conditional writes of one key name what they require.

    `expected` is a version. If no operation on the key has a version, it is a value, provided that each of them was read or written.
    """

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._versions = any(each.version is not None for each in operations)
        expected = {comparable(each.expected) for each in operations if each.expected is not None}
        self._values = not self._versions and expected <= {comparable(each.value) for each in operations}

    def action(self, operation: Operation) -> Action:
        """Return the action of an operation."""
        made, version, value = operation.value, None, None
        if operation.f == "cas" and isinstance(made, list | tuple) and len(made) == 2:
            value, made = (comparable(made[0]),), made[1]
        elif operation.expected is not None and self._versions:
            version = operation.expected
        elif operation.expected is not None and self._values:
            value = (comparable(operation.expected),)
        limit = operation.end if operation.type == "ok" else NOWHERE
        state = _state(operation, made)
        return Action(operation.time, limit, operation.f == "read", state, version, value, operation)


def _state(operation: Operation, made: Any) -> State:
    """Return the state that an operation returned or made. A write without a value makes an unknown one."""
    if operation.f == "delete" or (operation.f == "read" and made is None):
        return NEW
    return State(ANY if made is None else comparable(made), operation.version)


def _first_shown(actions: Iterable[Action]) -> Mapping[Any, float]:
    """Return when each value that only one write can have made had been read first."""
    writes: dict[Any, int] = {}
    shown: dict[Any, float] = {}
    for each in actions:
        if each.reads:
            shown[each.state.value] = min(each.limit, shown.get(each.state.value, NOWHERE))
        else:
            writes[each.state.value] = writes.get(each.state.value, 0) + 1
    if ANY in writes:
        return {}
    return {value: end for value, end in shown.items() if writes.get(value) == 1 and value is not ABSENT}


def _closed(action: Action, shown: Mapping[Any, float]) -> Action:
    """Return an unknown write that was read as one that had happened by then. Others are returned as they are."""
    limit = shown.get(action.state.value, NOWHERE) if action.limit == NOWHERE else NOWHERE
    return action._replace(limit=limit) if action.call <= limit < NOWHERE else action
