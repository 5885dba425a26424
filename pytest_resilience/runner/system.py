"""The system under test, as far as the runner needs it."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from ..faults.fault import Strike
from ..history import History
from ..schedule import Step


class ReadyAnswer(NamedTuple):
    """One answer of the readiness path.

    Args:
        status: the status; None without an answer.
        error: why there is no answer; None with one.
    """

    status: int | None
    error: str | None = None


class StatementWatch(Protocol):
    """A count of statements or commands that clients send."""

    def count(self) -> int | None:
        """Return their number since the watch began. It is None if the proxy does not answer."""

    def close(self) -> None:
        """Stop counting."""


class System(Protocol):
    """The targets of one test and its history.

    Attributes:
        history: the history that records the play.
        has_service: True if there is a service with a readiness path.
    """

    history: History

    @property
    def has_service(self) -> bool: ...

    @property
    def resilience(self) -> Any:
        """The object that workloads get."""

    @property
    def targets(self) -> list[str]:
        """The names of the servers."""

    def strike(self, step: Step) -> Strike:
        """Inject the fault of a step now."""

    def connections(self, target: str) -> int | None:
        """Return the number of connections that a server's proxy has accepted and refused. It is None for a target without a proxy."""

    def watch_statements(self, target: str, verb: str) -> StatementWatch | None:
        """Count the statements or commands of a server from now on. Return None where its proxy reads none."""

    def open_connections(self, target: str) -> int | None:
        """Return the number of connections that a server's proxy has open. It is None where the proxy does not list them."""

    def counters(self, target: str) -> object:
        """Return the counters of a server's proxy. Equal ones mean that nothing has passed in between."""

    def commands(self, target: str) -> int | None:
        """Return the number of commands or transactions that a server has executed. It is None if that is unknown or not cheap."""

    def ready(self, within: float) -> ReadyAnswer:
        """Request the readiness path of the service once.

        Args:
            within: seconds to wait for the answer.
        """
