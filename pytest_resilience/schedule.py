"""Schedules: plain data that says which fault strikes when, and when it heals.

    Schedule([Episode([Step("redis.refuse", at=operations(3), until=touched(1))], operations=12)])

A schedule is one to four episodes from a freshly started service. An episode is work with strikes among it, after which
everything heals and the liveness phase runs. `repr` is valid Python, and JSON is the form for files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from . import json_fields
from .errors import ScheduleError
from .faults import Fault
from .step_faults import CANCEL, TARGET_KINDS, checked_fault
from .triggers import (
    HEAL_TRIGGERS,
    MAX_OPERATIONS,
    STRIKE_TRIGGERS,
    TRIGGERS,
    Trigger,
    after_heal,
    checked_count,
    connections,
    end,
    operations,
    seconds,
    statement,
    touched,
)

__all__ = [
    "CANCEL",
    "MAX_EPISODES",
    "MAX_OPERATIONS",
    "TARGET_KINDS",
    "VERSION",
    "Episode",
    "Schedule",
    "Step",
    "Trigger",
    "after_heal",
    "connections",
    "end",
    "operations",
    "seconds",
    "statement",
    "touched",
]

VERSION = 1  # of the JSON form
MAX_EPISODES = 4
AT_ONCE, WHEN_TOUCHED = operations(0), touched(1)
REPLAY_FIELDS = ("arguments", "found", "test")  # of a replay file beside the schedule


@dataclass(frozen=True, repr=False)
class Step:
    """One strike of an episode.

    Args:
        fault: target and fault, such as "redis.refuse", or "client.cancel".
        settings: the settings of the fault. They can't be changed later, and lists become tuples.
        at: when it strikes: `operations`, `seconds`, `connections`, `statement` or `after_heal`.
        until: when it heals: `operations`, `seconds`, `touched` or `end`.

    Raises:
        ScheduleError: there is no such fault, it never heals, a setting does not fit, or a trigger is misplaced. The message begins with
            the path to the field.
    """

    fault: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    at: Trigger = AT_ONCE
    until: Trigger = WHEN_TOUCHED

    def __post_init__(self) -> None:
        if not isinstance(self.settings, Mapping):
            raise ScheduleError(f"settings: must be a mapping, got {self.settings!r}")
        frozen = {str(name): tuple(v) if isinstance(v, list) else v for name, v in self.settings.items()}
        object.__setattr__(self, "settings", MappingProxyType(frozen))
        self._check_trigger("at", self.at, STRIKE_TRIGGERS)
        self._check_trigger("until", self.until, HEAL_TRIGGERS)
        checked_fault(self.fault, frozen)

    @staticmethod
    def _check_trigger(name: str, trigger: object, allowed: tuple[str, ...]) -> None:
        if not isinstance(trigger, Trigger):
            raise ScheduleError(f"{name}: must be a trigger such as {allowed[0]}(1), got {trigger!r}")
        if trigger.kind not in allowed:
            raise ScheduleError(f"{name}: must be one of {', '.join(allowed)}, got {trigger!r}")

    def to_fault(self) -> Fault:
        """Return the fault with its settings.

        Raises:
            ScheduleError: the step is a cancellation, which is no fault of a target.
        """
        fault = checked_fault(self.fault, self.settings)
        if fault is None:
            raise ScheduleError(f"fault: {self.fault} cancels operations and has no fault of a target")
        return fault

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
        return hash((self.fault, tuple(sorted(self.settings.items())), self.at, self.until))

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the parts for pickle and copy, which can't handle a read-only mapping."""
        return Step, (self.fault, dict(self.settings), self.at, self.until)

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
        object.__setattr__(self, "steps", _tuple("steps", steps))
        object.__setattr__(self, "operations", checked_count("operations", operations, least=1))
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
        object.__setattr__(self, "episodes", _tuple("episodes", episodes))
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
        lines.append(",\n".join(_episode_text(episode) for episode in self.episodes))
        return "\n".join([*lines, "  ]", "}"]) + "\n"

    @classmethod
    def loads(cls, text: str) -> Schedule:
        """Return the schedule of a JSON text. A replay file has one too.

        Raises:
            ScheduleError: the text is no JSON, has an unknown field, or names a fault that is impossible. The message begins
                with the path to the field, such as "episodes[0].steps[1].at".
        """
        return _schedule(json_fields.parse(text))

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


def _tuple(name: str, values: object) -> tuple[Any, ...]:
    if not isinstance(values, Iterable) or isinstance(values, str):
        raise ScheduleError(f"{name}: must be a list, got {values!r}")
    return tuple(values)


def _episode_text(episode: Episode) -> str:
    begin = f'    {{"operations": {episode.operations}, "steps": ['
    if not episode.steps:
        return f"{begin}]}}"
    steps = ",\n".join(f"      {json.dumps(step.to_json())}" for step in episode.steps)
    return f"{begin}\n{steps}\n    ]}}"


def _schedule(data: object) -> Schedule:
    """Return the schedule of plain data, with the path to the field in every error."""
    found = json_fields.any_fields(data, "")
    if "version" in found and (found["version"] != VERSION or isinstance(found["version"], bool)):
        raise ScheduleError(f"version: this release reads version {VERSION}, got {found['version']!r}")
    json_fields.fields(data, "", required=("version", "episodes"), optional=REPLAY_FIELDS)
    episodes = json_fields.items(found["episodes"], "episodes")
    return Schedule([_episode(each, f"episodes[{i}]") for i, each in enumerate(episodes)])


def _episode(data: object, path: str) -> Episode:
    found = json_fields.fields(data, path, optional=("operations", "steps"))
    every = json_fields.items(found.get("steps", []), f"{path}.steps")
    steps = [_step(each, f"{path}.steps[{i}]") for i, each in enumerate(every)]
    return json_fields.at(path, lambda: Episode(steps, found.get("operations", 12)))


def _step(data: object, path: str) -> Step:
    found = json_fields.fields(data, path, required=("fault",), optional=("settings", "at", "until"))
    settings = json_fields.any_fields(found.get("settings", {}), f"{path}.settings")
    at = _trigger(found.get("at", {"operations": 0}), f"{path}.at")
    until = _trigger(found.get("until", {"touched": 1}), f"{path}.until")
    return json_fields.at(path, lambda: Step(found["fault"], settings, at, until))


def _trigger(data: object, path: str) -> Trigger:
    """Return the trigger of an object with one field, such as {"operations": 3}."""
    found = json_fields.fields(data, path, optional=TRIGGERS)
    if len(found) != 1:
        raise ScheduleError(f"{path}: must have one of {', '.join(TRIGGERS)}, got {data!r}")
    ((kind, value),) = found.items()
    if kind == "end":
        if value is not True:
            raise ScheduleError(f"{path}.end: must be true, got {value!r}")
        return end()
    if kind == "statement":
        return _statement(value, path)
    if kind != "after_heal":
        return json_fields.at(path, lambda: Trigger(kind, value))
    parts = json_fields.fields(value, f"{path}.after_heal", optional=("operations", "seconds"))
    if len(parts) > 1:
        raise ScheduleError(f"{path}.after_heal: must have operations or seconds, got {value!r}")
    ((unit, number),) = parts.items() or [("operations", 0)]
    return json_fields.at(path, lambda: Trigger("after_heal", number, unit))


def _statement(data: object, path: str) -> Trigger:
    parts = json_fields.fields(data, f"{path}.statement", required=("verb",), optional=("n", "on"))
    return json_fields.at(path, lambda: statement(parts["verb"], parts.get("n", 1), on=parts.get("on", "")))
