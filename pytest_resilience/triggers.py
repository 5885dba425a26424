"""The moments at which the steps of a schedule strike and heal, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .errors import ScheduleError, SetupError
from .faults.statements import checked_verb

MAX_OPERATIONS = 100_000  # of one episode
STRIKE_TRIGGERS = ("operations", "seconds", "connections", "statement", "after_heal")
HEAL_TRIGGERS = ("operations", "seconds", "touched", "end")
LEAST_COUNT = {"operations": 0, "connections": 1, "statement": 1, "touched": 1}
AFTER_HEAL_UNITS = ("operations", "seconds")


@dataclass(frozen=True, repr=False)
class Trigger:
    """The moment of a strike or a heal. The functions of this module make them.

    Args:
        kind: "operations", "seconds", "connections", "statement", "after_heal", "touched" or "end".
        value: the number that the kind takes; None for "end".
        unit: of the value of "after_heal": "operations" or "seconds"; "" otherwise.
        verb: of "statement", such as "commit" or "evalsha"; "" otherwise.
        server: of "statement", the name of the server whose statements count; "" for the target of the step.

    Raises:
        ScheduleError: there is no such kind, or the number does not fit it.
    """

    kind: str
    value: float | None = None
    unit: str = ""
    verb: str = ""
    server: str = ""

    def __post_init__(self) -> None:
        if self.kind == "statement":
            self._check_statement()
        if self.kind == "after_heal":
            if self.unit not in AFTER_HEAL_UNITS:
                raise ScheduleError(f"after_heal: takes {' or '.join(AFTER_HEAL_UNITS)}, got {self.unit!r}")
            self._check_number(f"after_heal.{self.unit}", self.unit)
        elif self.kind == "end":
            if self.value is not None:
                raise ScheduleError(f"end: takes no number, got {self.value!r}")
        elif self.kind == "seconds" or self.kind in LEAST_COUNT:
            self._check_number(self.kind, self.kind)
        else:
            raise ScheduleError(f"no trigger {self.kind!r}; there are: {', '.join(TRIGGERS)}")

    def _check_statement(self) -> None:
        try:
            object.__setattr__(self, "verb", checked_verb(self.verb))
        except SetupError as error:
            raise ScheduleError(f"statement.verb: {error}") from None
        if not isinstance(self.server, str):
            raise ScheduleError(f"statement.on: must be the name of a server, got {self.server!r}")

    def _check_number(self, name: str, unit: str) -> None:
        if unit == "seconds":
            object.__setattr__(self, "value", checked_seconds(name, self.value))
        else:
            checked_count(name, self.value, least=LEAST_COUNT[unit])

    def to_json(self) -> dict[str, Any]:
        """Return the trigger as a schedule's JSON has it, such as {"operations": 3}."""
        if self.kind == "after_heal":
            return {"after_heal": {self.unit: self.value}}
        if self.kind == "statement":
            return {"statement": {"verb": self.verb, "n": self.value} | ({"on": self.server} if self.server else {})}
        return {self.kind: True if self.value is None else self.value}

    def __repr__(self) -> str:
        if self.kind == "after_heal":
            return f"after_heal({self.unit}={self.value!r})"
        if self.kind == "statement":
            return f"statement({self.verb!r}, {self.value!r}{f', on={self.server!r}' if self.server else ''})"
        return f"{self.kind}({'' if self.value is None else repr(self.value)})"


TRIGGERS = tuple(dict.fromkeys((*STRIKE_TRIGGERS, *HEAL_TRIGGERS)))


def operations(n: int) -> Trigger:
    """Strike before operation `n` of the episode, from 0 on. As `until`: heal after `n` operations since the strike."""
    return Trigger("operations", n)


def seconds(s: float) -> Trigger:
    """Strike `s` seconds after the episode began. As `until`: heal `s` seconds after the strike."""
    return Trigger("seconds", s)


def connections(n: int) -> Trigger:
    """Strike as soon as the target's proxy has accepted `n` connections in the episode. For strikes at a wire event."""
    return Trigger("connections", n)


def statement(verb: str, n: int = 1, *, on: str = "") -> Trigger:
    """Strike as soon as `n` matching statements of Postgres or commands of Redis have been sent in the episode.

    Args:
        verb: such as "commit" or "evalsha"; "insert|update" has alternatives.
        n: their number, of all clients together; at least 1.
        on: the name of the server; "" for the target of the step.

    Raises:
        ScheduleError: an argument is invalid.
    """
    return Trigger("statement", n, verb=verb, server=on)


def after_heal(*, operations: int | None = None, seconds: float | None = None) -> Trigger:
    """Strike a number of operations, or of seconds, after the last heal in the episode. Without arguments, at once."""
    if operations is not None and seconds is not None:
        raise ScheduleError("after_heal: takes operations or seconds, not both")
    if seconds is not None:
        return Trigger("after_heal", seconds, "seconds")
    return Trigger("after_heal", 0 if operations is None else operations, "operations")


def touched(n: int = 1) -> Trigger:
    """Heal as soon as the strike has affected `n` connections, bytes, commands or processes, and at the end at the latest."""
    return Trigger("touched", n)


def end() -> Trigger:
    """Heal at the end of the episode's work."""
    return Trigger("end")


def checked_count(name: str, value: object, *, least: int, most: int = MAX_OPERATIONS) -> int:
    """Return an integer within limits.

    Raises:
        ScheduleError: `value` is something else. The message begins with the name.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ScheduleError(f"{name}: must be an integer from {least} to {most}, got {value!r}")
    return value


def checked_seconds(name: str, value: object) -> float:
    """Return a duration as a float.

    Raises:
        ScheduleError: `value` is no number of 0 or more. The message begins with the name.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
        raise ScheduleError(f"{name}: must be seconds of 0 or more, got {value!r}")
    return float(value)
