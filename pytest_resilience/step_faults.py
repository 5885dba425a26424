"""The fault of a step, from its label and settings, with messages that name the field."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from .errors import ScheduleError, SetupError
from .faults import FAULTS, Fault
from .wording import did_you_mean

CANCEL = "client.cancel"  # cancels the operations in flight of clients in this process; the only fault of the target "client"
TARGET_KINDS = ("postgres", "redis", "service", "tcp", "mysql", "rabbitmq")

# By the annotation of a setting: the types that its value may have, and their name.
NUMBER = ((int, float), "a number")
TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "float": NUMBER,
    "float | None": ((int, float, type(None)), "a number or None"),
    "int": ((int,), "an integer"),
    "int | None": ((int, type(None)), "an integer or None"),
    "str": ((str,), "text"),
    "str | None": ((str, type(None)), "text or None"),
    "bool": ((bool,), "true or false"),
    "str | Sequence[str]": ((str, tuple), "a name or a list of names"),
}


def is_target_name(name: object) -> bool:
    """True if a name has the form of a target's: lower case letters, digits and _, 31 characters at most."""
    return re.fullmatch("[a-z][a-z0-9_]{0,30}", str(name)) is not None


def checked_fault(label: object, settings: Mapping[str, Any]) -> Fault | None:
    """Return the fault of a step, or None for `client.cancel`.

    Args:
        label: target and fault.
        settings: the settings of the fault.

    Raises:
        ScheduleError: there is no such fault, it never heals, or a setting does not fit. The message begins with "fault" or "settings".
    """
    if not isinstance(label, str):
        raise ScheduleError(f"fault: must be text, got {label!r}")
    target, _, name = label.partition(".")
    if target == "client":
        if label != CANCEL or settings:
            raise ScheduleError(f"fault: the only fault of clients is {CANCEL!r}, without settings, got {label!r}")
        return None
    _check_name(label, target, name)
    kind = FAULTS[name]
    _check_settings(label, kind, settings)
    try:
        fault = kind(**settings)
        if target in TARGET_KINDS:
            fault.check_kind(target)
        return fault
    except (TypeError, SetupError) as error:
        raise ScheduleError(f"settings: {label}: {error}") from None


def _check_name(label: str, target: str, name: str) -> None:
    if not is_target_name(target) or name not in FAULTS:
        where = f"fault: no fault named {label!r}"
        known = [each for each, kind in FAULTS.items() if target not in TARGET_KINDS or target in kind.targets]
        hint = "" if name else "; a label has target and fault, such as 'redis.refuse'"
        raise ScheduleError(f"{where}{hint or did_you_mean(name, known)}")
    if name == "after":
        raise ScheduleError(
            f"fault: a schedule has no {label}; write the fault that it starts, with a trigger such as at=statement('commit', 2)"
        )
    kind = FAULTS[name]
    if target in TARGET_KINDS and target not in kind.targets:
        raise ScheduleError(f"fault: {name} does not strike {target}; it strikes {', '.join(kind.targets)}")
    if not kind.heals:
        raise ScheduleError(f"fault: {label} never heals, so no schedule may have it")


def _check_settings(label: str, kind: type[Fault], settings: Mapping[str, Any]) -> None:
    fields = {each.name: each for each in dataclasses.fields(kind)}
    for name, value in settings.items():
        if name not in fields:
            known = f"it has: {', '.join(fields)}" if fields else "it has none"
            raise ScheduleError(f"settings.{name}: {label} has no such setting{did_you_mean(name, fields)}; {known}")
        _check_type(f"settings.{name}: {label}", str(fields[name].type), value)
    for name, each in fields.items():
        if each.default is dataclasses.MISSING and name not in settings:
            raise ScheduleError(f"settings.{name}: missing; {label} needs it")


def _check_type(where: str, annotation: str, value: object) -> None:
    types, expected = TYPES[annotation]
    fits = isinstance(value, types) and (not isinstance(value, bool) or bool in types)
    if isinstance(value, tuple):
        fits = fits and all(isinstance(each, str) for each in value)
    if not fits:
        raise ScheduleError(f"{where}: must be {expected}, got {value!r}")
