"""The system of a play with the servers of a stack and a service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from ..errors import ScheduleError, SetupError
from ..faults import FAULTS
from ..faults.fault import Strike
from ..faults.statements import WATCH, InstalledRule, On
from ..history import History
from ..schedule import CANCEL, Schedule, Step
from ..stack import Stack
from ..targets.server import RedisTarget
from ..targets.service import RunningService
from ..wording import did_you_mean
from .system import ReadyAnswer, StatementWatch


class StackSystem:
    """The targets of one test.

    Args:
        resilience: the object that workloads get.
        stack: the servers.
        running: the service; None without one.
        history: the history that records the play.
        target: returns a target by its name.
    """

    def __init__(
        self,
        resilience: Any,
        *,
        stack: Stack,
        running: RunningService | None,
        history: History,
        target: Callable[[str], Any],
    ) -> None:
        self.history = history
        self._resilience = resilience
        self._stack = stack
        self._running = running
        self._target = target

    @property
    def resilience(self) -> Any:
        """The object that workloads get."""
        return self._resilience

    @property
    def has_service(self) -> bool:
        """True if there is a service with a readiness path."""
        return self._running is not None and self._running.answers_http

    @property
    def targets(self) -> list[str]:
        """The names of the servers and TCP systems."""
        return list(self._stack.proxied_targets)

    def strike(self, step: Step) -> Strike:
        """Inject the fault of a step now."""
        strike = step.to_fault().strike(self._target(step.target))
        strike.is_drawn = True
        return strike

    def connections(self, target: str) -> int | None:
        """Return the number of connections that a server's proxy has accepted and refused. It is None for a target without a proxy."""
        server = self._stack.proxied_targets.get(target)
        if server is None:
            return None
        try:
            counters = server.proxy_handle.counters()
        except Exception:  # noqa: BLE001  # the proxy has ended, which the check of the backend reports
            return None
        refused = counters.refused.connections if counters.refused is not None else 0
        return counters.accepted.connections + refused

    def watch_statements(self, target: str, verb: str) -> StatementWatch | None:
        """Count the statements or commands of a server from now on. Return None where its proxy reads none."""
        server = self._stack.targets.get(target)
        if server is None or server.unsupported(On.name):
            return None
        return _Watch(InstalledRule(server, On(verb, WATCH)))

    def open_connections(self, target: str) -> int | None:
        """Return the number of connections that a server's proxy has open. It is None where the proxy does not list them."""
        try:
            return len(self._stack.proxied_targets[target].proxy_handle.clients())
        except Exception:  # noqa: BLE001  # a real Toxiproxy, or the proxy has ended
            return None

    def counters(self, target: str) -> object:
        """Return the counters of a server's proxy without the moment of their reading."""
        return replace(self._stack.proxied_targets[target].proxy_handle.counters(), now=0.0)

    def commands(self, target: str) -> int | None:
        """Return the number of commands that a Redis has executed. None for a Postgres (late counters) and a TCP system."""
        server = self._stack.proxied_targets.get(target)
        if not isinstance(server, RedisTarget):
            return None
        try:
            return int(server.admin.client.info("stats")["total_commands_processed"])
        except Exception:  # noqa: BLE001  # the server does not answer, or hides its counters
            return None

    def ready(self, within: float) -> ReadyAnswer:
        """Request the readiness path of the service once."""
        assert self._running is not None
        try:
            return ReadyAnswer(self._running.ready_status(within))
        except OSError as error:
            return ReadyAnswer(None, type(error).__name__)


class _Watch:
    """A rule of a proxy that only counts."""

    def __init__(self, rule: InstalledRule) -> None:
        self._rule = rule

    def count(self) -> int | None:
        """Return the number of statements since the watch began. It is None if the proxy does not answer."""
        try:
            return self._rule.count().matched
        except Exception:  # noqa: BLE001  # the proxy has ended, which the check of the backend reports
            return None

    def close(self) -> None:
        """Remove the rule."""
        self._rule.remove()


def check_targets(schedule: Schedule, kinds: dict[str, str]) -> None:
    """Check that every step names a target of this test, and a fault that strikes its kind.

    Args:
        schedule: the schedule.
        kinds: "postgres", "redis", "tcp" or "service" by the names of the targets.

    Raises:
        ScheduleError: a step does not, or its settings do not fit; the message has the path to its field.
    """
    for path, step in _steps(schedule):
        if step.fault == CANCEL:
            continue
        kind = kinds.get(step.target)
        if kind is None:
            hint = did_you_mean(step.target, kinds)
            raise ScheduleError(f"{path}.fault: no target named {step.target!r}{hint}; there are: {', '.join(kinds)}")
        _check_trigger(path, step, kinds)
        name = step.fault.partition(".")[2]
        if kind not in FAULTS[name].targets:
            raise ScheduleError(
                f"{path}.fault: {step.target} is a {kind}, and {name} strikes {', '.join(FAULTS[name].targets)}"
            )
        try:
            step.to_fault().check_kind(kind)
        except SetupError as error:
            raise ScheduleError(f"{path}.settings: {step.fault}: {error}") from None


def _check_trigger(path: str, step: Step, kinds: dict[str, str]) -> None:
    """Check that a trigger by statements names a server."""
    server = step.at.server or step.target
    if step.at.kind == "statement" and kinds.get(server) not in ("postgres", "redis"):
        servers = [name for name, kind in kinds.items() if kind in ("postgres", "redis")]
        raise ScheduleError(
            f"{path}.at.statement.on: no server named {server!r}{did_you_mean(server, servers)}; there are: {', '.join(servers)}"
        )


def _steps(schedule: Schedule) -> Iterator[tuple[str, Step]]:
    for i, episode in enumerate(schedule.episodes):
        for j, step in enumerate(episode.steps):
            yield f"episodes[{i}].steps[{j}]", step
