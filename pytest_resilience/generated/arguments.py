"""The arguments that Hypothesis has drawn for a test: which of them they are, and what identifies them."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import SetupError
from ..schedule import Schedule

ADDRESS = " at 0x"  # in the repr of an object that has none of its own


def drawn_parameters(test: Any) -> list[str]:
    """Return the names of the parameters that Hypothesis draws for a test, in order."""
    given = inspect.signature(test).parameters
    own = inspect.signature(test.hypothesis.inner_test).parameters
    return [name for name in own if name not in given and name != "self"]


def drawn_arguments(test: Callable[..., Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """Return the drawn ones among the arguments of a test.

    Args:
        test: the function that pytest calls, whose parameters are the fixtures and those of `parametrize`.
        names: all arguments of the function that the user wrote.

    Raises:
        SetupError: one of them draws while the system runs.
    """
    given = inspect.signature(test).parameters
    drawn = {name: value for name, value in names.items() if name not in given}
    for name, value in drawn.items():
        if type(value).__name__ == "DataObject":
            raise SetupError(
                f"{name}: a generated test draws all arguments before its system runs, because equal arguments must have one "
                "verdict; st.data() draws while it runs. Draw with @st.composite in place of it"
            )
    return drawn


def key_of(arguments: Mapping[str, Any], choices: object = None) -> str:
    """Return the text that identifies drawn arguments.

    Args:
        arguments: the arguments by name.
        choices: identifies arguments with a `repr` that differs between equal ones.
    """
    texts = [f"{name}={text_of(value)}" for name, value in sorted(arguments.items())]
    key = "\n".join(texts)
    return f"choices={choices!r}" if ADDRESS in key and choices is not None else key


def text_of(value: object) -> str:
    """Return a schedule as JSON, and the `repr` of anything else."""
    return value.dumps() if isinstance(value, Schedule) else repr(value)


def digest_of(arguments: Mapping[str, Any]) -> str:
    """Return the SHA-256 of drawn arguments, that of the schedule if they are one."""
    values = list(arguments.values())
    is_schedule = len(values) == 1 and isinstance(values[0], Schedule)
    return hashlib.sha256((text_of(values[0]) if is_schedule else key_of(arguments)).encode()).hexdigest()
