"""Resilience tests for Python services: what there is to call."""

from typing import TYPE_CHECKING, Any

from .errors import (
    BackendDied,
    BackendUnavailable,
    CannotInject,
    HealFailed,
    NeverHappened,
    NoService,
    ResilienceError,
    ServerNotReady,
    SetupError,
    UnknownFault,
    VacuousTest,
)
from .probes import eventually, recovers
from .targets.spec import Service

if TYPE_CHECKING:
    from .experiment import Resilience
    from .faults.fault import Receipt, Strike
    from .stack import Stack

__version__ = "0.1.0"

__all__ = [
    "BackendDied",
    "BackendUnavailable",
    "CannotInject",
    "HealFailed",
    "NeverHappened",
    "NoService",
    "Receipt",
    "Resilience",
    "ResilienceError",
    "ServerNotReady",
    "Service",
    "SetupError",
    "Stack",
    "Strike",
    "UnknownFault",
    "VacuousTest",
    "eventually",
    "recovers",
]

# `-p pytest_resilience` and the entry point both load this package; the hooks live on the top floor.
pytest_plugins = ("pytest_resilience.plugin",)

# Types for annotations: pytest imports this package in every run, and these draw in all the faults.
_ON_DEMAND = {"Receipt": "faults.fault", "Resilience": "experiment", "Stack": "stack", "Strike": "faults.fault"}


def __getattr__(name: str) -> Any:
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_ON_DEMAND[name]}", __name__), name)
