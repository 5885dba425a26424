"""Resilience tests for Python services."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import (
        BackendDied,
        BackendUnavailable,
        CannotInject,
        HealFailed,
        LeakedResources,
        NeverHappened,
        NoService,
        NotCancellationSafe,
        NotSteady,
        ProcessEnded,
        PromiseBroken,
        ResilienceError,
        ScheduleError,
        ServerNotReady,
        SetupError,
        UnknownFault,
        VacuousTest,
    )
    from .faults.fault import Receipt, Strike
    from .history import History
    from .leaks.compare import Leak
    from .operation import Operation, Verdict
    from .probes import eventually, recovers
    from .processes import ManagedProcess
    from .resilience import Resilience
    from .schedule import Episode, Schedule, Step
    from .stack import Stack
    from .systems.mysql.target import MysqlTarget
    from .systems.rabbitmq.target import RabbitmqTarget
    from .targets.http_stub import Answer, HttpStub, StubRequest
    from .targets.readiness import ServiceStart
    from .targets.server import PostgresTarget, RedisTarget
    from .targets.service import ServiceTarget
    from .targets.service_spec import Service
    from .targets.tcp import TcpTarget

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "BackendDied",
    "BackendUnavailable",
    "CannotInject",
    "Episode",
    "HealFailed",
    "History",
    "HttpStub",
    "Leak",
    "LeakedResources",
    "ManagedProcess",
    "MysqlTarget",
    "NeverHappened",
    "NoService",
    "NotCancellationSafe",
    "NotSteady",
    "Operation",
    "PostgresTarget",
    "ProcessEnded",
    "PromiseBroken",
    "RabbitmqTarget",
    "Receipt",
    "RedisTarget",
    "Resilience",
    "ResilienceError",
    "Schedule",
    "ScheduleError",
    "ServerNotReady",
    "Service",
    "ServiceStart",
    "ServiceTarget",
    "SetupError",
    "Stack",
    "Step",
    "Strike",
    "StubRequest",
    "TcpTarget",
    "UnknownFault",
    "VacuousTest",
    "Verdict",
    "eventually",
    "recovers",
]

# `-p pytest_resilience` loads this package, in a checkout that is not installed. The entry point names the plugin itself, because
# `pytest_plugins` makes pytest search the metadata of all installed packages.
pytest_plugins = ("pytest_resilience.plugin",)

# The modules of names that are imported at their first use, because every run of pytest imports this package. All other names are errors.
_HOMES = {
    "Answer": "targets.http_stub",
    "Episode": "schedule",
    "History": "history",
    "HttpStub": "targets.http_stub",
    "Leak": "leaks.compare",
    "ManagedProcess": "processes",
    "MysqlTarget": "systems.mysql.target",
    "Operation": "operation",
    "PostgresTarget": "targets.server",
    "RabbitmqTarget": "systems.rabbitmq.target",
    "Receipt": "faults.fault",
    "RedisTarget": "targets.server",
    "Resilience": "resilience",
    "Schedule": "schedule",
    "Service": "targets.service_spec",
    "ServiceStart": "targets.readiness",
    "ServiceTarget": "targets.service",
    "Stack": "stack",
    "Step": "schedule",
    "Strike": "faults.fault",
    "StubRequest": "targets.http_stub",
    "TcpTarget": "targets.tcp",
    "Verdict": "operation",
    "eventually": "probes",
    "recovers": "probes",
}


def __getattr__(name: str) -> Any:
    __tracebackhide__ = True
    if name not in __all__:
        from .wording import did_you_mean as _did_you_mean

        hint = _did_you_mean(name, __all__) if not name.startswith("_") else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}", name=name, obj=None)
    from importlib import import_module

    return getattr(import_module(f".{_HOMES.get(name, 'errors')}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
