"""Reading of plain data, with the path to the field in every error."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from .errors import ScheduleError
from .wording import did_you_mean

Made = TypeVar("Made")


def parse(text: str) -> object:
    """Return the data of a JSON text.

    Raises:
        ScheduleError: the text is no JSON, or an object has a field twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except ValueError as error:
        raise ScheduleError(f"not JSON: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    for name, _ in pairs:
        if sum(name == each for each, _ in pairs) > 1:
            raise ScheduleError(f"{name}: an object has this field twice")
    return found


def fields(
    data: object, path: str, *, required: tuple[str, ...] = (), optional: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return the fields of an object.

    Raises:
        ScheduleError: `data` is no object, lacks a required field or has an unknown one.
    """
    found = any_fields(data, path)
    prefix = f"{path}." if path else ""
    known = (*required, *optional)
    for name in found:
        if name not in known:
            raise ScheduleError(
                f"{prefix}{name}: unknown field{did_you_mean(name, known)}; there are: {', '.join(known)}"
            )
    for name in required:
        if name not in found:
            raise ScheduleError(f"{prefix}{name}: missing")
    return found


def any_fields(data: object, path: str) -> dict[str, Any]:
    """Return the fields of an object, which may have any names.

    Raises:
        ScheduleError: `data` is no object.
    """
    if not isinstance(data, dict):
        raise ScheduleError(f"{path or 'schedule'}: must be an object, got {data!r}")
    return data


def items(data: object, path: str) -> list[Any]:
    """Return the items of a list.

    Raises:
        ScheduleError: `data` is no list.
    """
    if not isinstance(data, list):
        raise ScheduleError(f"{path}: must be a list, got {data!r}")
    return data


def at(path: str, make: Callable[[], Made]) -> Made:
    """Return the result of `make`. Put the path before the message of its error.

    Raises:
        ScheduleError: `make` has raised it.
    """
    try:
        return make()
    except ScheduleError as error:
        raise ScheduleError(f"{path}.{error}") from None
