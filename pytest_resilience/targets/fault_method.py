"""Make a target's method from a fault, so that a fault has one signature and one docstring."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

from ..faults.fault import Fault, Strike

Settings = ParamSpec("Settings")


def fault_method(kind: Callable[Settings, Fault]) -> Callable[Concatenate[Any, Settings], Strike]:
    """Return a method that strikes its target with a fault of this kind.

    The method takes the settings of the fault and has its docstring. Type checkers see its parameters.

    Args:
        kind: a class of faults.
    """
    signature = inspect.signature(kind)

    @functools.wraps(kind, updated=())
    def strike(self: Any, /, *args: Settings.args, **kwargs: Settings.kwargs) -> Strike:
        __tracebackhide__ = True
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}(): {error}") from None
        strike: Strike = self.inject(kind(*args, **kwargs))
        return strike

    name = strike.__name__ = getattr(kind, "name")  # noqa: B009  # Callable has no such attribute for mypy
    strike.__qualname__ = name
    this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    parameters = [this, *signature.parameters.values()]
    setattr(strike, "__signature__", signature.replace(parameters=parameters, return_annotation=Strike))  # noqa: B010
    return strike
