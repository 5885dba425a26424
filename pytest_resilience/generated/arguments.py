"""The arguments that Hypothesis has drawn for a test: which of them they are, and what identifies them."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import SetupError
from ..schedule import Schedule

ADDRESS = " at 0x"  # in the repr of an object that has none of its own


def users_function(test: Any) -> Callable[..., Any]:
    """Return the function that the user has decorated with `@given`, or one that wraps it and shows its signature."""
    inner: Callable[..., Any] = test.hypothesis.inner_test
    original: Callable[..., Any] = getattr(inner, "_anyio_original_func", inner)
    return original  # anyio's wrapper has neither its signature nor its source


def drawn_parameters(test: Any) -> list[str]:
    """Return the names of the parameters that Hypothesis draws for a test, in order.

    Args:
        test: the function that pytest calls, whose parameters are the fixtures and those of `parametrize`.
    """
    given = inspect.signature(test).parameters
    own = [*inspect.signature(users_function(test)).parameters][1 if inspect.ismethod(test) else 0 :]
    return [name for name in own if name not in given]


def drawn_arguments(test: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the drawn ones among the arguments of a test.

    Args:
        test: the function that pytest calls.
        arguments: all arguments of the function that the user wrote.

    Raises:
        SetupError: one of them draws while the system runs.
    """
    drawn = {name: arguments[name] for name in drawn_parameters(test) if name in arguments}
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
