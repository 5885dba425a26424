"""Replay files: a schedule that broke a promise, with what it broke and the other arguments of its test.

    {"version": 1, "episodes": [...], "arguments": {"size": 3}, "found": {"test": "test_shop.py::test_it", ...}}

`episodes` is missing if the test draws no schedule, and `arguments` if it draws nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .errors import ScheduleError
from .redaction import scrubbed
from .schedule import VERSION, Schedule
from .wording import listed

DEFAULT_PLAYS = 10
INDENT = "  "


class Replay(NamedTuple):
    """The contents of a replay file.

    Args:
        schedule: the schedule; None for none.
        arguments: the other drawn arguments by name.
        found: test, seed, promise, argument (the name of the schedule's), reproduced, versions, and `lost`: the arguments that
            are no JSON, as text.
    """

    schedule: Schedule | None
    arguments: Mapping[str, Any]
    found: Mapping[str, Any]

    def dumps(self) -> str:
        """Return the JSON text."""
        schedule = self.schedule.dumps() if self.schedule is not None else f'{{\n{INDENT}"version": {VERSION}\n}}\n'
        extra = {"arguments": self.arguments, "found": self.found}
        fields = [f'{INDENT}"{name}": {_indented(value)}' for name, value in extra.items() if value]
        return scrubbed(",\n".join([schedule.rstrip().removesuffix("}").rstrip(), *fields])) + "\n}\n"

    @classmethod
    def load(cls, path: Path) -> Replay:
        """Return the contents of a file.

        Raises:
            ScheduleError: it is missing or malformed; the message has the path of the file and of the field.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(data, dict):
                raise ScheduleError(f"must be an object, got {data!r}")
            arguments, found = data.pop("arguments", {}), data.pop("found", {})
            for name, value in ("arguments", arguments), ("found", found):
                if not isinstance(value, dict):
                    raise ScheduleError(f"{name}: must be an object, got {value!r}")
            only_arguments = data == {"version": VERSION} and arguments
            return cls(None if only_arguments else Schedule.loads(json.dumps(data)), arguments, found)
        except OSError as error:
            raise ScheduleError(f"{path}: {error.strerror or error}") from None
        except (ValueError, ScheduleError) as error:
            what = "not JSON: " if isinstance(error, ValueError) else ""
            raise ScheduleError(f"{path}: {what}{error}") from None

    def arguments_for(self, names: list[str]) -> dict[str, Any]:
        """Return the arguments of a test that draws arguments with these names.

        Raises:
            ScheduleError: one is missing, one is unknown, or one could not be saved.
        """
        arguments = dict(self.arguments)
        if self.schedule is not None:
            others = [name for name in names if name not in arguments]
            arguments[self.found.get("argument") or (others[0] if len(others) == 1 else "schedule")] = self.schedule
        missing = [name for name in names if name not in arguments]
        unknown = [name for name in arguments if name not in names]
        if lost := [name for name in missing if name in self.found.get("lost", {})]:
            raise ScheduleError(
                f"{listed('arguments', map(repr, lost))} can't be replayed: no JSON stands for the value"
            )
        if missing:
            raise ScheduleError(
                f"the test draws {listed('arguments', map(repr, missing))}, which the file does not have"
            )
        if unknown:
            raise ScheduleError(f"the file has {listed('arguments', map(repr, unknown))}, which the test does not draw")
        return arguments


def replay_of(arguments: Mapping[str, Any], found: Mapping[str, Any]) -> Replay:
    """Return the replay of drawn arguments.

    Args:
        arguments: the arguments by name. The first schedule among them is the schedule of the file.
        found: the other facts.
    """
    name = next((name for name, value in arguments.items() if isinstance(value, Schedule)), None)
    others = {key: value for key, value in arguments.items() if key != name}
    lost = {key: repr(value) for key, value in others.items() if not _is_json(value)}
    kept = {key: value for key, value in others.items() if key not in lost}
    extra = ({"argument": name} if name is not None else {}) | ({"lost": lost} if lost else {})
    return Replay(arguments[name] if name is not None else None, kept, {**found, **extra})


def parse_replay_option(text: str) -> tuple[Path, int]:
    """Return the file and the number of plays of the option's value, FILE or FILE:N.

    Raises:
        ScheduleError: N is 0.
    """
    file, _, number = text.rpartition(":")
    if not (file and number.isascii() and number.isdigit()):
        return Path(text), DEFAULT_PLAYS
    if int(number) == 0:
        raise ScheduleError(f"{text}: the number of plays must be 1 or more")
    return Path(file), int(number)


def _is_json(value: Any) -> bool:
    """True if JSON gives an equal value of one type back, down to the items of lists."""
    try:
        return repr(json.loads(json.dumps(value))) == repr(value)
    except (TypeError, ValueError):
        return False


def _indented(value: Any) -> str:
    return json.dumps(value, indent=len(INDENT), default=str).replace("\n", f"\n{INDENT}")
