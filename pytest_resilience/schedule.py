"""Schedules: plain data that says which fault strikes when, and when it heals.

    Schedule([Episode([Step("redis.refuse", at=operations(3), until=touched(1))], operations=12)])

A schedule is one to four episodes from a freshly started service. An episode is work with strikes among it, after which
everything heals and the liveness phase runs. `repr` is valid Python, and JSON is the form for files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from .errors import ScheduleError, SetupError
from .faults import FAULTS, Fault
from .wording import did_you_mean

Made = TypeVar("Made")

VERSION = 1  # of the JSON form
MAX_EPISODES = 4
MAX_OPERATIONS = 100_000  # of one episode
CANCEL = "client.cancel"  # cancels the operations in flight of clients in this process; the only fault of the target "client"
TARGET_KINDS = ("postgres", "redis", "service")


@dataclass(frozen=True, repr=False)
class Trigger:
    """The moment of a strike or a heal.

    Args:
        kind: "operations", "seconds", "connections", "after_heal", "touched" or "end".
        value: the number that the kind takes; None for "end".
        unit: of the value of "after_heal": "operations" or "seconds"; "" otherwise.
    """

    kind: str
    value: float | None = None
    unit: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the trigger as a schedule's JSON has it, such as {"operations": 3}."""
        if self.kind == "after_heal":
            return {"after_heal": {self.unit: self.value}}
        return {self.kind: True if self.value is None else self.value}

    def __repr__(self) -> str:
        if self.kind == "after_heal":
            return f"after_heal({self.unit}={self.value!r})"
        return f"{self.kind}({'' if self.value is None else repr(self.value)})"


def operations(n: int) -> Trigger:
    """Strike before operation `n` of the episode, from 0 on. As `until`: heal after `n` operations since the strike."""
    return Trigger("operations", _count("operations", n, least=0))


def seconds(s: float) -> Trigger:
    """Strike `s` seconds after the episode began. As `until`: heal `s` seconds after the strike."""
    return Trigger("seconds", _number("seconds", s))


def connections(n: int) -> Trigger:
    """Strike as soon as the target's proxy has accepted `n` connections in the episode. For strikes at a wire event."""
    return Trigger("connections", _count("connections", n, least=1))


def after_heal(*, operations: int | None = None, seconds: float | None = None) -> Trigger:
    """Strike a number of operations, or of seconds, after the last heal in the episode. Without arguments, at once."""
    if operations is not None and seconds is not None:
        raise ScheduleError("after_heal takes operations or seconds, not both")
    if seconds is not None:
        return Trigger("after_heal", _number("after_heal.seconds", seconds), "seconds")
    return Trigger("after_heal", _count("after_heal.operations", operations or 0, least=0), "operations")


def touched(n: int = 1) -> Trigger:
    """Heal as soon as the strike has affected `n` connections, bytes, commands or processes, and at the end at the latest."""
    return Trigger("touched", _count("touched", n, least=1))


def end() -> Trigger:
    """Heal at the end of the episode's work."""
    return Trigger("end")


STRIKE_TRIGGERS = ("operations", "seconds", "connections", "after_heal")
HEAL_TRIGGERS = ("operations", "seconds", "touched", "end")


@dataclass(frozen=True, repr=False)
class Step:
    """One strike of an episode.

    Args:
        fault: target and fault, such as "redis.refuse", or "client.cancel".
        settings: the settings of the fault.
        at: when it strikes: `operations`, `seconds`, `connections` or `after_heal`.
        until: when it heals: `operations`, `seconds`, `touched` or `end`.

    Raises:
        ScheduleError: there is no such fault, it never heals, a setting does not fit, or a trigger is misplaced. The error
            has the path to the field.
    """

    fault: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    at: Trigger = Trigger("operations", 0)
    until: Trigger = Trigger("touched", 1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", dict(self.settings))
        self._check_trigger("at", self.at, STRIKE_TRIGGERS)
        self._check_trigger("until", self.until, HEAL_TRIGGERS)
        target, _, name = self.fault.partition(".")
        if target == "client":
            if self.fault != CANCEL or self.settings:
                raise ScheduleError(f"fault: the only fault of clients is {CANCEL!r}, without settings")
            return
        kind = FAULTS.get(name)
        if kind is None:
            raise ScheduleError(f"fault: no fault named {self.fault!r}{did_you_mean(name, FAULTS)}")
        if target in TARGET_KINDS and target not in kind.targets:
            raise ScheduleError(f"fault: {name} does not strike {target}; it strikes {', '.join(kind.targets)}")
        if not kind.heals:
            raise ScheduleError(f"fault: {self.fault} never heals, so no schedule may have it")
        self.to_fault()

    @staticmethod
    def _check_trigger(name: str, trigger: object, allowed: tuple[str, ...]) -> None:
        if not isinstance(trigger, Trigger):
            raise ScheduleError(f"{name}: must be a trigger such as {allowed[0]}(1), got {trigger!r}")
        if trigger.kind not in allowed:
            raise ScheduleError(f"{name}: must be one of {', '.join(allowed)}, got {trigger!r}")

    def to_fault(self) -> Fault:
        """Return the fault with its settings.

        Raises:
            ScheduleError: a setting does not fit.
        """
        name = self.fault.partition(".")[2]
        try:
            settings = {key: tuple(v) if isinstance(v, list) else v for key, v in self.settings.items()}
            return FAULTS[name](**settings)
        except (TypeError, SetupError) as error:
            raise ScheduleError(f"settings: {error}") from None

    @property
    def target(self) -> str:
        """The name of the target, such as "redis"."""
        return self.fault.partition(".")[0]

    def to_json(self) -> dict[str, Any]:
        """Return the step as plain data."""
        return {
            "fault": self.fault,
            "settings": dict(sorted(self.settings.items())),
            "at": self.at.to_json(),
            "until": self.until.to_json(),
        }

    def __hash__(self) -> int:
        return hash((self.fault, json.dumps(self.to_json(), sort_keys=True, default=str)))

    def __repr__(self) -> str:
        settings = f", {dict(sorted(self.settings.items()))!r}" if self.settings else ""
        return f"Step({self.fault!r}{settings}, at={self.at!r}, until={self.until!r})"


@dataclass(frozen=True, repr=False)
class Episode:
    """Work with strikes among it.

    Args:
        steps: the strikes.
        operations: the number of operations of all clients together.
    """

    steps: tuple[Step, ...] = ()
    operations: int = 12

    def __init__(self, steps: Iterable[Step] = (), operations: int = 12) -> None:
        object.__setattr__(self, "steps", tuple(steps))
        object.__setattr__(self, "operations", _count("operations", operations, least=1, most=MAX_OPERATIONS))
        for index, step in enumerate(self.steps):
            if not isinstance(step, Step):
                raise ScheduleError(f"steps[{index}]: must be a Step, got {step!r}")

    def to_json(self) -> dict[str, Any]:
        """Return the episode as plain data."""
        return {"operations": self.operations, "steps": [step.to_json() for step in self.steps]}

    def __repr__(self) -> str:
        return f"Episode([{', '.join(map(repr, self.steps))}], operations={self.operations})"


@dataclass(frozen=True, repr=False)
class Schedule:
    """One to four episodes from a freshly started service.

    Args:
        episodes: the episodes.
    """

    episodes: tuple[Episode, ...]

    def __init__(self, episodes: Iterable[Episode]) -> None:
        object.__setattr__(self, "episodes", tuple(episodes))
        if not 1 <= len(self.episodes) <= MAX_EPISODES:
            raise ScheduleError(f"episodes: a schedule has 1 to {MAX_EPISODES}, got {len(self.episodes)}")
        for index, episode in enumerate(self.episodes):
            if not isinstance(episode, Episode):
                raise ScheduleError(f"episodes[{index}]: must be an Episode, got {episode!r}")

    @property
    def steps(self) -> list[Step]:
        """The steps of all episodes, in order."""
        return [step for episode in self.episodes for step in episode.steps]

    def to_json(self) -> dict[str, Any]:
        """Return the schedule as plain data."""
        return {"version": VERSION, "episodes": [episode.to_json() for episode in self.episodes]}

    def dumps(self) -> str:
        """Return the schedule as JSON, one step a line, so that two of them can be compared."""
        lines = ["{", f'  "version": {VERSION},', '  "episodes": [']
        for episode in self.episodes:
            steps = [f"      {json.dumps(step.to_json())}" for step in episode.steps]
            lines += [f'    {{"operations": {episode.operations}, "steps": [', ",\n".join(steps), "    ]},"]
        lines[-1] = lines[-1].removesuffix(",")
        return "\n".join(line for line in [*lines, "  ]", "}"] if line) + "\n"

    @classmethod
    def loads(cls, text: str) -> Schedule:
        """Return the schedule of a JSON text. A replay file is one, too.

        Raises:
            ScheduleError: the text is no JSON, has an unknown field, or names a fault that is impossible. The message begins
                with the path to the field, such as "episodes[0].steps[1].at".
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ScheduleError(f"not JSON: {error}") from None
        return _schedule(data)

    @classmethod
    def load(cls, path: str | Path) -> Schedule:
        """Return the schedule of a JSON file.

        Raises:
            ScheduleError: as for `loads`, with the path of the file.
            OSError: the file can't be read.
        """
        try:
            return cls.loads(Path(path).read_text(encoding="utf-8"))
        except ScheduleError as error:
            raise ScheduleError(f"{path}: {error}") from None

    def __repr__(self) -> str:
        return f"Schedule([{', '.join(map(repr, self.episodes))}])"


EXTRA_FIELDS = ("arguments", "found")  # of a replay file beside the schedule


def _schedule(data: object) -> Schedule:
    """Return the schedule of plain data, with the path to the field in every error."""
    fields = _fields(data, "", required=("version", "episodes"), optional=EXTRA_FIELDS)
    if fields["version"] != VERSION:
        raise ScheduleError(f"version: this release reads version {VERSION}, got {fields['version']!r}")
    return Schedule([_episode(each, f"episodes[{i}]") for i, each in enumerate(_list(fields["episodes"], "episodes"))])


def _episode(data: object, path: str) -> Episode:
    fields = _fields(data, path, optional=("operations", "steps"))
    steps = [
        _step(each, f"{path}.steps[{i}]") for i, each in enumerate(_list(fields.get("steps", []), f"{path}.steps"))
    ]
    return _at(path, lambda: Episode(steps, fields.get("operations", 12)))


def _step(data: object, path: str) -> Step:
    fields = _fields(data, path, required=("fault",), optional=("settings", "at", "until"))
    settings = _fields(fields.get("settings", {}), f"{path}.settings", any_field=True)
    at = _trigger(fields.get("at", {"operations": 0}), f"{path}.at")
    until = _trigger(fields.get("until", {"touched": 1}), f"{path}.until")
    if not isinstance(fields["fault"], str):
        raise ScheduleError(f"{path}.fault: must be text, got {fields['fault']!r}")
    return _at(path, lambda: Step(fields["fault"], settings, at, until))


def _trigger(data: object, path: str) -> Trigger:
    """Return the trigger of an object with one field, such as {"operations": 3}."""
    makers: dict[str, Callable[[Any], Trigger]] = {
        "operations": operations,
        "seconds": seconds,
        "connections": connections,
        "touched": touched,
        "end": lambda _: end(),
        "after_heal": lambda value: after_heal(
            **_fields(value, f"{path}.after_heal", optional=("operations", "seconds"))
        ),
    }
    fields = _fields(data, path, optional=tuple(makers))
    if len(fields) != 1:
        raise ScheduleError(f"{path}: must have one of {', '.join(makers)}, got {data!r}")
    ((kind, value),) = fields.items()
    return _at(path, lambda: makers[kind](value))


def _fields(
    data: object,
    path: str,
    *,
    required: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
    any_field: bool = False,
) -> dict[str, Any]:
    """Return an object's fields.

    Raises:
        ScheduleError: `data` is no object, lacks a required field or has an unknown one.
    """
    if not isinstance(data, dict):
        raise ScheduleError(f"{path or 'schedule'}: must be an object, got {data!r}")
    prefix = f"{path}." if path else ""
    known = (*required, *optional)
    for name in data:
        if not any_field and name not in known:
            raise ScheduleError(
                f"{prefix}{name}: unknown field{did_you_mean(name, known)}; there are: {', '.join(known)}"
            )
    for name in required:
        if name not in data:
            raise ScheduleError(f"{prefix}{name}: missing")
    return data


def _list(data: object, path: str) -> list[Any]:
    if not isinstance(data, list):
        raise ScheduleError(f"{path}: must be a list, got {data!r}")
    return data


def _at(path: str, make: Callable[[], Made]) -> Made:
    """Return what `make` returns, with the path before the message of an error."""
    try:
        return make()
    except ScheduleError as error:
        text = str(error)
        if text.startswith(path):
            raise
        raise ScheduleError(f"{path}.{text}") from None


def _count(name: str, value: object, *, least: int, most: int = MAX_OPERATIONS) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ScheduleError(f"{name}: must be an integer from {least} to {most}, got {value!r}")
    return value


def _number(name: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
        raise ScheduleError(f"{name}: must be seconds of 0 or more, got {value!r}")
    return float(value)
