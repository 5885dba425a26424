"""Conditions under which a service that starts is ready."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from ..clock import Clock, wait_until
from ..wire import http
from .not_ready import describe_state

if TYPE_CHECKING:
    from ..processes import ManagedProcess
    from .service_spec import Service

INTERVAL = 0.005  # seconds between two checks of a service that starts


class Readiness(Protocol):
    """A condition of one start of a service."""

    def is_ready(self, *, any_response: bool) -> bool:
        """Check the condition once.

        Args:
            any_response: a response of any kind is enough, because another system that the service needs is struck.
        """

    def describe(self, pids: Iterable[int]) -> list[str]:
        """Return lines about the last check, for the error of a service that runs and is not ready.

        Args:
            pids: the processes of the service.
        """


class HttpReadiness:
    """The readiness path answers 2xx or 3xx.

    Args:
        spec: the description of the service.
        port: its port.
    """

    def __init__(self, spec: Service, port: int) -> None:
        self._spec = spec
        self._port = port
        self._status: int | str = "no response yet"

    def is_ready(self, *, any_response: bool) -> bool:
        try:
            self._status = self.status()
        except OSError as error:
            self._status = type(error).__name__
        return isinstance(self._status, int) and (any_response or 200 <= self._status < 400)

    def status(self, within: float = 1.0) -> int:
        """Request the path once and return the status.

        Args:
            within: seconds to wait for the connection, and again for the answer.

        Raises:
            OSError: there is no answer.
        """
        return _status(self._spec.host, self._port, self._spec.ready, within)

    def describe(self, pids: Iterable[int]) -> list[str]:
        return describe_state(self._spec, self._port, self._status, pids)


def wait_for_readiness(
    child: ManagedProcess, condition: Readiness, *, within: float, response_after: float | None, clock: Clock
) -> str | None:
    """Wait until a service is ready or has ended.

    Args:
        child: its process.
        condition: what makes it ready.
        within: seconds to wait.
        response_after: seconds after which any response is enough. None for never.
        clock: the clock for waiting.

    Returns:
        "ready", "ended", or None if neither happened in time.
    """
    begun = clock.now()

    def outcome() -> str | None:
        if child.exit_code() is not None:
            return "ended"
        any_response = response_after is not None and clock.now() - begun >= response_after
        return "ready" if condition.is_ready(any_response=any_response) and child.running else None

    return wait_until(outcome, within=within, every=INTERVAL, clock=clock)


def _status(host: str, port: int, path: str, within: float) -> int:
    """Return the status of one GET. A full client would take CPU time from the service that starts."""
    with socket.create_connection((host, port), timeout=within) as sock:
        sock.sendall(http.request("GET", path, f"{host}:{port}"))
        status = http.parse_status(sock.recv(64))
    if status is None:
        raise ConnectionError("no HTTP response")
    return status
